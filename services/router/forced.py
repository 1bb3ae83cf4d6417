"""Plans that a client demands: "1,2,4" (equal lengths), or "1:512,2:1024,4" (the rest last).

The instances are the planner's choice all the same.
"""

from itertools import pairwise

from common.errors import RequestFailed
from common.latency import LatencyModel
from common.messages import Chunk
from services.router.groups import Groups
from services.router.plan import Plan, Policy, PoolView

MAX_CHUNKS = 64


def forced_plan(
    text: str, length: int, view: PoolView, policy: Policy, model: LatencyModel
) -> Plan:
    """The demanded plan on the instances that are free first.

    Raises:
        RequestFailed: saying what is wrong with the demand.
    """
    chunks = parse(text, length, model)
    size = chunks[-1].size
    if size > len(view.names):
        raise RequestFailed(
            f"x-tetris-plan: SP size {size} needs as many prefill instances, "
            f"there are {len(view.names)}"
        )
    groups = Groups.of(view)
    group, passed, predicted = groups.start, 0.0, []
    wait = groups.extend(group, chunks[0].size).delay
    for chunk in chunks:
        group = groups.extend(group, chunk.size)
        predicted.append(model.predict(chunk.size, chunk.history, chunk.length))
        passed = max(passed, group.delay) + predicted[-1]
    members = tuple(view.names[index] for index in group.members)
    return Plan(chunks, members, tuple(predicted), passed, view, policy, wait, forced=text)


def parse(text: str, length: int, model: LatencyModel) -> tuple[Chunk, ...]:
    """The chunks that a demand names for a prompt of `length` tokens.

    Raises:
        RequestFailed: saying what is wrong with it.
    """
    parts = [part.strip().split(":") for part in text.split(",")]
    if len(parts) > MAX_CHUNKS:
        raise RequestFailed(f"x-tetris-plan: at most {MAX_CHUNKS} chunks")
    sizes = [_number(part[0], text) for part in parts]
    unknown = [size for size in sizes if size not in model.curves]
    if unknown:
        raise RequestFailed(
            f"x-tetris-plan: SP size {unknown[0]} is not in the latency model; "
            f"it has {list(model.sizes)}"
        )
    if any(after < before for before, after in pairwise(sizes)):
        raise RequestFailed("x-tetris-plan: SP sizes may not shrink from chunk to chunk")
    lengths = _lengths(parts, text, length)
    if any(count < 1 for count in lengths):
        raise RequestFailed(
            f"x-tetris-plan: a prompt of {length} tokens leaves a chunk of {text!r} without any"
        )
    chunks, history = [], 0
    for size, count in zip(sizes, lengths, strict=True):
        chunks.append(Chunk(history, count, size))
        history += count
    return tuple(chunks)


def _lengths(parts: list[list[str]], text: str, length: int) -> list[int]:
    if all(len(part) == 1 for part in parts):
        count = len(parts)
        return [(i + 1) * length // count - i * length // count for i in range(count)]
    *first, last = parts
    if any(len(part) != 2 for part in first) or len(last) != 1:
        raise RequestFailed(
            f"x-tetris-plan: {text!r} is neither sizes (1,2,4) nor size:length with a size alone "
            "at the end (1:512,2:1024,4)"
        )
    lengths = [_number(part[1], text) for part in first]
    return [*lengths, length - sum(lengths)]


def _number(text: str, whole: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 9 and int(text) > 0):
        raise RequestFailed(f"x-tetris-plan: {text!r} in {whole!r} is not a positive integer")
    return int(text)
