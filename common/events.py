"""What happens to requests and members, as the router tells gateways: for eyes, not for truth.

Nothing depends on these: one that gets lost leaves a hole in a picture, and is counted. Times are
wall-clock seconds of the router; machines of one mesh keep theirs within milliseconds (NTP).
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from common.schedule import Rate, Size

Name = Annotated[str, Meta(min_length=1, max_length=64)]
RequestId = Annotated[str, Meta(min_length=1, max_length=128)]
Text = Annotated[str, Meta(max_length=256)]
Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Number = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Attempt = Annotated[int, Meta(ge=1, le=1_000_000)]
Seconds = Annotated[float, Meta(ge=0, le=1e9)]
Wall = Annotated[float, Meta(ge=0, le=1e12)]
"""Seconds since 1970."""


class Part(Struct, frozen=True, forbid_unknown_fields=True):
    """A value inside an event."""


class Event(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag=True):
    """Something that happened."""

    at: Wall


# Requests


class Waits(Event, frozen=True):
    """A request has come for which there is no plan yet."""

    request: RequestId
    attempt: Attempt
    length: Count
    """Tokens to prefill."""
    ttft: Seconds | None
    """Predicted seconds from now to its first token."""


class PlannedChunk(Part, frozen=True):
    """One chunk of a plan, run by the first `size` members."""

    length: Count
    size: Size
    start: Wall
    """Predicted."""
    seconds: Seconds
    """Predicted, without queuing."""


class Planned(Event, frozen=True):
    """A request has got its plan."""

    request: RequestId
    attempt: Attempt
    arrived: Wall
    """When the router got it."""
    length: Count
    members: Annotated[tuple[Name, ...], Meta(max_length=1024)]
    """Prefill instances in joining order."""
    chunks: Annotated[tuple[PlannedChunk, ...], Meta(max_length=64)]
    decode: Name
    ttft: Seconds
    """Predicted, from now."""
    policy: Text
    rate: Rate
    """Improvement rate that was in force."""
    shadow: Seconds | None = None
    """The TTFT that the shadow policy predicts from the same delays."""


class Began(Event, frozen=True):
    """All members of a chunk have come to it."""

    request: RequestId
    attempt: Attempt
    index: Count


class Computed(Event, frozen=True):
    """One member has done its part of a chunk; seconds of each phase."""

    request: RequestId
    attempt: Attempt
    index: Count
    member: Name
    gather: Seconds
    """Until all members had come."""
    balance: Seconds
    """In which history was spread to new members."""
    compute: Seconds
    wait: Seconds
    """For the others' blocks, inside the ring."""
    send: Seconds
    """In which KV was still to be sent after that."""


class HandedOver(Event, frozen=True):
    """A prefill instance holds nothing of a request any more."""

    request: RequestId
    attempt: Attempt
    member: Name


class Decoding(Event, frozen=True):
    """A decode instance has all KV of a request and decodes it."""

    request: RequestId
    attempt: Attempt
    decode: Name
    slots: Count


class Over(Event, frozen=True):
    """An attempt has ended."""

    request: RequestId
    attempt: Attempt
    how: Literal["stop", "length", "error", "abort", "cancel", "failed"]
    num_tokens: Count
    """Emitted by the request, 0 where it is not known."""


# Members


class PrefillState(Part, frozen=True):
    """A prefill instance now."""

    name: Name
    node: Name
    delay: Seconds
    """Until it has finished all that is planned on it."""
    used: Count
    """KV slots."""
    total: Count
    busy: Annotated[float, Meta(ge=0, le=1)]
    """Share of the time since the last state in which it computed."""


class DecodeState(Part, frozen=True):
    """A decode instance now."""

    name: Name
    node: Name
    active: Count
    """Requests in its batch."""
    used: Count
    """KV slots."""
    total: Count


class BrokerState(Part, frozen=True):
    """A kv-transfer service now."""

    name: Name
    backends: Count
    lent: Count
    waiting: Count
    """Handshakes that wait for a backend."""
    oldest: Seconds
    """Age of the oldest of them."""


class Drift(Part, frozen=True):
    """Measured over predicted seconds of the last chunks of one SP size."""

    size: Size
    ratio: Annotated[float, Meta(ge=0, le=1e9)]


class MeshState(Event, frozen=True):
    """The whole mesh, once per second."""

    policy: Text
    rate: Rate
    """Improvement rate in force."""
    load: Seconds | None
    """Requests per second in the last whole period."""
    waiting: Count
    requests: Count
    prefill: Annotated[tuple[PrefillState, ...], Meta(max_length=1024)]
    decode: Annotated[tuple[DecodeState, ...], Meta(max_length=1024)]
    brokers: Annotated[tuple[BrokerState, ...], Meta(max_length=256)]
    drift: Annotated[tuple[Drift, ...], Meta(max_length=64)] = ()


Happening = Waits | Planned | Began | Computed | HandedOver | Decoding | Over | MeshState
