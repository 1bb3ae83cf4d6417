"""Made-up events: requests that are planned, computed, handed over and decoded."""

from collections.abc import Sequence

from common.events import (
    Began,
    BrokerState,
    Computed,
    DecodeState,
    Decoding,
    Drift,
    HandedOver,
    Happening,
    MeshState,
    Over,
    Planned,
    PlannedChunk,
    PrefillState,
    Waits,
)
from common.messages import Events

MEMBERS = ("prefill-0", "prefill-1", "prefill-2", "prefill-3")


def said(first: int, *events: Happening, epoch: int = 5) -> Events:
    """A message of the router."""
    return Events(epoch, first, events)


def mesh_state(at: float, names: Sequence[str] = MEMBERS) -> MeshState:
    """Half of the instances on each of two machines, and one instance to decode."""
    prefill = tuple(
        PrefillState(name, f"node-{2 * i // len(names)}", 0.5 * i, 100 * i, 1000, 0.25)
        for i, name in enumerate(names)
    )
    return MeshState(
        at,
        policy="cdsp",
        rate=0.1,
        load=2.5,
        waiting=1,
        requests=3,
        prefill=prefill,
        decode=(DecodeState("decode-0", "node-9", 2, 300, 1200),),
        brokers=(BrokerState("broker-0", 8, 3, 2, 1.5),),
        drift=(Drift(1, 1.1), Drift(4, 0.9)),
    )


def story(
    request: str, at: float, members: Sequence[str] = MEMBERS, attempt: int = 1
) -> list[Happening]:
    """A request in two chunks, on half of the members and then on all, 2.5 s long."""
    half = members[: max(1, len(members) // 2)]
    chunks = (
        PlannedChunk(300, len(half), at + 0.1, 0.4),
        PlannedChunk(700, len(members), at + 0.5, 0.5),
    )
    return [
        Waits(at, request, attempt, 1000, 0.9),
        Planned(
            at + 0.05,
            request,
            attempt,
            arrived=at,
            length=1000,
            members=tuple(members),
            chunks=chunks,
            decode="decode-0",
            ttft=0.95,
            policy="cdsp",
            rate=0.1,
            shadow=1.25,
        ),
        Began(at + 0.11, request, attempt, 0),
        *(Computed(at + 0.5, request, attempt, 0, m, 0.01, 0.0, 0.38, 0.01, 0.0) for m in half),
        Began(at + 0.52, request, attempt, 1),
        *(Computed(at + 1.1, request, attempt, 1, m, 0.02, 0.1, 0.4, 0.08, 0.05) for m in members),
        *(HandedOver(at + 1.2, request, attempt, m) for m in members),
        Decoding(at + 1.25, request, attempt, "decode-0", 1024),
        Over(at + 2.5, request, attempt, "length", 30),
    ]
