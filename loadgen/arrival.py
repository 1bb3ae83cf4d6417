"""One request of a workload: when it comes and how long it is. Pure."""

from typing import NamedTuple


class Arrival(NamedTuple):
    """A request to come, without its text."""

    at: float
    """Seconds after the start."""
    length: int
    """Prompt tokens."""
    output: int
    """Tokens to generate."""
