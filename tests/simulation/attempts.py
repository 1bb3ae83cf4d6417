"""What must hold of attempts, judged from messages alone: their numbers, and who keeps their KV."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from common.messages import (
    Cancel,
    EndOfRequest,
    Failed,
    KvAck,
    KvCommit,
    Released,
    RunChunk,
    Skip,
    Submit,
    Welcome,
)
from tests.simulation.history import Event
from tests.simulation.lending import Transfer

Owner = tuple[str, int]


class Numbering:
    """I8: an attempt is submitted with one prompt, and never again once its gateway knows its end.

    What is late is told from what counts by these numbers alone.
    """

    def __init__(self) -> None:
        self._ended: dict[tuple[str, str], int] = {}
        self._submitted: dict[tuple[str, str, int], tuple[int, int]] = {}

    def take(self, event: Event) -> Iterator[str]:
        match event.way, event.message:
            case "took", Failed() | EndOfRequest() as end:
                place = (event.where, end.request)
                self._ended[place] = max(self._ended.get(place, 0), end.attempt)
            case "sent", Submit() as submit:
                yield from self._judge(event.where, submit)

    def end(self) -> Iterator[str]:
        yield from ()

    def _judge(self, where: str, submit: Submit) -> Iterator[str]:
        owner, said = (submit.request, submit.attempt), (submit.num_tokens, submit.num_emitted)
        if submit.attempt <= self._ended.get((where, submit.request), 0):
            yield f"I8 {owner} is submitted again after its end"
        before = self._submitted.setdefault((where, *owner), said)
        if before != said:
            yield f"I8 {owner} is submitted with {said} tokens, and with {before} before"


@dataclass
class _Part:
    """What one life of a prefill instance has to hand over of an attempt."""

    epoch: int
    transfers: frozenset[Transfer]
    is_over: bool = False


@dataclass
class _Place:
    epoch: int = 0
    parts: dict[Owner, _Part] = field(default_factory=dict)
    ended: set[Owner] = field(default_factory=set)


class Handover:
    """I3: a prefill instance keeps an attempt's KV until decode has acknowledged all of it.

    Unless the attempt is over: it was told so, says so itself, or a newer router has come, which
    knows nothing of it.
    """

    def __init__(self) -> None:
        self._places: defaultdict[str, _Place] = defaultdict(_Place)
        self._commits: dict[Transfer, int] = {}
        self._through: set[Transfer] = set()

    def take(self, event: Event) -> Iterator[str]:
        place = self._places[event.where]
        match event.way, event.message:
            case "took", RunChunk() as run:
                self._plan(place, run)
            case "took", Welcome(epoch=epoch) | Skip(epoch=epoch):
                place.epoch = max(place.epoch, epoch)
            case _, EndOfRequest() | Cancel() | Failed() as end:
                place.ended.add((end.request, end.attempt))
            case "sent", KvCommit() as commit:
                self._commits[_transfer(commit)] = commit.num_layers
            case "took", KvAck() as ack if ack.layer == self._commits.get(_transfer(ack)):
                self._through.add(_transfer(ack))
            case "sent", Released() as released:
                yield from self._judge(place, released)

    def end(self) -> Iterator[str]:
        yield from ()

    def _plan(self, place: _Place, run: RunChunk) -> None:
        place.epoch = max(place.epoch, run.epoch)
        owner = (run.request, run.attempt)
        own = (i for i, chunk in enumerate(run.chunks) if run.rank < chunk.size)
        transfers = frozenset(Transfer(*owner, i, run.rank) for i in own)
        part = place.parts.setdefault(owner, _Part(run.epoch, transfers))
        # One attempt of two routers is over for who knew it from the first.
        part.is_over = part.is_over or part.epoch != run.epoch

    def _judge(self, place: _Place, released: Released) -> Iterator[str]:
        owner = (released.request, released.attempt)
        part = place.parts.get(owner)
        if part is None or part.is_over or part.epoch < place.epoch or owner in place.ended:
            return
        missing = part.transfers - self._through
        if missing:
            yield f"I3 {released.name} lets go of {owner}, and decode lacks {sorted(missing)}"


def _transfer(message: KvCommit | KvAck) -> Transfer:
    return Transfer(message.request, message.attempt, message.chunk, message.rank)
