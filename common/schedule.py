"""How the router plans: the part of its configuration that may change while it serves.

One tree, read from `[schedule]` of a preset and from the body of `POST /update`, so that both have
the same keys, the same bounds and the same names in their errors.
"""

import re
from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType, ValidationError, convert, to_builtins

Size = Annotated[int, Meta(ge=1, le=1024)]
"""Instances of a group."""
Rate = Annotated[float, Meta(ge=0, lt=1)]
Weight = Annotated[float, Meta(ge=0, le=1e6)]
Load = Annotated[str, Meta(min_length=1, max_length=16, pattern=r"^[0-9]{1,6}(\.[0-9]{1,6})?\Z")]
"""Requests per second; text, since it is the key of a table."""
MAX_LOADS = 64
Mapping = Annotated[dict[Load, Rate], Meta(max_length=MAX_LOADS)]
PolicyName = Annotated[
    str,
    Meta(
        pattern=r"^(cdsp|cdsp-priced|single-chunk|loongserve|fixed-sp:[1-9][0-9]{0,3})\Z",
        max_length=16,
    ),
]
OtherPolicy = Annotated[
    str,
    Meta(
        pattern=r"^(|cdsp|cdsp-priced|single-chunk|loongserve|fixed-sp:[1-9][0-9]{0,3})\Z",
        max_length=16,
    ),
]
"""The same, or nothing."""
Order = Annotated[
    str, Meta(pattern=r"^(arrival|(slope|tail):[0-9]{1,4}(\.[0-9]{1,6})?)\Z", max_length=32)
]
Sizes = Annotated[tuple[Size, ...], Meta(min_length=1, max_length=64)]
Period = Annotated[float, Meta(ge=0.001, le=86400)]
Length = Annotated[int, Meta(ge=1, le=2**31 - 1)]

POLICIES = "cdsp, cdsp-priced, single-chunk, loongserve, fixed-sp:N"
WORDS = {
    "policy": f"one of {POLICIES}",
    "priced.order": "arrival, slope:K or tail:X with a number",
}
"""What a value may be, where its pattern is not for people."""
NO_LOAD = "Expected requests per second, such as 0.5"


class Pricing(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `cdsp-priced` alone goes by."""

    base: Weight = 3.0
    """Price of all instances for a second while nobody waits, in seconds of TTFT."""
    per_waiting: Weight = 8.0
    """What every other waiting request adds to it."""
    late_binding: bool = True
    """Whether requests wait in the router's queue until their first chunk can start."""
    replan: bool = True
    """Whether a waiting request's group may still change in size; its members always may."""
    order: Order = "tail:0.35"
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
    sp_size_candidates: Sizes = (1, 2, 4, 8, 16)
    improvement_rate: Rate = 0.1
    """In force where there is no mapping, and until the first period is over."""
    improvement_rate_mapping: Mapping = {}
    """Improvement rate by requests per second; the nearest load decides."""
    improvement_rate_update_period: Period = 30.0
    """Seconds over which arrivals are counted."""
    min_chunk: Length = 128
    """Tokens; shorter first chunks do not pay off."""
    priced: Pricing = Pricing()

    def __post_init__(self) -> None:
        """Two names of one load would leave open which of them counts."""
        _distinct(self.improvement_rate_mapping)

    @property
    def sizes(self) -> tuple[int, ...]:
        """SP candidates, ascending, each once."""
        return tuple(sorted(set(self.sp_size_candidates)))

    @property
    def fixed_size(self) -> int | None:
        """N of the policy `fixed-sp:N`."""
        _, _, size = self.policy.partition(":")
        return int(size) if size else None


class PricingChange(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Some keys of `priced`."""

    base: Weight | UnsetType = UNSET
    per_waiting: Weight | UnsetType = UNSET
    late_binding: bool | UnsetType = UNSET
    replan: bool | UnsetType = UNSET
    order: Order | UnsetType = UNSET


class ScheduleChange(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Some keys of a schedule; what is not there stays, a mapping is replaced as a whole."""

    policy: PolicyName | UnsetType = UNSET
    sp_size_candidates: Sizes | UnsetType = UNSET
    improvement_rate: Rate | UnsetType = UNSET
    improvement_rate_mapping: Mapping | UnsetType = UNSET
    improvement_rate_update_period: Period | UnsetType = UNSET
    min_chunk: Length | UnsetType = UNSET
    priced: PricingChange | UnsetType = UNSET

    def __post_init__(self) -> None:
        """As for a schedule."""
        if self.improvement_rate_mapping is not UNSET:
            _distinct(self.improvement_rate_mapping)


class State(Struct, frozen=True):
    """What has become of a schedule in force."""

    load: float | None
    """Requests per second in the last whole period; None before the first one is over."""
    improvement_rate: float
    """In force, by load and mapping."""
    version: int
    """Nanoseconds of the wall clock; 0 is the router's configuration."""
    changed: str | None
    """The same as date and time."""


class Report(Struct, frozen=True):
    """The answer to `GET /update` and `POST /update`."""

    schedule: Schedule
    state: State


def change_of(tree: object) -> ScheduleChange:
    """The change that a JSON body or a command line asks for.

    Raises:
        msgspec.ValidationError: `place_of` names the key, and of a mapping the entry.
    """
    key = "improvement_rate_mapping"
    mapping = tree.get(key) if isinstance(tree, dict) else None
    # A longer one is refused for its length.
    entries = list(mapping.items())[: MAX_LOADS + 1] if isinstance(mapping, dict) else []
    for load, rate in entries if len(entries) <= MAX_LOADS else ():
        # msgspec does not tell which entry it is.
        try:
            convert({load: rate}, dict[Load, Rate], strict=True)
        except ValidationError as error:
            what, _, place = str(error).partition(" - at ")
            what = NO_LOAD if place.startswith("`key`") else what
            raise ValidationError(f"{what} - at `$.{key}.{load[:64]}`") from None
    return convert(tree, ScheduleChange, strict=True)


def changed(schedule: Schedule, change: ScheduleChange) -> Schedule:
    """The schedule with the keys of `change` replaced, those of `priced` one by one."""
    tree, given = to_builtins(schedule), to_builtins(change)
    given["priced"] = tree["priced"] | given.get("priced", {})
    return convert(tree | given, Schedule, strict=True)


def place_of(error: ValidationError) -> tuple[str, str]:
    """The dotted key that a validation error is about, "" for the whole, and what is wrong."""
    # msgspec ends its messages with the place, and names a missing or unknown field before it.
    what, _, place = str(error).partition(" - at `$")
    field = re.search(r"field `(.+?)`", what)
    parts = [part for part in (place.strip("`."), field[1] if field else "") if part]
    return ".".join(parts), what


def in_words(error: ValidationError) -> tuple[str, str]:
    """As `place_of`, for people."""
    key, what = place_of(error)
    return key, f"expected {WORDS[key]}" if key in WORDS else what


def _distinct(mapping: dict[str, float]) -> None:
    loads: dict[float, str] = {}
    for load in mapping:
        known = loads.setdefault(float(load), load)
        if known != load:
            # As msgspec would say it, for `place_of`.
            field = f"improvement_rate_mapping.{load}"
            raise ValueError(f"Object contains field `{field}`, the same load as `{known}`")
