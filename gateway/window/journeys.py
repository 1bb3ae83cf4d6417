"""The ways of this gateway's own requests to their first and second token; pure.

A journey is kept for some time after its request has ended, for whoever asks about it. It holds
times and counts, no text and no token.
"""

import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from common.events import Planned
from common.messages import FirstToken, Joining, Times, Token
from gateway.doors.origin import CURRENT, Origin
from gateway.figures import Figures
from gateway.window.components import Parts, of_first, of_second

MAX_ENDED = 4096
"""Journeys that are remembered after their end."""
_CHOICE = re.compile(r"((?:chat)?cmpl-[0-9a-f]+)[-.:_][0-9]{1,4}(?:[-.:_][0-9]{1,4})?")


@dataclass(slots=True)
class Journey:
    """One request; `arrived` and `ready` by the wall clock, all other moments by the gateway's."""

    name: str
    origin: Origin
    num_prompt: int
    arrived: float
    ready: float
    """When its ids were known."""
    arrival: float
    first: tuple[float, int] | None = None
    """When its first token came, and of which attempt."""
    second: tuple[float, int] | None = None
    times: tuple[Times, int] | None = None
    first_parts: Parts | None = None
    second_parts: Parts | None = None
    joining: Joining | None = None
    plan: Planned | None = None
    predicted: float | None = None
    """TTFT as the plan that brought the first token had predicted it, from the arrival."""
    ended: float | None = None
    outcome: str | None = None
    num_tokens: int = 0

    def wall(self, now: float) -> float:
        """A moment of the gateway's clock, by the wall clock that the arrival was taken with."""
        return self.arrived + (now - self.arrival)

    @property
    def ttft(self) -> float | None:
        """Seconds from arrival to the first token."""
        return None if self.first is None else self.first[0] - self.arrival

    @property
    def queued(self) -> float | None:
        """Seconds that it waited for its plan and for instances, also between its chunks."""
        if self.first_parts is None:
            return None
        return self.first_parts.seconds["plan"] + self.first_parts.seconds["queue"]


@dataclass(slots=True)
class Names:
    """Names that a client may know requests by, and the requests' own."""

    known: dict[str, list[str]] = field(default_factory=dict)

    def add(self, alias: str, name: str) -> None:
        """`alias` is a name of this request, too."""
        self.known.setdefault(alias, []).append(name)

    def remove(self, alias: str, name: str) -> None:
        """The request is forgotten."""
        names = self.known.get(alias, [])
        if name in names:
            names.remove(name)
        if not names:
            self.known.pop(alias, None)


