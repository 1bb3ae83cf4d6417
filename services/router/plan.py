"""What the planner reads and what it answers; values only."""

from dataclasses import dataclass

from common.messages import Chunk


@dataclass(frozen=True, slots=True)
class Policy:
    """How plans are chosen.

    Args:
        sizes: SP candidates, ascending.
        rate: improvement rate in [0, 1), the relative TTFT gain that a larger size must bring.
        min_chunk: tokens; a chunk before the last one that is shorter does not pay off.
    """

    sizes: tuple[int, ...]
    rate: float
    min_chunk: int


@dataclass(frozen=True, slots=True)
class PoolView:
    """The instances that may take part in one plan; three parallel lists.

    Args:
        nodes: the node that hosts each instance.
        delays: queuing delay of each instance, seconds from now, >= 0.
    """

    names: tuple[str, ...]
    nodes: tuple[str, ...]
    delays: tuple[float, ...]

    def only(self, names: frozenset[str]) -> "PoolView":
        """The same view without all other instances."""
        if len(names) == len(self.names):
            return self
        kept = [index for index, name in enumerate(self.names) if name in names]
        return PoolView(
            tuple(self.names[index] for index in kept),
            tuple(self.nodes[index] for index in kept),
            tuple(self.delays[index] for index in kept),
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """Chunks of one prompt and the instances that run them, with the inputs of the decision.

    Members stand in joining order, so each chunk's group is the first `size` of them.

    Args:
        predicted: seconds that each chunk takes, without queuing.
        ttft: estimated seconds from planning to the first token, queuing included.
        forced: the plan as it was demanded, None when the planner decided.
    """

    chunks: tuple[Chunk, ...]
    members: tuple[str, ...]
    predicted: tuple[float, ...]
    ttft: float
    view: PoolView
    policy: Policy
    forced: str | None = None

    def group(self, index: int) -> tuple[str, ...]:
        """The instances that run chunk `index`."""
        return self.members[: self.chunks[index].size]

    @property
    def length(self) -> int:
        """Tokens of all chunks."""
        return self.chunks[-1].history + self.chunks[-1].length
