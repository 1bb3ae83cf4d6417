"""`tetris bench`: a load of Poisson arrivals against any OpenAI server, and what it felt like."""

import argparse
import asyncio
import json
import math
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

from loadgen.client import Client, Outcome, ServerError
from loadgen.report import Report, make_report, progress, summary
from loadgen.workload import Job, default_text, make_jobs

DONE, ALL_FAILED, UNUSABLE, INTERRUPTED = 0, 1, 2, 130
"""Exit statuses."""
REFRESH = 0.5
"""Seconds between two progress lines."""


class Run:
    """Sends all jobs at their times and collects what became of them."""

    def __init__(self, client: Client, model: str, max_tokens: int) -> None:
        self.outcomes: list[Outcome] = []
        self.duration = 0.0
        self.interrupted = False
        self._client = client
        self._model = model
        self._max_tokens = max_tokens
        self._running = 0

    async def go(self, jobs: Sequence[Job]) -> None:
        """Until all have ended, or until SIGINT, which leaves the rest out."""
        loop = asyncio.get_running_loop()
        scope = asyncio.timeout(None)
        loop.add_signal_handler(signal.SIGINT, lambda: scope.reschedule(loop.time()))
        begin = perf_counter()
        try:
            async with scope, asyncio.TaskGroup() as group:
                showing = group.create_task(self._show(len(jobs)))
                await self._send_all(jobs, begin)
                showing.cancel()
        except TimeoutError:
            self.interrupted = True
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            self.duration = perf_counter() - begin

    async def _send_all(self, jobs: Sequence[Job], begin: float) -> None:
        bodies = [self._body(job) for job in jobs]
        async with asyncio.TaskGroup() as group:
            for job, body in zip(jobs, bodies, strict=True):
                await asyncio.sleep(max(0.0, begin + job.at - perf_counter()))
                start = perf_counter() - begin
                outcome = Outcome(start, start - job.at)
                self.outcomes.append(outcome)
                group.create_task(self._send(body, outcome))

    async def _send(self, body: bytes, outcome: Outcome) -> None:
        self._running += 1
        try:
            await self._client.complete(body, outcome)
        finally:
            self._running -= 1

    async def _show(self, total: int) -> None:
        while sys.stderr.isatty():
            line = progress(self.outcomes, self._running, total)
            sys.stderr.write(f"\r\x1b[K{line}")
            sys.stderr.flush()
            await asyncio.sleep(REFRESH)

    def _body(self, job: Job) -> bytes:
        body = {
            "model": self._model,
            "prompt": job.prompt,
            "max_tokens": self._max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return json.dumps(body).encode()


def main(argv: Sequence[str]) -> int:
    """Measure a server; returns the exit status."""
    options = _parser().parse_args(argv)
    try:
        text = _text(options.text)
        jobs = make_jobs(text, options.requests, options.rate, options.prompt_chars, options.seed)
        run = asyncio.run(_measure(options, jobs))
    except (ServerError, OSError, UnicodeDecodeError) as error:
        sys.stderr.write(f"tetris bench: {error}\n")
        return UNUSABLE
    return _conclude(options, run)


async def _measure(options: argparse.Namespace, jobs: Sequence[Job]) -> Run:
    async with Client(options.url) as client:
        options.model = await client.choose_model(options.model)
        run = Run(client, options.model, options.max_tokens)
        await run.go(jobs)
        return run


def _conclude(options: argparse.Namespace, run: Run) -> int:
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
    report = make_report(run.outcomes, run.duration)
    rate = "inf" if math.isinf(options.rate) else options.rate
    report |= {
        "label": options.label,
        "model_id": options.model,
        "tokenizer_id": options.model,
        "num_prompts": options.requests,
        "request_rate": rate,
        "seed": options.seed,
    }
    sys.stdout.write(summary(report))
    if options.json is not None and not _write(options.json, report):
        return UNUSABLE
    if run.interrupted:
        return INTERRUPTED
    return DONE if report["completed"] else ALL_FAILED


def _write(path: Path, report: Report) -> bool:
    try:
        path.write_text(json.dumps(report) + "\n", encoding="utf-8")
    except OSError as error:
        sys.stderr.write(f"tetris bench: cannot write {path}: {error.strerror}\n")
        return False
    return True


def _text(path: Path | None) -> str:
    text = default_text() if path is None else path.read_text(encoding="utf-8")
    if not text:
        raise OSError(f"{path} is empty")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tetris bench", description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="the server")
    parser.add_argument("--model", help="default: the server's first")
    parser.add_argument("--requests", type=_count, default=32)
    parser.add_argument("--rate", type=_rate, default=1.0, help="requests per second, or inf")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--text", type=Path, help="default: Python's language reference")
    parser.add_argument("--prompt-chars", type=_span, default=(2000, 2000), metavar="N or MIN:MAX")
    parser.add_argument("--max-tokens", type=_count, default=32)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument("--label", help="a name for this run in the figures")
    return parser


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return count


def _rate(text: str) -> float:
    rate = float(text)
    if math.isnan(rate) or rate <= 0:
        raise argparse.ArgumentTypeError("must be above zero")
    return rate


def _span(text: str) -> tuple[int, int]:
    low, _, high = text.partition(":")
    span = _count(low), _count(high or low)
    if span[0] > span[1]:
        raise argparse.ArgumentTypeError("the shortest must not exceed the longest")
    return span