class Journeys:
    """All open requests of this gateway and the last ones that ended."""

    def __init__(self, figures: Figures) -> None:
        self.on_end: Callable[[Journey], object] = _nothing
        """Called with every journey that has ended."""
        self._figures = figures
        self._journeys: dict[str, Journey] = {}
        self._ended: deque[str] = deque()
        self._names = Names()

    def __iter__(self) -> Iterator[Journey]:
        return reversed(self._journeys.values())

    def get(self, name: str) -> Journey | None:
        """The journey of this very request."""
        return self._journeys.get(name)

    def named(self, alias: str) -> list[str]:
        """Requests that a client means: a request's own name, without its choice, or an id."""
        if alias in self._journeys:
            return [alias]
        bare = without_choice(alias)
        if bare in self._journeys:
            return [bare]
        return list(self._names.known.get(alias, ()))

    # What the gateway hears of a request

    def opened(self, name: str, num_prompt: int, arrival: float, now: float, wall: float) -> None:
        """Its ids are known and go to the router; `wall` is `now` by the wall clock."""
        origin = CURRENT.get() or Origin("")
        arrived = wall - (now - arrival)
        self._journeys[name] = Journey(name, origin, num_prompt, arrived, wall, arrival)
        for alias in _aliases(name, origin):
            self._names.add(alias, name)

    def planned(self, plan: Planned) -> None:
        """The router has told of a plan, which may be later than the tokens that came of it."""
        journey = self._journeys.get(plan.request)
        if journey is not None:
            journey.plan = plan
            self._figures.journeys.planned(plan)
            self._compare(journey)

    def token(self, token: Token, now: float) -> None:
        """A token has come that had not come before."""
        journey = self._journeys[token.request]
        if journey.first is None:
            journey.first = (now, token.attempt)
            self._attribute_first(journey)
            self._compare(journey)
        elif token.index == 1 and journey.second is None:
            journey.second = (now, token.attempt)
            self._attribute_second(journey)

    def began(self, message: FirstToken) -> None:
        """Prefill has told how a request came to its first token."""
        token, times = message.token, message.times
        journey = self._journeys.get(token.request)
        if journey is None or times is None or token.index or journey.times is not None:
            return
        journey.times = (times, token.attempt)
        self._attribute_first(journey)
        self._attribute_second(journey)

    def joined(self, joined: Sequence[Joining]) -> None:
        """Decode has told how requests came into its batch."""
        for joining in joined:
            journey = self._journeys.get(joining.request)
            if journey is not None and journey.joining is None:
                journey.joining = joining
                self._attribute_second(journey)

    def closed(self, name: str, outcome: str, num_tokens: int, now: float, last: float) -> None:
        """It is over: stop, length, abort or error; its last token came at `last`."""
        journey = self._journeys[name]
        journey.ended, journey.outcome, journey.num_tokens = now, outcome, num_tokens
        if journey.first is not None and journey.first_parts is None:
            self._figures.journeys.first_unattributed.inc()
        if journey.second is not None and journey.second_parts is None:
            self._figures.journeys.second_unattributed.inc()
        if outcome in ("stop", "length"):
            self._finished(journey, last)
        self.on_end(journey)
        self._ended.append(name)
        if len(self._ended) > MAX_ENDED:
            self._forget(self._ended.popleft())

    # What follows from it

    def _attribute_first(self, journey: Journey) -> None:
        if journey.first is None or journey.times is None or journey.ended is not None:
            return
        (came, attempt), (times, told) = journey.first, journey.times
        if attempt == told:
            came = journey.wall(came)
            journey.first_parts = of_first(journey.arrived, journey.ready, times, came)
            self._figures.journeys.first(journey.first_parts)

    def _attribute_second(self, journey: Journey) -> None:
        second, times, joining = journey.second, journey.times, journey.joining
        if second is None or times is None or joining is None or journey.ended is not None:
            return
        if second[1] == times[1] == joining.attempt and journey.second_parts is None:
            came = journey.wall(second[0])
            journey.second_parts = of_second(times[0].sampled, joining, came)
            self._figures.journeys.second(journey.second_parts)

    def _compare(self, journey: Journey) -> None:
        plan, first, ttft = journey.plan, journey.first, journey.ttft
        if plan is None or first is None or ttft is None or journey.predicted is not None:
            return
        if plan.attempt == first[1]:
            journey.predicted = max(0.0, plan.at + plan.ttft - journey.arrived)
            if journey.predicted > 0:
                self._figures.journeys.ratio.observe(ttft / journey.predicted)

    def _finished(self, journey: Journey, last: float) -> None:
        standard = self._figures.standard
        standard.request_prompt_tokens.observe(journey.num_prompt)
        standard.request_generation_tokens.observe(journey.num_tokens)
        if journey.first is None:
            return
        decode = last - journey.first[0]
        standard.decode_time.observe(decode)
        if journey.num_tokens > 1:
            standard.tpot.observe(decode / (journey.num_tokens - 1))
        if journey.first_parts is not None and journey.queued is not None:
            parts = journey.first_parts.seconds
            standard.queue_time.observe(journey.queued)
            prefill = parts["balance"] + parts["prefill"] + parts["deliver"]
            standard.prefill_time.observe(prefill)
            standard.inference_time.observe(prefill + decode)

    def _forget(self, name: str) -> None:
        journey = self._journeys.pop(name, None)
        if journey is None:
            return
        for alias in _aliases(name, journey.origin):
            self._names.remove(alias, name)


def _nothing(journey: Journey) -> None:
    pass


def without_choice(name: str) -> str:
    """The name that an answer has of which this request is one choice."""
    whole = _CHOICE.fullmatch(name)
    return whole[1] if whole else name


def _aliases(name: str, origin: Origin) -> set[str]:
    return {origin.request_id, without_choice(name)} - {"", name}
