"""What an engine, real or emulated, says of a chunk."""

from dataclasses import dataclass

from common.messages import Token


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
