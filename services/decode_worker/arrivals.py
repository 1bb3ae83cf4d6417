"""Transfers of requests on their way in, until a request has all of its KV.

A pure object of the event loop.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from msgspec import structs

from common.messages import DecodeJob, KvCommit
from common.pages import Owner, Span, num_slots
from common.past import Past
from services.decode_worker.request import Failure, Request
from services.decode_worker.slots import Slots


@dataclass
class _Arrival:
    epoch: int
    committed: dict[tuple[int, int], KvCommit] = field(default_factory=dict)
    job: DecodeJob | None = None


class Arrivals:
    """Attempts of which at least one transfer is committed, and not yet all."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._arrivals: dict[Owner, _Arrival] = {}

    def __contains__(self, owner: Owner) -> bool:
        return owner in self._arrivals

    def __iter__(self) -> Iterator[Owner]:
        return iter(self._arrivals)

    def committed(self) -> list[KvCommit]:
        """All that is in its slots of attempts of which more is to come."""
        return [one for arrival in self._arrivals.values() for one in arrival.committed.values()]

    def end(self, owner: Owner) -> None:
        """Forget an attempt."""
        self._arrivals.pop(owner, None)

    def commit(self, message: KvCommit) -> Request | Failure | None:
        """One transfer is in its slots; the request, when that was the last. Idempotent."""
        owner = Owner(message.request, message.attempt)
        arrival = self._arrivals.setdefault(owner, _Arrival(message.epoch))
        if message.epoch != arrival.epoch:
            return Failure(owner, "two routers have planned it, each in its own way")
        arrival.job = arrival.job or message.job
        missing = message.num_layers - self._slots.num_layers(message)
        if missing:
            return Failure(owner, f"{missing} layers of a transfer never arrived")
        arrival.committed[message.chunk, message.rank] = message
        if arrival.job is None or len(arrival.committed) < message.num_transfers:
            return None
        spans = self._slots.spans(owner)
        if not spans or num_slots(spans) < message.prompt_length:
            return Failure(owner, "KV of a part of the prompt never arrived")
        if arrival.job.sampling.looks_back and len(arrival.job.past) != 4 * message.prompt_length:
            return Failure(owner, "the ids that penalties look at never arrived", retryable=False)
        del self._arrivals[owner]
        return _request(owner, arrival.job, message.prompt_length, spans)


def _request(owner: Owner, job: DecodeJob, prompt_length: int, spans: list[Span]) -> Request:
    first, past = job.first, None
    if job.sampling.looks_back:
        past = Past(job.past, first.index)
        past.add(first.id)
        job = structs.replace(job, past=b"")  # known now, and long
    return Request(owner, job, prompt_length, spans, [first], last=first.id, past=past)
