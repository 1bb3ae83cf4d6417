"""Turns on their way to prefill instances, repeated until they have arrived.

Pure. What a member has received is known from its heartbeats alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from common.messages import RunChunk, Skip


@dataclass(slots=True)
class Parcel:
    """One turn as it was last sent; `ids` is frame 1 of a RunChunk."""

    message: RunChunk | Skip
    ids: bytes | None
    sent: float


class Dispatch:
    """Turns that have not been acknowledged, by member."""

    def __init__(self, epoch: int, resend: float) -> None:
        self._epoch = epoch
        self._resend = resend
        self._parcels: dict[str, dict[int, Parcel]] = {}

    def join(self, name: str) -> None:
        """A new life of a member; nothing is on its way to it."""
        self._parcels[name] = {}

    def leave(self, name: str) -> None:
        """A member is gone."""
        self._parcels.pop(name, None)

    def send(self, name: str, run: RunChunk, ids: bytes, now: float) -> Parcel:
        """Note a chunk that goes out now."""
        parcel = Parcel(run, ids, now)
        self._parcels[name][run.turn] = parcel
        return parcel

    def void(self, name: str, turn: int, now: float) -> Parcel | None:
        """The Skip to send in a turn's place; None when the member has received the turn."""
        parcels = self._parcels.get(name, {})
        if turn not in parcels:
            return None
        old = parcels[turn].message
        skip = Skip(_incarnation(old), self._epoch, turn)
        parcels[turn] = Parcel(skip, None, now)
        return parcels[turn]

    def acknowledge(self, name: str, received_through: int) -> None:
        """A member has all turns up to this one."""
        parcels = self._parcels[name]
        for turn in [turn for turn in parcels if turn <= received_through]:
            del parcels[turn]

    def late(self, name: str, now: float) -> Iterator[Parcel]:
        """What was sent a while ago and has not arrived; counted as sent again now."""
        for parcel in self._parcels[name].values():
            if now - parcel.sent >= self._resend:
                parcel.sent = now
                yield parcel


def _incarnation(message: RunChunk | Skip) -> int:
    """The life of the member that a turn is for."""
    if isinstance(message, Skip):
        return message.incarnation
    return message.members[message.rank].incarnation
