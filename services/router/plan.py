"""What the planner reads and what it answers; values only."""

from dataclasses import dataclass

from common.messages import Chunk


@dataclass(frozen=True, slots=True)
class Policy:
    """How one plan is chosen.

    Args:
        sizes: SP candidates, ascending.
        rate: improvement rate in [0, 1), the relative TTFT gain that a larger size must bring.
        min_chunk: tokens; a chunk before the last one that is shorter does not pay off.
        name: of the policy; a `fixed-sp:N` is named without its N, which is the one candidate.
        price: seconds of TTFT that one instance is worth for a second, under `cdsp-priced`.
        fewest: instances of the last group at least, under `cdsp-priced`.
    """

    sizes: tuple[int, ...]
    rate: float
    min_chunk: int
    name: str = "cdsp"
    price: float = 0.0
    fewest: int = 1


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

    def idle(self) -> "PoolView":
        """The same instances without anything to do."""
        return PoolView(self.names, self.nodes, (0.0,) * len(self.names))

    def after(self, plan: "Plan") -> "PoolView":
        """The view once `plan` is booked: its members are busy until its first token."""
        busy = set(plan.members)
        pairs = zip(self.names, self.delays, strict=True)
        delays = tuple([plan.ttft if name in busy else delay for name, delay in pairs])
        return PoolView(self.names, self.nodes, delays)


@dataclass(frozen=True, slots=True)
class Reused:
    """The beginning of a prompt that needs no computing.

    Args:
        tokens: of it.
        members: who hold equal shares of it and so belong to every group, in joining order;
            without any, every instance can read it.
    """

    tokens: int = 0
    members: tuple[str, ...] = ()


NOTHING = Reused()


@dataclass(frozen=True, slots=True)
class Plan:
    """Chunks of one prompt and the instances that run them, with the inputs of the decision.

    Members stand in joining order, so each chunk's group is the first `size` of them.

    Args:
        predicted: seconds that each chunk takes, without queuing.
        wait: seconds until the first chunk can start.
        ttft: estimated seconds from planning to the first token, queuing included.
        forced: the plan as it was demanded, None when the planner decided.
        reused: what comes before the first chunk, whose history it is.
    """

    chunks: tuple[Chunk, ...]
    members: tuple[str, ...]
    predicted: tuple[float, ...]
    ttft: float
    view: PoolView
    policy: Policy
    wait: float = 0.0
    forced: str | None = None
    reused: Reused = NOTHING

    def group(self, index: int) -> tuple[str, ...]:
        """The instances that run chunk `index`."""
        return self.members[: self.chunks[index].size]

    @property
    def length(self) -> int:
        """Tokens of all chunks and of what is reused."""
        return self.chunks[-1].history + self.chunks[-1].length

    @property
    def rule(self) -> str:
        """By what it was chosen: a policy as in `schedule.policy`, or `forced`."""
        if self.forced is not None:
            return "forced"
        name, sizes = self.policy.name, self.policy.sizes
        return f"{name}:{sizes[0]}" if name == "fixed-sp" else name

    @property
    def starts(self) -> tuple[float, ...]:
        """Seconds from planning to the start of each chunk, as the view's delays say."""
        delays = dict(zip(self.view.names, self.view.delays, strict=True))
        starts, end = [], 0.0
        for index, seconds in enumerate(self.predicted):
            starts.append(max(end, *[delays[name] for name in self.group(index)]))
            end = starts[-1] + seconds
        return tuple(starts)
