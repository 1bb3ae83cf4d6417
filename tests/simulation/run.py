"""Runs seeds of the simulation: `python -m tests.simulation.run --seeds 0..99`.

A line for every seed that fails, with the command that repeats it; the figures at the end.
"""

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tests.simulation.scenario import HORIZON, Result, play, scenario

SHOWN = 8
"""Violations printed for one seed."""


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line asks for; 1 when a seed has failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.run", description=__doc__)
    parser.add_argument("--seeds", default="0..9", metavar="A..B", help="the last one included")
    parser.add_argument("--seconds-virtual", type=float, default=HORIZON, metavar="N")
    parser.add_argument("--verbose", action="store_true", help="what each seed does")
    given = parser.parse_args(arguments)
    results = []
    for seed in _seeds(given.seeds):
        if given.verbose:
            _say(f"{scenario(seed, given.seconds_virtual)}\n")
        with tempfile.TemporaryDirectory() as path:
            results.append(play(Path(path), seed, given.seconds_virtual))
        _say(_failure(results[-1], given.seconds_virtual))
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{len(results)} seeds")
    _say(summary(results))
    return int(any(result.violations for result in results))


def summary(results: Iterable[Result]) -> str:
    """The figures of all runs."""
    results = list(results)
    outcomes = sum((result.outcomes for result in results), Counter[str]())
    virtual, cpu = sum(one.virtual for one in results), sum(one.cpu for one in results)
    failed = [result.seed for result in results if result.violations]
    return (
        f"{len(results)} seeds, {virtual / 3600:.2f} virtual hours, "
        f"{sum(one.num_events for one in results)} events checked, "
        f"{sum(len(one.violations) for one in results)} violations in {len(failed)} seeds, "
        f"{cpu:.0f} s of CPU, {virtual / cpu:.0f} times real time\n"
        f"requests: {', '.join(f'{count} {name}' for name, count in outcomes.most_common())}; "
        f"{sum(one.num_attempts for one in results)} attempts failed; "
        f"{sum(one.num_schedules for one in results)} schedules\n"
        f"last trace {results[-1].trace}\n"
    )


def _failure(result: Result, horizon: float) -> str:
    if not result.violations:
        return ""
    lines = [f"seed {result.seed} FAILED, {len(result.violations)} violations; again with"]
    command = f"python -m tests.simulation.run --seeds {result.seed}..{result.seed}"
    lines.append(f"  {command} --seconds-virtual {horizon:g}")
    lines += [f"    {violation[:400]}" for violation in result.violations[:SHOWN]]
    return "\n".join(lines) + "\n"


def _seeds(text: str) -> range:
    first, _, last = text.partition("..")
    return range(int(first), int(last or first) + 1)


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
