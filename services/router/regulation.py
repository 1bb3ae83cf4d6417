"""SP regulation: the improvement rate that the load of the last period calls for.

Small at light load (large groups, short compute), large at heavy load (instances are left for
later arrivals). Pure; `now` is monotonic seconds.

Source:
    Specification, section 6, SP regulation.
"""

from collections.abc import Mapping

from common.schedule import Schedule


class Regulation:
    """Counts arrivals per period and looks the rate up in a profiled mapping."""

    def __init__(self, schedule: Schedule) -> None:
        self.load: float | None = None
        """Requests per second in the last whole period; None before the first one is over."""
        self._began: float | None = None
        self._count = 0
        self._schedule = schedule
        self._mapping = _numbers(schedule.improvement_rate_mapping)

    def update(self, schedule: Schedule) -> None:
        """Another mapping or period; what has been counted stays, but not for a shorter period."""
        period = schedule.improvement_rate_update_period
        if period < self._schedule.improvement_rate_update_period:
            # What came in a longer one would count as its load, or all be forgotten at once.
            self._began, self._count = None, 0
        self._schedule = schedule
        self._mapping = _numbers(schedule.improvement_rate_mapping)

    def arrive(self, now: float) -> None:
        """Count an arrival."""
        self._roll(now)
        self._count += 1

    def rate(self, now: float) -> float:
        """The improvement rate in force."""
        self._roll(now)
        if self.load is None or not self._mapping:
            return self._schedule.improvement_rate
        return nearest(self._mapping, self.load)

    def _roll(self, now: float) -> None:
        """Close the periods that are over; a long silence closes many of them at once."""
        period = self._schedule.improvement_rate_update_period
        if self._began is None:
            self._began = now
        passed = int((now - self._began) / period)
        if passed >= 1:
            self.load = self._count / period if passed == 1 else 0.0
            self._began += passed * period
            self._count = 0


def nearest(mapping: Mapping[float, float], load: float) -> float:
    """The rate recorded for the load nearest to `load`; of two, that of the smaller load."""
    return mapping[min(mapping, key=lambda known: (abs(known - load), known))]


def _numbers(mapping: Mapping[str, float]) -> dict[float, float]:
    return {float(load): rate for load, rate in mapping.items()}
