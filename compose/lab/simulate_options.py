"""The options of `tetris simulate` and `tetris rates`; what runs them loads much more."""

import argparse
from pathlib import Path

from common.schedule import POLICIES
from compose.numbers import numbers, whole


def add_simulate(parser: argparse.ArgumentParser) -> None:
    """What a run is, and lists of what a sweep goes through."""
    parser.description = (
        "Serve a workload on a cluster in virtual time. Lists (a,b,c, or FIRST:LAST:STEP for "
        "numbers) make a sweep of all their combinations on all cores."
    )
    add = parser.add_argument
    _add_cluster(parser)
    add("--workload", type=_words, default=["medium"], metavar="W",
        help="short, medium, long, or a trace: Mooncake, Azure (default: medium)")  # fmt: skip
    add("--policy", type=_words, metavar="X", help=f"{POLICIES} (default: the preset's)")
    add("--rate", type=_rates, metavar="R",
        help="requests per second (default: a trace's own)")  # fmt: skip
    add("--requests", type=int, metavar="N", help="of each run (default: 2000)")
    add("--seed", type=_seeds, default=[0], metavar="S", help="(default: 0)")
    add("--improvement-rate", type=float, metavar="X",
        help="fixed, instead of the mapping profiled for the workload")  # fmt: skip
    add("--order", metavar="ORDER", help="of cdsp-priced: arrival, slope:K or tail:X")
    add("--burstiness", type=float, metavar="CV",
        help="coefficient of variation of the gaps, 1 for Poisson (default)")  # fmt: skip
    add("--sigma", type=float, help="spread of the lengths (default: the workload's)")
    add("--time-scale", type=float, metavar="F", help="of a trace's times; 0.5 is twice the rate")
    add("--min-length", type=int, metavar="N", help="leave shorter prompts of a trace out")
    add("--prediction-error", type=float, metavar="E",
        help="relative standard deviation of real around predicted seconds")  # fmt: skip
    add("--transfer-seconds", type=float, metavar="S",
        help="to hand over one token's KV from one instance (default: 0)")  # fmt: skip
    add("--token-seconds", type=float, metavar="S", help="between two tokens of an answer")
    add("--prefill-tokens", type=int, metavar="N",
        help="KV of a prefill instance (default: as much as is wanted)")  # fmt: skip
    add("--decode-tokens", type=int, metavar="N",
        help="KV of a decode instance (default: as much as is wanted)")  # fmt: skip
    add("--decode", type=int, metavar="N", help="decode instances")
    add("--plot", type=Path, metavar="FILE", help="draw TTFT over the rate (.svg or .png)")
    add("--json", action="store_true", help="one line of JSON for each run")


def add_rates(parser: argparse.ArgumentParser) -> None:
    """What a profile is for."""
    parser.description = (
        "Profile the improvement rate that suits each load, for schedule.improvement_rate_mapping "
        "or POST /update."
    )
    add = parser.add_argument
    _add_cluster(parser)
    add("--workload", default="medium", metavar="W", help="as of simulate (default: medium)")
    add("--policy", default="cdsp", metavar="X", help="cdsp or single-chunk")
    add("--top", type=float, default=5.0, metavar="R",
        help="requests per second up to which loads are tried (default: 5)")  # fmt: skip
    add("--requests", type=int, default=2000, metavar="N")
    add("--min-length", type=int, default=1, metavar="N", help="of a trace's prompts")
    add("--seed", type=_seeds, default=[101, 102, 103], metavar="S", help="(default: 101:103:1)")
    add("--json", action="store_true", help="a body for POST /update")


def _add_cluster(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--preset", default="a100-llama3-8b", metavar="P",
        help="preset's name or file, or a latency model's name (default: %(default)s)")  # fmt: skip
    add("--nodes", type=_count, metavar="K", help="machines with prefill instances")
    add("--instances-per-node", type=_count, metavar="M", help="prefill instances on each of them")


def _count(text: str) -> int:
    return whole(text, 1, 1024)


def _words(text: str) -> list[str]:
    found = [word for word in text.split(",") if word]
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} names nothing")
    return found


def _rates(text: str) -> list[float]:
    try:
        found = [round(rate, 9) for rate in numbers(text)]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: give 2, 1,2.5,4 or 1:4:0.5") from None
    if not all(0 < rate <= 1e6 for rate in found):
        raise argparse.ArgumentTypeError(f"{text!r}: a rate is above 0 and at most a million")
    return found


def _seeds(text: str) -> list[int]:
    try:
        found = numbers(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: give 3, 1,2,3 or 0:9:1") from None
    if not all(0 <= seed < 2**63 and seed == int(seed) for seed in found):
        raise argparse.ArgumentTypeError(f"{text!r}: a seed is a whole number")
    return [int(seed) for seed in found]
