"""One attempt on a prefill instance, from its first chunk's arrival until its KV is released."""

from dataclasses import dataclass

from msgspec import structs

from common.messages import Held, RunChunk
from services.prefill_worker.stamps import Stamps


@dataclass
class Live:
    """What the instance knows of it."""

    run: RunChunk
    stamps: Stamps
    born: float | None = None
    """When it got its first slots."""
    is_computed: bool = False
    is_over: bool = False

    def aged(self, held: Held, now: float) -> Held:
        """What it holds, with its age."""
        if self.born is None:
            return held
        return structs.replace(held, age=max(0.0, now - self.born))
