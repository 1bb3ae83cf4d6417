"""A plan and its reasons, for people."""

import math
from collections.abc import Sequence

from compose.plan_board import BUSY, IDLE, MOST_ROWS, board, letter
from compose.table import count, table
from services.router.explain import NO_GAP, Chunking, Explanation
from services.router.plan import Plan, Policy, PoolView
from services.router.plan_answer import verdict
from services.router.prefix import Share

LONGEST_GROUP = 40
"""Characters of a group's names; the rest is in the JSON."""
MOST_CHUNKINGS = 24


def plan_text(told: Explanation, model: str, shares: list[Share]) -> str:
    """What was asked, what was looked at, and what came out."""
    plan = told.plan
    blocks = [
        _head(plan, model),
        _shares(plan, shares),
        _candidates(told),
        _chunkings(told),
        _chosen(plan),
        board(plan),
        [_legend(plan)],
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def names_text(names: tuple[str, ...], view: PoolView) -> str:
    """The names in the view's order, neighbours as a range: `p0-p7 p9`."""
    indices = sorted(view.names.index(name) for name in names)
    ranges: list[list[int]] = []
    for index in indices:
        if ranges and index == ranges[-1][1] + 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    text = " ".join(
        view.names[first] if first == last else f"{view.names[first]}-{view.names[last]}"
        for first, last in ranges
    )
    return text if len(text) <= LONGEST_GROUP else f"{text[: LONGEST_GROUP - 3]}..."


def _head(plan: Plan, model: str) -> list[str]:
    view, policy, reused = plan.view, plan.policy, plan.reused
    nodes = count(len(set(view.nodes)), "node")
    lines = [
        f"{count(plan.length - reused.tokens, 'token')} to compute on "
        f"{count(len(view.names), 'prefill instance')} of {nodes}, latency model {model}",
        f"policy {policy.name}: {_rule(policy)}",
        f"SP candidates {', '.join(map(str, policy.sizes))}",
    ]
    if policy.name in ("cdsp", "cdsp-priced"):
        lines[-1] += f"; chunks before the last one of {policy.min_chunk} tokens at least"
    if reused.tokens:
        held = f"on {names_text(reused.members, view)}" if reused.members else "read by any"
        lines.append(f"after {count(reused.tokens, 'token')} that are there already, {held}")
    return lines


def _rule(policy: Policy) -> str:
    match policy.name:
        case "cdsp-priced":
            return f"an instance for a second costs {policy.price:.3f} s of TTFT"
        case "loongserve":
            return "the fastest size"
        case "fixed-sp":
            return "the group that is free first"
        case _:
            return f"a larger size has to save {100 * policy.rate:g} % of TTFT"


def _shares(plan: Plan, shares: list[Share]) -> list[str]:
    rows = [
        (
            str(share.plan.reused.tokens),
            names_text(share.plan.reused.members, plan.view) or "nobody",
            f"{share.plan.ttft:.3f}",
            f"{share.cost:.3f}" if plan.policy.name == "cdsp-priced" else "",
            "chosen" if share.plan == plan else "",
        )
        for share in shares
    ]
    return _block(
        "What of the prefix to reuse",
        ("TOKENS", "HELD BY", "TTFT", "COST", ""),
        rows,
        "TOKENS TTFT COST",
    )


def _candidates(told: Explanation) -> list[str]:
    rows = [
        (
            str(one.size),
            f"{one.delay:.3f}",
            f"{one.ttft:.3f}",
            "" if one.fastest is None else f"{one.fastest:.3f}",
            "" if one.cost is None else f"{one.cost:.3f}",
            verdict(one),
            names_text(one.members, told.plan.view),
        )
        for one in told.candidates
    ]
    head = ("SP", "DELAY", "TTFT", "FASTEST", "COST", "VERDICT", "GROUP")
    title = "The whole prompt in one chunk"
    if told.plan.policy.name == "cdsp-priced":
        title += ", and the fastest plan that ends with that size"
    return _block(title, head, rows, "SP DELAY TTFT FASTEST COST")


def _chunkings(told: Explanation) -> list[str]:
    cut = list(dict.fromkeys(one for one in told.chunkings if len(one.sizes) > 1))
    tried = [one for one in cut if one.dropped != NO_GAP]
    without = dict.fromkeys(_arrows(one) for one in cut if one.dropped == NO_GAP)
    left_out = len(tried) - MOST_CHUNKINGS
    if left_out > 0:
        fastest = sorted(tried, key=lambda one: math.inf if one.ttft is None else one.ttft)
        kept = set(fastest[:MOST_CHUNKINGS])
        tried = [one for one in tried if one in kept or one.chosen]
    rows = [
        (
            _arrows(one),
            " + ".join(map(str, one.lengths)),
            "" if one.ttft is None else f"{one.ttft:.3f}",
            "chosen" if one.chosen else one.dropped or "",
        )
        for one in tried
    ]
    lines = _block("Several chunks", ("SP", "TOKENS", "TTFT", "VERDICT"), rows, "TTFT")
    if left_out > 0:
        lines.append(f"  and {left_out} more, none of them faster; --json has them all")
    if without:
        lines.append(f"{'  ' if lines else 'Several chunks: '}no gap to fill: {', '.join(without)}")
    return lines


def _arrows(one: Chunking) -> str:
    return ">".join(map(str, one.sizes))


def _chosen(plan: Plan) -> list[str]:
    rows = [
        (
            letter(index),
            str(chunk.length),
            str(chunk.history),
            str(chunk.size),
            f"{start:.3f}",
            f"{seconds:.3f}",
            names_text(plan.group(index), plan.view),
        )
        for index, (chunk, start, seconds) in enumerate(
            zip(plan.chunks, plan.starts, plan.predicted, strict=True)
        )
    ]
    head = ("CHUNK", "TOKENS", "HISTORY", "SP", "START", "SECONDS", "GROUP")
    title = f"The plan: first token after {plan.ttft:.3f} s"
    return _block(title, head, rows, "TOKENS HISTORY SP START SECONDS")


def _legend(plan: Plan) -> str:
    legend = f"{IDLE} idle, {BUSY} earlier work, letters: chunks"
    if len(plan.view.names) > MOST_ROWS:
        legend += "; +7: seven more of that node look the same"
    return legend


def _block(
    title: str, head: tuple[str, ...], rows: Sequence[tuple[str, ...]], right: str
) -> list[str]:
    return [title, *(f"  {line}" for line in table(head, rows, right))] if rows else []
