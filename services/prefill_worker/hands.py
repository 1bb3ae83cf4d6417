"""What computes and copies for an instance, real or emulated, and what the two tell each other."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from common.errors import TetrisError
from common.messages import Held, RunChunk, Token
from common.pages import Owner, Span
from common.scores import Scores
from services.prefill_worker.transfer import Parcel


class Work(NamedTuple):
    """A chunk and its ids."""

    run: RunChunk
    ids: NDArray[np.int32]


class Slots(NamedTuple):
    """KV slots of the instance."""

    total: int
    free: int
    held: tuple[Held, ...]


class Moments(NamedTuple):
    """Of one chunk, in monotonic seconds of the process; see `common.messages.ChunkTimes`."""

    begun: float
    gathered: float
    ended: float
    sampled: float
    """When token 0 was there, at the member that holds the last prompt token."""


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
    moments: Moments
    scoring: float = 0.0
    """Seconds spent on log-probabilities of the prompt."""
    scores: tuple[Scores, ...] = ()
    """Of the tokens that follow this member's own, where they are wanted."""


class Listener(Protocol):
    """Who is told, in the event loop, what becomes of a chunk."""

    def on_ready(self, run: RunChunk) -> None:
        """This member waits for the chunk's group."""

    def on_layer(self, run: RunChunk, layer: int, spans: list[Span]) -> None:
        """A layer's KV is in the slots of `spans`."""

    def on_done(self, run: RunChunk, result: ChunkResult) -> None:
        """The chunk is computed."""

    def on_failed(self, run: RunChunk, error: TetrisError) -> None:
        """The chunk could not be computed; the attempt holds no slots any more."""


class Hands(Protocol):
    """What an instance drives, real or emulated: engine and copying; nothing here waits."""

    def start(self, work: Work, listener: Listener) -> None:
        """Compute a chunk and tell `listener` what becomes of it; only one at a time."""

    def submit(self, parcel: Parcel) -> None:
        """Send KV."""

    def abort(self, owner: Owner) -> None:
        """End the computation of an attempt soon: `on_failed`, unless `on_done` comes first."""

    def release(self, owner: Owner) -> None:
        """Free the slots of an attempt."""

    def slots(self) -> Slots:
        """Who holds what."""
