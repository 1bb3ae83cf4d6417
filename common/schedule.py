"""How the router plans: the part of its configuration that may change while it serves.

One tree, read from `[schedule]` of a preset and from the body of `POST /update`, so that both have
the same keys, the same bounds and the same names in their errors.
"""

import re
from typing import Annotated

from msgspec import Meta, Struct, ValidationError, convert, to_builtins

from common.messages import Size

Rate = Annotated[float, Meta(ge=0, lt=1)]
Weight = Annotated[float, Meta(ge=0, le=1e6)]
Load = Annotated[str, Meta(min_length=1, max_length=16, pattern=r"^[0-9]{1,6}(\.[0-9]{1,6})?$")]
"""Requests per second; text, since it is the key of a table."""
PolicyName = Annotated[
    str,
    Meta(pattern=r"^(cdsp|cdsp-priced|single-chunk|loongserve|fixed-sp:[1-9][0-9]{0,3})$"),
]
Order = Annotated[
    str, Meta(pattern=r"^(arrival|(slope|tail):[0-9]{1,4}(\.[0-9]{1,6})?)$", max_length=32)
]

POLICIES = "cdsp, cdsp-priced, single-chunk, loongserve, fixed-sp:N"


class Pricing(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `cdsp-priced` alone goes by."""

    base: Weight = 2.0
    """Price of all instances for a second while nobody waits, in seconds of TTFT."""
    per_waiting: Weight = 8.0
    """What every waiting request adds to it."""
    late_binding: bool = True
    """Whether requests wait in the router's queue until their first chunk can start."""
    replan: bool = True
    """Whether a waiting request's group may still change in size; its members always may."""
    order: Order = "tail:0.33"
    """`arrival`, `slope:K` or `tail:X`, see `services/router/order`."""

    @property
    def slope(self) -> float | None:
        """K of the order `slope:K`."""
        return self._number("slope")

    @property
    def share(self) -> float | None:
        """X of the order `tail:X`."""
        return self._number("tail")

    def _number(self, kind: str) -> float | None:
        name, _, number = self.order.partition(":")
        return float(number) if name == kind else None


class Schedule(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Policy, SP candidates and SP regulation.

    Source:
        Specification, section 8, for the names that the paper gives.
    """

    policy: PolicyName = "cdsp"
    sp_size_candidates: Annotated[tuple[Size, ...], Meta(min_length=1, max_length=64)] = (
        1, 2, 4, 8, 16,
    )  # fmt: skip
    improvement_rate: Rate = 0.1
    """In force where there is no mapping, and until the first period is over."""
    improvement_rate_mapping: Annotated[dict[Load, Rate], Meta(max_length=64)] = {}
    """Improvement rate by requests per second; the nearest load decides."""
    improvement_rate_update_period: Annotated[float, Meta(gt=0, le=86400)] = 30.0
    """Seconds over which arrivals are counted."""
    min_chunk: Annotated[int, Meta(ge=1, le=2**31 - 1)] = 128
    """Tokens; shorter first chunks do not pay off."""
    priced: Pricing = Pricing()

    @property
    def sizes(self) -> tuple[int, ...]:
        """SP candidates, ascending, each once."""
        return tuple(sorted(set(self.sp_size_candidates)))

    @property
    def fixed_size(self) -> int | None:
        """N of the policy `fixed-sp:N`."""
        _, _, size = self.policy.partition(":")
        return int(size) if size else None


def changed(schedule: Schedule, change: dict[str, object]) -> Schedule:
    """The schedule with the keys of `change` replaced, those of `priced` one by one.

    Raises:
        msgspec.ValidationError: a key is unknown or a value out of bounds; nothing has changed.
    """
    tree = to_builtins(schedule)
    priced = change.get("priced", {})
    if not isinstance(priced, dict):
        raise ValidationError("Expected `object` - at `$.priced`")
    merged = tree | change | {"priced": tree["priced"] | priced}
    return convert(merged, Schedule, strict=True)


def place_of(error: ValidationError) -> tuple[str, str]:
    """The dotted key that a validation error is about, "" for the whole, and what is wrong."""
    # msgspec ends its messages with the place, and names a missing or unknown field before it.
    what, _, place = str(error).partition(" - at `$")
    field = re.search(r"field `(.+?)`", what)
    parts = [part for part in (place.strip("`."), field[1] if field else "") if part]
    return ".".join(parts), what
