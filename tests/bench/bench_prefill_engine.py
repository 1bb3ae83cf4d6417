"""Seconds from RunChunk to token 0 for SP=1 against SP=2, with one engine process per member.

CPU seconds are those of the busiest member, over all its chunks: on a machine that others use as
well, their ratio tells what the wall clock cannot.

python tests/bench/bench_prefill_engine.py MODEL [--tokens 2048 4096] [--dtypes float32 bfloat16]
"""

import argparse
import multiprocessing
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.services.prefill_worker.plans import members_at, plan, run_chunk


def member(pipe: Connection, path: str, dtype: str, tokens: int) -> None:
    """One engine process: runs what its pipe says, answers with seconds."""
    import torch

    from common.links.zmq import ZmqLink
    from common.tensor.models import load
    from services.prefill_worker.engine import Bounds, Engine, Links

    torch.set_num_threads(1)
    links = Links(ZmqLink("tcp://127.0.0.1:*"), ZmqLink("tcp://127.0.0.1:*"))
    engine = Engine(load(path, dtype), 2 * tokens, links, Bounds(60.0, 60.0))
    pipe.send((links.ring.endpoint, links.balance.endpoint))
    while (order := pipe.recv()) is not None:
        run, ids = order
        used = time.process_time()
        result = engine.run(run, ids, lambda: None, lambda layer: None)
        pipe.send((time.perf_counter(), time.process_time() - used, result))
        if run.index == len(run.chunks) - 1:
            engine.release(run.request, run.attempt)
    engine.close()


class Figures(NamedTuple):
    """Seconds of one prompt; the phases are those of the last chunk's members."""

    wall: float
    cpu: float
    phases: list[tuple[float, float, float]]


class Mesh:
    """Two engine processes and the pipes to them."""

    def __init__(self, path: str, dtype: str, tokens: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipes = []
        for _ in range(2):
            pipe, other = context.Pipe()
            arguments = (other, path, dtype, tokens)
            context.Process(target=member, args=arguments, daemon=True).start()
            self.pipes.append(pipe)
        self.members = members_at(*zip(*(pipe.recv() for pipe in self.pipes), strict=True))

    def prefill(self, attempt: int, *parts: tuple[int, int]) -> Figures:
        """Run one prompt from the first RunChunk to token 0."""
        chunks = plan(*parts)
        ids = np.random.default_rng(0).integers(0, 49000, 1 << 16, dtype=np.int32)
        started = time.perf_counter()
        for index, chunk in enumerate(chunks):
            own = ids[chunk.history : chunk.history + chunk.length]
            for rank in range(chunk.size):
                run = run_chunk(chunks, index, rank, self.members, attempt=attempt)
                self.pipes[rank].send((run, own))
        used, answers = [0.0, 0.0], []
        for chunk in chunks:
            answers = [pipe.recv() for pipe in self.pipes[: chunk.size]]
            for rank, (_, cpu, _) in enumerate(answers):
                used[rank] += cpu
        assert answers[0][2].first is not None
        phases = [(r.compute, r.wait, r.balance) for _, _, r in answers]
        return Figures(answers[0][0] - started, max(used), phases)

    def close(self) -> None:
        """End both processes."""
        for pipe in self.pipes:
            pipe.send(None)


def compare(mesh: Mesh, dtype: str, tokens: int, repeats: int) -> None:
    """Print the best of a few runs of each plan."""
    plans = {
        "SP=1": [(tokens, 1)],
        "SP=2": [(tokens, 2)],
        "1→2": [(tokens // 3, 1), (tokens - tokens // 3, 2)],
    }
    best: dict[str, Figures] = {}
    for repeat in range(repeats):
        for index, (name, parts) in enumerate(plans.items()):
            figures = mesh.prefill(1 + len(plans) * repeat + index, *parts)
            best[name] = min(best.get(name, figures), figures)
    single = best["SP=1"]
    for name, (wall, cpu, members) in best.items():
        phases = ", ".join(f"{c:.2f}+{w:.2f}+{b:.3f}" for c, w, b in members)
        sys.stdout.write(
            f"{dtype} {tokens} {name}: {wall:.2f} s, {single.wall / wall:.2f}x;"
            f" CPU {cpu:.2f} s, {single.cpu / cpu:.2f}x; compute+wait+balance {phases}\n"
        )
        sys.stdout.flush()


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path")
    parser.add_argument("--tokens", type=int, nargs="+", default=[2048, 4096])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    for dtype in options.dtypes:
        mesh = Mesh(options.path, dtype, max(options.tokens))
        for tokens in options.tokens:
            compare(mesh, dtype, tokens, options.repeats)
        mesh.close()


if __name__ == "__main__":
    main()
