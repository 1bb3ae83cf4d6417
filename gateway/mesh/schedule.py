"""The schedule in force as far as a gateway knows it: a router that begins anew takes it over."""

from datetime import UTC, datetime

from msgspec import structs

from common.messages import ClusterState, ControlMessage, GatewayFacts, InForce, Scheduled
from common.schedule import Report, State


class KnownSchedule:
    """The newest schedule that was heard of, and what the router knows of it."""

    def __init__(self) -> None:
        self.newest: InForce | None = None
        """None as long as nothing but configurations was in force."""
        self._told = (0, 0)
        """The epoch of the router that was heard last, and the version that it knows."""

    def receive(self, message: ControlMessage) -> None:
        """Note what a message says of the schedule, if it says anything."""
        match message:
            case ClusterState(epoch=epoch, schedule=version, newer=newer):
                self._told = epoch, version
                self._hear(newer)
            case Scheduled(current=current):
                self._hear(current)
            case _:
                pass

    def add_to(self, facts: GatewayFacts, epoch: int | None) -> GatewayFacts:
        """The facts for that router, with the schedule if it may not know it yet."""
        if self.newest is None:
            return facts
        version = self.newest.version
        is_known = self._told[0] == epoch and self._told[1] >= version
        newer = None if is_known else self.newest
        return structs.replace(facts, schedule=version, newer=newer)

    def _hear(self, one: InForce | None) -> None:
        known = 0 if self.newest is None else self.newest.version
        if one is not None and one.version > known:
            self.newest = one


def report(answer: Scheduled) -> Report:
    """The router's answer, for operators."""
    version = answer.current.version
    when = datetime.fromtimestamp(version / 1e9, UTC).isoformat(timespec="milliseconds")
    state = State(answer.load, answer.improvement_rate, version, when if version else None)
    return Report(answer.current.schedule, state)
