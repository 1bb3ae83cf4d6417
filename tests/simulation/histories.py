"""Hand-written histories: one line for each message, and what the checks say of them."""

from collections.abc import Iterable

from common.messages import EndOfRequest, Grant, Handshake, Peer, Release, Target
from tests.simulation.checks import judge
from tests.simulation.history import Event

BROKER, DECODE, ROUTER, SENDER = "mem://broker", "emulated://decode", "mem://router", "mem://p"
TARGET = Target("decode", 1, "mem://decode", DECODE, 2, BROKER)
PEER = Peer("p", 1, SENDER)


def took(message: object, where: str = BROKER) -> Event:
    return Event(0.0, where, "took", message)  # type: ignore[arg-type]


def sent(message: object, where: str = BROKER, to: str = SENDER) -> Event:
    return Event(0.0, where, "sent", message, to)  # type: ignore[arg-type]


def replace_time(event: Event, time: float) -> Event:
    return Event(time, event.where, event.way, event.message, event.to)


def handshake(request: str, rank: int = 0, *, attempt: int = 1, size: int = 2) -> Handshake:
    return Handshake(request, attempt, 0, rank, PEER, TARGET, size, size)


def grant(request: str, rank: int, backend: int, generation: int, attempt: int = 1) -> Grant:
    return Grant(request, attempt, 0, rank, backend, generation)


def release(request: str, rank: int, *, is_last: bool = False) -> Release:
    return Release(request, 1, 0, rank, "decode", 1, is_last)


def end(request: str, attempt: int = 1) -> EndOfRequest:
    return EndOfRequest(request, attempt, 0, "error")


def codes(events: Iterable[Event]) -> set[str]:
    return {word for line in judge(events) for word in line.split() if word in NAMES}


NAMES = {f"I{number}" for number in range(1, 13)}
