"""The history as a trace in Chrome's format, which Perfetto opens; pure.

A process for each machine, a thread for each prefill instance with its chunks, threads for each
decode instance with the requests that it decodes at the same time, arrows from one to the other
where KV is handed over, and counters. Times are microseconds since the first event.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from common.events import Computed, Decoding, Happening, MeshState, Over, Planned
from gateway.window.lanes import Lanes, Row

MAX_OPEN = 20_000
"""Attempts whose end is awaited, so that they can be drawn."""
MESH = "router"
UNKNOWN = "unknown machine"

Record = dict[str, object]
PlanOf = Callable[[str, int], Planned | None]
Key = tuple[str, int]


@dataclass(slots=True)
class Handed:
    """Where a member has last computed for an attempt, and until when."""

    row: Row
    end: float


@dataclass(slots=True)
class Open:
    """An attempt that is not over yet."""

    plan: Planned | None = None
    handed: dict[str, Handed] = field(default_factory=dict)
    decoding: Decoding | None = None


class Trace:
    """Turns events, given in order, into records.

    Args:
        start: the moment that is 0.
        nodes: machines of members.
        plan_of: the plan of an attempt, if it is known though its event is not among those given.
    """

    def __init__(self, start: float, nodes: dict[str, str], plan_of: PlanOf) -> None:
        self._start = start
        self._nodes = nodes
        self._plan_of = plan_of
        self._lanes = Lanes()
        self._open: dict[Key, Open] = {}
        self._last = 0.0
        self._num_flows = 0

    def add(self, event: Happening) -> Iterator[Record]:
        """What an event adds."""
        self._last = max(self._last, self._at(event.at))
        match event:
            case Planned():
                yield from self._planned(event)
            case Computed():
                yield from self._computed(event)
            case Decoding():
                self._attempt(event.request, event.attempt).decoding = event
            case Over():
                yield from self._over(event)
            case MeshState():
                yield from self._state(event)
            case _:
                pass

    def end(self) -> Iterator[Record]:
        """What is not over is drawn up to the last event."""
        for key in list(self._open):
            yield from self._decoded(key, self._open.pop(key), self._last, "open")

    # Requests

    def _planned(self, plan: Planned) -> Iterator[Record]:
        self._attempt(plan.request, plan.attempt).plan = plan
        args = {
            "request": plan.request,
            "attempt": plan.attempt,
            "policy": plan.policy,
            "rate": plan.rate,
            "ttft": plan.ttft,
            "shadow": plan.shadow,
            "chunks": [[chunk.length, chunk.size] for chunk in plan.chunks],
            "decode": plan.decode,
        }
        yield from self._instant(f"planned {short(plan.request)}", plan.at, args)

    def _over(self, over: Over) -> Iterator[Record]:
        args: Record = {"request": over.request, "attempt": over.attempt, "how": over.how}
        yield from self._instant(f"over {short(over.request)}", over.at, args)
        key = over.request, over.attempt
        if key in self._open:
            yield from self._decoded(key, self._open.pop(key), self._at(over.at), over.how)

    def _computed(self, done: Computed) -> Iterator[Record]:
        attempt = self._attempt(done.request, done.attempt)
        row, fresh = self._lanes.row(self._node(done.member), done.member)
        yield from fresh
        end = self._at(done.at)
        phases = (("gather", done.gather), ("balance", done.balance), ("compute", _ring(done)))
        # What a thread shows must not overlap, and messages do not always take equally long.
        start, end = row.place(end - 1e6 * sum(seconds for _, seconds in phases), end)
        name, args = _chunk(done, attempt.plan)
        yield _slice(row, name, start, end, args)
        at = start
        for phase, seconds in phases:
            until = min(end, at + 1e6 * seconds)
            if until > at:
                yield _slice(row, phase, at, until, {})
            at = until
        attempt.handed[done.member] = Handed(row, end)

    def _decoded(self, key: Key, attempt: Open, end: float, how: str) -> Iterator[Record]:
        decoding = attempt.decoding
        if decoding is None:
            return
        node, begun = self._node(decoding.decode), self._at(decoding.at)
        row, fresh = self._lanes.free_row(node, decoding.decode, begun)
        yield from fresh
        start, end = row.place(begun, end)
        args = {"request": key[0], "attempt": key[1], "slots": decoding.slots, "how": how}
        yield _slice(row, f"decode {short(key[0])}", start, end, args)
        for handed in attempt.handed.values():
            # An arrow leaves inside of a slice, and must not go back in time.
            leaves, lands = max(0.0, handed.end - 0.5), max(start, handed.end)
            if lands < end:
                self._num_flows += 1
                yield _flow("s", self._num_flows, handed.row, leaves)
                yield _flow("f", self._num_flows, row, lands) | {"bp": "e"}

    # Members

    def _state(self, state: MeshState) -> Iterator[Record]:
        at = self._at(state.at)
        row, fresh = self._lanes.row(MESH, MESH)
        yield from fresh
        yield _counter(row, "requests", at, {"waiting": state.waiting, "all": state.requests})
        for member in state.decode:
            row, fresh = self._lanes.process(member.node)
            yield from fresh
            yield _counter(row, f"{member.name} batch", at, {"requests": member.active})
            fill = member.used / max(member.total, 1)
            yield _counter(row, f"{member.name} KV fill", at, {"share": fill})

    def _instant(self, name: str, at: float, args: Record) -> Iterator[Record]:
        row, fresh = self._lanes.row(MESH, MESH)
        yield from fresh
        yield _record("i", row, name, self._at(at)) | {"s": "t", "args": args}

    def _attempt(self, request: str, number: int) -> Open:
        key = request, number
        if key not in self._open:
            self._open[key] = Open(self._plan_of(request, number))
            if len(self._open) > MAX_OPEN:
                del self._open[next(iter(self._open))]
        return self._open[key]

    def _node(self, member: str) -> str:
        return self._nodes.get(member, UNKNOWN)

    def _at(self, moment: float) -> float:
        return max(0.0, 1e6 * (moment - self._start))


def short(request: str) -> str:
    """A name that fits into a slice."""
    return request.removeprefix("chatcmpl-").removeprefix("cmpl-")[:8]


def _ring(done: Computed) -> float:
    return done.compute + done.wait


def _chunk(done: Computed, plan: Planned | None) -> tuple[str, Record]:
    args: Record = {
        "request": done.request,
        "attempt": done.attempt,
        "gather": done.gather,
        "balance": done.balance,
        "compute": done.compute,
        "wait": done.wait,
        "send": done.send,
    }
    number = f"chunk {done.index + 1}"
    if plan is None or done.index >= len(plan.chunks):
        return f"{short(done.request)} {number}", args
    chunk = plan.chunks[done.index]
    history = sum(earlier.length for earlier in plan.chunks[: done.index])
    args |= {"history": history, "length": chunk.length, "predicted": chunk.seconds}
    return f"{short(done.request)} SP{chunk.size} {number}/{len(plan.chunks)}", args


def _record(kind: str, row: Row, name: str, at: float) -> Record:
    return {"ph": kind, "pid": row.pid, "tid": row.tid, "name": name, "ts": at}


def _slice(row: Row, name: str, start: float, end: float, args: Record) -> Record:
    return _record("X", row, name, start) | {"dur": end - start, "args": args}


def _flow(kind: str, flow: int, row: Row, at: float) -> Record:
    return _record(kind, row, "hand-over", at) | {"cat": "kv", "id": flow}


def _counter(row: Row, name: str, at: float, values: Record) -> Record:
    return _record("C", row, name, at) | {"args": values}
