"""What is known of one request: predicted beside measured, attempt by attempt; pure.

It says when, where and how much, and holds nothing of what anybody wrote.
"""

from collections.abc import Sequence
from typing import TypeVar

from msgspec import UNSET, Raw, Struct, UnsetType, field

from common.events import (
    Began,
    Computed,
    Decoding,
    HandedOver,
    Happening,
    MeshState,
    Over,
    Planned,
    PlannedChunk,
    Waits,
)
from gateway.window.components import Parts
from gateway.window.journeys import Journey

Kind = TypeVar("Kind", bound=Happening)
NO_EVENTS = "nothing is known of its attempts (any more)"


class Work(Struct, frozen=True):
    """One member's part of a chunk; seconds of each phase."""

    member: str
    ended: float
    gather: float
    balance: float
    compute: float
    wait: float
    send: float


class Predicted(Struct, frozen=True):
    """When a chunk was to begin, and how long it was to take."""

    start: float
    seconds: float


class Measured(Struct, frozen=True):
    """When all members had come to a chunk, and when the last one was done."""

    start: float | None
    end: float | None
    seconds: float | None
    members: list[Work]


class ChunkAccount(Struct, frozen=True):
    """One chunk, planned and computed."""

    index: int
    length: int
    size: int
    members: tuple[str, ...]
    predicted: Predicted
    measured: Measured


class PlanAccount(Struct, frozen=True):
    """One plan; `ttft` is predicted from when it was made."""

    at: float
    arrived: float
    policy: str
    rate: float
    length: int
    ttft: float
    shadow: float | None
    members: tuple[str, ...]
    chunks: list[ChunkAccount]


class Moment(Struct, frozen=True):
    """When a member had let go of the request."""

    member: str
    at: float


class Transfer(Struct, frozen=True):
    """How the KV went to decode: seconds from the end of the last chunk on."""

    seconds: float | None
    released: list[Moment]


class Decode(Struct, frozen=True):
    """Where it is decoded, and since when."""

    instance: str
    at: float | None
    slots: int | None


class End(Struct, frozen=True):
    """How an attempt ended, as the router saw it."""

    at: float
    how: str
    num_tokens: int


class AttemptAccount(Struct, frozen=True):
    """One attempt."""

    attempt: int
    waited: float | None
    """When the router got it, if it had to wait for its plan."""
    plan: PlanAccount | None
    transfer: Transfer
    decode: Decode | None
    over: End | None


class TokenTime(Struct, frozen=True):
    """Seconds until a token came, and what they went into."""

    measured: float | None
    predicted: float | None = None
    components: dict[str, float] | None = None
    skewed: bool | None = None
    """Whether clocks contradicted each other, so that the components are not exact."""


class Account(Struct, frozen=True):
    """One request; times are seconds since 1970, or durations in seconds."""

    id: str
    request_id: str | None
    arrived: float | None
    prompt_tokens: int | None
    generated_tokens: int | None
    outcome: str
    """stop, length, abort, error, cancel, failed; open while it is not over."""
    ttft: TokenTime
    second_token: TokenTime
    attempts: list[AttemptAccount]
    attempts_absent: str | UnsetType = UNSET
    explanation: Raw | UnsetType = UNSET
    explanation_absent: str | UnsetType = UNSET


class Brief(Struct, frozen=True):
    """One line of a list of requests."""

    id: str
    request_id: str | None
    arrived: float | None
    prompt_tokens: int | None
    outcome: str
    attempts: int
    ttft: TokenTime = field(default_factory=lambda: TokenTime(None))


def account_of(name: str, journey: Journey | None, events: Sequence[Happening]) -> Account:
    """All that is known of a request; `journey` is None when it is another gateway's."""
    numbers = sorted({e.attempt for e in events if not isinstance(e, MeshState)})
    brief = brief_of(name, journey, events)
    overs = _all(events, Over)
    generated = overs[-1].num_tokens if overs else None
    return Account(
        id=name,
        request_id=brief.request_id,
        arrived=brief.arrived,
        prompt_tokens=brief.prompt_tokens,
        generated_tokens=journey.num_tokens if journey is not None else generated,
        outcome=brief.outcome,
        ttft=brief.ttft,
        second_token=_second(journey),
        attempts=[_attempt(number, events) for number in numbers],
        attempts_absent=UNSET if numbers else NO_EVENTS,
    )


