"""Refusals that have no excuse: I2 asks not for any end, but for the answer where there can be one.

Something may be wrong with the mesh while faults last, and clients are told so. Once everything
has healed, what was accepted has to move on.
"""

from collections.abc import Iterator

from common.messages import (
    Accepted,
    ClusterState,
    FirstToken,
    Handshake,
    Resend,
    Submit,
    TokenBatch,
)
from tests.simulation.history import Event, Over
from tests.simulation.world import World

GRACE = 30.0
"""Virtual seconds after healing in which attempts may still fail for what was before."""
STILL = 40.0
"""Virtual seconds in which something has to happen to a request, unless others wait before it.

A cut may have swallowed the word of a member that has come to a chunk, and then the others wait for
it all of `prefill.start_timeout`; behind them their turns do.
"""
MANY = 100
"""A queue of that length is never full here."""


def suspicious(world: World) -> list[str]:
    """What clients were told and should not have been."""
    found = []
    for event in world.history.events:
        if isinstance(event.message, Over):
            why = _suspicion(world, event.time, event.message)
            if why is not None:
                found.append(f"{event.time:.6f} I2 {event.message.request} {why}")
    return found


def _suspicion(world: World, time: float, over: Over) -> str | None:
    match over.outcome:
        case "refused 400" | "refused 500":
            return f"was {over.outcome}"
        case "refused 503" if time > world.healed + GRACE:
            return None if world.cluster.router.max_queue < MANY else "was refused 503"
        case "refused 504" if time > world.healed + (still := _still(world)):
            window = [one for one in world.history.events if time - still < one.time < time]
            queue = [_waiting(one) for one in window]
            if not any(queue) and not any(over.request in _concerns(one) for one in window):
                return f"had stood still for {still:g} s when its time was over"
    return None


def _still(world: World) -> float:
    return STILL + world.cluster.prefill.start_timeout


def _waiting(event: Event) -> int:
    return event.message.waiting if isinstance(event.message, ClusterState) else 0


def _concerns(event: Event) -> Iterator[str]:
    """Requests that an event moves on; to ask again for one moves nothing."""
    match event.message:
        case Submit() | Accepted() | Resend() | Handshake():
            pass
        case TokenBatch(tokens=tokens):
            yield from {token.request for token in tokens}
        case FirstToken(token=token):
            yield token.request
        case message:
            yield getattr(message, "request", "")
