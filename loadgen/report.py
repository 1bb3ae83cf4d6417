"""Figures of a run, in the names of `vllm bench serve`, and as a few lines to read."""

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np

from loadgen.client import Outcome

Value = str | float | int | None | list[float] | list[int] | list[str] | list[list[float]]
Report = dict[str, Value]


def make_report(outcomes: Sequence[Outcome], duration: float) -> Report:
    """Figures of all requests sent in `duration` seconds; latencies are of the completed ones."""
    done = [outcome for outcome in outcomes if outcome.ok]
    num_input = sum(outcome.num_input for outcome in done)
    num_output = sum(outcome.num_output for outcome in done)
    report: Report = {
        "date": datetime.now(UTC).strftime("%Y%m%d-%H%M%S"),
        "endpoint_type": "openai",
        "backend": "openai",
        "burstiness": 1.0,
        "max_concurrency": None,
        "duration": duration,
        "completed": len(done),
        "failed": len(outcomes) - len(done),
        "total_input_tokens": num_input,
        "total_output_tokens": num_output,
        "request_throughput": len(done) / duration,
        "output_throughput": num_output / duration,
        "total_token_throughput": (num_input + num_output) / duration,
        "max_send_delay_ms": 1000 * max((outcome.delay for outcome in outcomes), default=0.0),
    }
    return report | _latencies(done) | _details(outcomes)


def _latencies(done: Sequence[Outcome]) -> Report:
    per_token = [
        (outcome.latency - outcome.ttft) / (outcome.num_output - 1)
        for outcome in done
        if outcome.num_output > 1
    ]
    return (
        _distribution("ttft", [outcome.ttft for outcome in done])
        | _distribution("tpot", per_token)
        | _distribution("itl", [gap for outcome in done for gap in outcome.gaps])
        | _distribution("e2el", [outcome.latency for outcome in done])
    )


def _distribution(name: str, seconds: Sequence[float]) -> Report:
    ms = 1000 * np.array(seconds or [0.0])
    return {
        f"mean_{name}_ms": float(ms.mean()),
        f"median_{name}_ms": float(np.median(ms)),
        f"std_{name}_ms": float(ms.std()),
        f"p50_{name}_ms": float(np.percentile(ms, 50)),
        f"p90_{name}_ms": float(np.percentile(ms, 90)),
        f"p99_{name}_ms": float(np.percentile(ms, 99)),
    }


def _details(outcomes: Sequence[Outcome]) -> Report:
    return {
        "input_lens": [outcome.num_input for outcome in outcomes],
        "output_lens": [outcome.num_output for outcome in outcomes],
        "ttfts": [outcome.ttft for outcome in outcomes],
        "itls": [outcome.gaps for outcome in outcomes],
        "latencies": [outcome.latency for outcome in outcomes],
        "start_times": [outcome.start for outcome in outcomes],
        "errors": [outcome.error for outcome in outcomes],
    }


def progress(outcomes: Sequence[Outcome], running: int, total: int) -> str:
    """One line about a run under way."""
    ended = len(outcomes) - running
    first = [outcome.ttft for outcome in outcomes if outcome.arrivals]
    ttft = f"{np.median(first):.2f} s" if first else "-"
    return f"{ended}/{total} done, {running} running, TTFT P50 {ttft}"


def summary(report: Report) -> str:
    """A few lines for a person."""

    def pair(name: str) -> str:
        p50, p99 = report[f"p50_{name}_ms"], report[f"p99_{name}_ms"]
        assert isinstance(p50, float)
        assert isinstance(p99, float)
        return f"P50 {p50:10.1f} ms   P99 {p99:10.1f} ms"

    errors = report["errors"]
    assert isinstance(errors, list)
    first = next((str(error) for error in errors if error), None)
    lines = [
        f"completed {report['completed']}, failed {report['failed']}",
        f"TTFT      {pair('ttft')}",
        f"TBT       {pair('itl')}",
        f"E2E       {pair('e2el')}",
        f"output    {report['output_throughput']:.1f} tokens/s",
    ]
    return "\n".join([*lines, f"first error: {first}"] if first else lines) + "\n"
