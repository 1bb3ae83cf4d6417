"""What computes and copies for an instance, real or emulated, and what the two tell each other."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from common.messages import Held, RunChunk, Token
from common.pages import Owner
from services.prefill_worker.send_manager import Parcel

if TYPE_CHECKING:
    from services.prefill_worker.instance import Instance


class Work(NamedTuple):
    """A chunk and its ids."""

    run: RunChunk
    ids: NDArray[np.int32]


class Slots(NamedTuple):
    """KV slots of the instance."""

    total: int
    free: int
    held: tuple[Held, ...]


@dataclass(frozen=True)
class ChunkResult:
    """What came of a chunk; the phases do not overlap."""

    first: Token | None
    """Token 0, at the member that holds the last prompt token."""
    compute: float
    wait: float
    """Seconds spent waiting for the group, at the chunk's start and inside the ring."""
    gather: float
    """The part of `wait` at the chunk's start."""
    balance: float
    """Seconds spent waiting for history."""


class Hands(Protocol):
    """What an instance drives, real or emulated: engine and copying; nothing here waits."""

    def start(self, work: Work, instance: "Instance") -> None:
        """Compute a chunk and tell `instance` what becomes of it; only one at a time."""

    def submit(self, parcel: Parcel) -> None:
        """Send KV."""

    def release(self, owner: Owner) -> None:
        """Free the slots of an attempt."""

    def slots(self) -> Slots:
        """Who holds what."""
