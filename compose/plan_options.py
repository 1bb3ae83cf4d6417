"""The options of `tetris plan`; what runs it loads more than a command line needs."""

import argparse

from common.schedule import POLICIES
from compose.delays import HELP
from compose.numbers import whole

MOST = 2**31 - 1
"""Tokens."""


def add_plan(parser: argparse.ArgumentParser) -> None:
    """Everything that decides a plan."""
    parser.description = (
        "Plan one prompt on a cluster that need not exist, and say why the plan is as it is."
    )
    add = parser.add_argument
    add("--preset", required=True, metavar="P",
        help="name or TOML file of a preset, or a latency model's name")  # fmt: skip
    add("--length", required=True, type=_tokens, metavar="N", help="tokens of the prompt")
    add("--delays", default="0", metavar="LIST|FILE", help=f"{HELP} (default: %(default)s)")
    before = parser.add_mutually_exclusive_group()
    before.add_argument(
        "--history", default=0, type=_number, metavar="C",
        help="tokens before the N ones that are computed already and that every instance can read: "
        "the C of T_s(C, L)",
    )  # fmt: skip
    before.add_argument(
        "--prefix", type=_prefix, metavar="TOKENS@I,J,...",
        help="so many of the N tokens are cached, in equal shares, by the instances with these "
        "indices (from 0); as many shares are reused as pay off",
    )  # fmt: skip
    add("--policy", metavar="X", help=f"{POLICIES} (default: the preset's, as all below)")
    add("--improvement-rate", type=float, metavar="R",
        help="share of TTFT that a larger size has to save")  # fmt: skip
    add("--sizes", type=_sizes, metavar="1,2,4", help="SP candidates")
    add("--min-chunk", type=_tokens, metavar="N", help="tokens of the shortest first chunk")
    add("--waiting", default=0, type=_number, metavar="W",
        help="other requests in the queue, which raise the price under cdsp-priced")  # fmt: skip
    add("--nodes", type=_count, metavar="K", help="machines with prefill instances")
    add("--instances-per-node", type=_count, metavar="M", help="prefill instances on each of them")
    add("--json", action="store_true", help="for programs")


def _tokens(text: str) -> int:
    return whole(text, 1, MOST)


def _number(text: str) -> int:
    return whole(text, 0, MOST)


def _count(text: str) -> int:
    return whole(text, 1, 1024)


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(_count(part) for part in text.split(","))


def _prefix(text: str) -> tuple[int, tuple[int, ...]]:
    """Tokens, and the indices of their holders."""
    tokens, _, holders = text.partition("@")
    indices = tuple(_number(part) for part in holders.split(","))
    if len(set(indices)) < len(indices):
        raise argparse.ArgumentTypeError("names an instance twice")
    return _tokens(tokens), indices
