"""What a prefill instance keeps of an attempt that is not over, or still holds slots."""

from dataclasses import dataclass

from common.messages import RunChunk
from services.prefill_worker.stamps import Stamps


@dataclass
class Live:
    """One attempt, by the first of its chunks that has come."""

    run: RunChunk
    stamps: Stamps
    born: float | None = None
    """When it got its first slots."""
    is_computed: bool = False
    is_over: bool = False
