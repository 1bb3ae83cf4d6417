"""A request's journey and events as spans for a tracing system; pure. Times are wall-clock seconds.

The request is the root; chunks with their balancing, the hand-over and decoding are inside of it.
"""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from common.events import Happening
from gateway.window.account import AttemptAccount, ChunkAccount, account_of
from gateway.window.journeys import Journey

Value = str | int | float


class Span(Struct, frozen=True):
    """Something that took a while."""

    name: str
    start: float
    end: float
    attributes: Mapping[str, Value]
    children: Sequence["Span"] = ()
    failed: bool = False


def span_of(journey: Journey, events: Sequence[Happening]) -> Span:
    """The root span of a request that has ended."""
    account = account_of(journey.name, journey, events)
    end = journey.wall(journey.arrival if journey.ended is None else journey.ended)
    attributes: dict[str, Value] = {
        "tetris.request": journey.name,
        "tetris.request_id": journey.origin.request_id,
        "tetris.outcome": account.outcome,
        "gen_ai.usage.input_tokens": journey.num_prompt,
        "gen_ai.usage.output_tokens": journey.num_tokens,
    }
    if journey.ttft is not None:
        attributes["tetris.ttft"] = journey.ttft
    for part, seconds in (account.ttft.components or {}).items():
        attributes[f"tetris.ttft.{part}"] = seconds
    children = [span for attempt in account.attempts for span in _attempt(attempt, end)]
    failed = account.outcome == "error"
    return Span("request", journey.arrived, end, attributes, children, failed)


def _attempt(attempt: AttemptAccount, end: float) -> list[Span]:
    spans: list[Span] = []
    chunks = attempt.plan.chunks if attempt.plan is not None else []
    for chunk in chunks:
        spans += _chunk(chunk, attempt.attempt, len(chunks))
    decode = attempt.decode
    if decode is None or decode.at is None:
        return spans
    number: dict[str, Value] = {"tetris.attempt": attempt.attempt}
    where = number | {"tetris.decode": decode.instance}
    if attempt.transfer.seconds is not None:
        start = decode.at - attempt.transfer.seconds
        spans.append(Span("transfer", start, decode.at, where))
    until = attempt.over.at if attempt.over is not None else end
    slots = where | {"tetris.slots": decode.slots or 0}
    spans.append(Span("decode", decode.at, max(until, decode.at), slots))
    return spans


def _chunk(chunk: ChunkAccount, attempt: int, count: int) -> list[Span]:
    measured = chunk.measured
    if measured.start is None or measured.end is None:
        return []
    start, end = measured.start, max(measured.start, measured.end)
    attributes: dict[str, Value] = {
        "tetris.attempt": attempt,
        "tetris.chunk": f"{chunk.index + 1}/{count}",
        "tetris.length": chunk.length,
        "tetris.sp": chunk.size,
        "tetris.members": ",".join(chunk.members),
        "tetris.predicted": chunk.predicted.seconds,
    }
    longest = max((work.balance for work in measured.members), default=0.0)
    balance = Span("balance", start, min(end, start + longest), {"tetris.attempt": attempt})
    return [Span("chunk", start, end, attributes, [balance] if longest > 0 else [])]