def brief_of(name: str, journey: Journey | None, events: Sequence[Happening]) -> Brief:
    """The shortest that can be said of a request."""
    plans, overs, waits = _all(events, Planned), _all(events, Over), _all(events, Waits)
    arrived = plans[0].arrived if plans else waits[0].at if waits else None
    length = plans[0].length if plans else waits[0].length if waits else None
    numbers = {e.attempt for e in events if not isinstance(e, MeshState)}
    if journey is None:
        how: str = overs[-1].how if overs else "open"
        predicted = max(0.0, plans[-1].at + plans[-1].ttft - plans[-1].arrived) if plans else None
        ttft = TokenTime(None, predicted)
        return Brief(name, None, arrived, length, how, len(numbers), ttft)
    outcome = journey.outcome or "open"
    ttft = _time(journey.ttft, journey.first_parts, journey.predicted)
    origin = journey.origin.request_id or None
    return Brief(name, origin, journey.arrived, journey.num_prompt, outcome, len(numbers), ttft)


def _second(journey: Journey | None) -> TokenTime:
    if journey is None:
        return TokenTime(None)
    if journey.first is None or journey.second is None:
        return TokenTime(None)
    return _time(journey.second[0] - journey.first[0], journey.second_parts, None)


def _time(measured: float | None, parts: Parts | None, predicted: float | None) -> TokenTime:
    if parts is None:
        return TokenTime(measured, predicted)
    components = {str(part): seconds for part, seconds in parts.seconds.items()}
    return TokenTime(measured, predicted, components, parts.skewed)


def _attempt(number: int, events: Sequence[Happening]) -> AttemptAccount:
    own = [e for e in events if not isinstance(e, MeshState) and e.attempt == number]
    plans, waits, overs = _all(own, Planned), _all(own, Waits), _all(own, Over)
    plan = _plan(plans[-1], own) if plans else None
    decoding = _all(own, Decoding)
    return AttemptAccount(
        attempt=number,
        waited=waits[0].at if waits else None,
        plan=plan,
        transfer=_transfer(plan, decoding, _all(own, HandedOver)),
        decode=_decode(plans, decoding),
        over=End(overs[-1].at, overs[-1].how, overs[-1].num_tokens) if overs else None,
    )


def _plan(plan: Planned, own: Sequence[Happening]) -> PlanAccount:
    return PlanAccount(
        at=plan.at,
        arrived=plan.arrived,
        policy=plan.policy,
        rate=plan.rate,
        length=plan.length,
        ttft=plan.ttft,
        shadow=plan.shadow,
        members=plan.members,
        chunks=[_chunk(i, chunk, plan, own) for i, chunk in enumerate(plan.chunks)],
    )


def _chunk(
    index: int, chunk: PlannedChunk, plan: Planned, own: Sequence[Happening]
) -> ChunkAccount:
    begun = [event.at for event in _all(own, Began) if event.index == index]
    done = [event for event in _all(own, Computed) if event.index == index]
    start = begun[0] if begun else None
    is_whole = len(done) >= chunk.size
    end = max(event.at for event in done) if is_whole else None
    seconds = end - start if end is not None and start is not None else None
    works = [Work(e.member, e.at, e.gather, e.balance, e.compute, e.wait, e.send) for e in done]
    return ChunkAccount(
        index=index,
        length=chunk.length,
        size=chunk.size,
        members=plan.members[: chunk.size],
        predicted=Predicted(chunk.start, chunk.seconds),
        measured=Measured(start, end, seconds, works),
    )


def _transfer(
    plan: PlanAccount | None, decoding: Sequence[Decoding], released: Sequence[HandedOver]
) -> Transfer:
    end = plan.chunks[-1].measured.end if plan is not None and plan.chunks else None
    seconds = max(0.0, decoding[0].at - end) if decoding and end is not None else None
    return Transfer(seconds, [Moment(event.member, event.at) for event in released])


def _decode(plans: Sequence[Planned], decoding: Sequence[Decoding]) -> Decode | None:
    if decoding:
        return Decode(decoding[0].decode, decoding[0].at, decoding[0].slots)
    return Decode(plans[-1].decode, None, None) if plans else None


def _all(events: Sequence[Happening], kind: type[Kind]) -> list[Kind]:
    return [event for event in events if isinstance(event, kind)]
