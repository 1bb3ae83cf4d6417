"""Numbers in the query of a URL."""

from aiohttp import web

from gateway.errors import invalid


def number(http: web.Request, name: str, default: float, low: float, high: float) -> float:
    """The number that a request gives under this name.

    Raises:
        Refusal: it is no number from `low` to `high`.
    """
    given = http.query.get(name)
    if given is None:
        return default
    try:
        value = float(given) if len(given) <= 16 else None
    except ValueError:
        value = None
    # Written so that what is no number at all is refused, too.
    if value is None or not low <= value <= high:
        raise invalid(f"{name}: a number from {low:g} to {high:g} is needed.", name)
    return value
