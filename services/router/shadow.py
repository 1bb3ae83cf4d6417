"""What another policy would have promised: it plans on the same delays, and nothing is booked."""

from collections.abc import Mapping

from msgspec import structs

from common.errors import ConfigError, RequestFailed
from services.router.plan import Plan
from services.router.scheduler import Scheduler, check


class Shadow:
    """The policy of that name, with everything else as in the schedule in force; none for ""."""

    def __init__(self, name: str, scheduler: Scheduler) -> None:
        self._name = name
        self._scheduler = scheduler
        if name:
            try:
                check(structs.replace(scheduler.schedule, policy=name), scheduler.model)
            except RequestFailed as error:
                raise ConfigError(f"router.shadow: {error}") from None

    def ttft(
        self, plan: Plan, free: Mapping[str, int], num_waiting: int, now: float
    ) -> float | None:
        """The TTFT that it predicts for what was just planned; None where it has no plan.

        Args:
            plan: what the policy in force has chosen; a demanded one has no shadow.
            free: KV slots that nobody has, by instance.
            num_waiting: other requests in the queue.
            now: seconds.
        """
        if not self._name or plan.forced is not None:
            return None
        scheduler, view = self._scheduler, plan.view
        schedule = structs.replace(scheduler.schedule, policy=self._name)
        policy = scheduler.policy(num_waiting, view, now, schedule)
        try:
            found = scheduler.admission.plan(plan.length, view, free, policy)
        except RequestFailed:
            # An update has left the candidates nothing that the model knows.
            return None
        return found.ttft if found is not None else None
