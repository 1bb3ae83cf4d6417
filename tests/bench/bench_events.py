"""What events cost the router, noting and telling them: python -m tests.bench.bench_events.

CPU microseconds of its one thread, without planning.

60 chunks per second on groups of 8: as many Ready, ChunkDone and Released as a busy cluster of 64
instances sends, and two gateways to tell.
"""

import sys
import time
from unittest import mock

from common.messages import ChunkDone, Events, Ready, Released, RunChunk
from common.wire import CONTROL
from services.router.recorder import Recorder
from tests.services.router.mesh import Mesh, hello

SECONDS = 5
CHUNKS = 60
SIZE = 8
NOTES = ("note", "waits", "planned", "began", "computed", "handed_over", "decoding", "over")


class Told(Mesh):
    """A mesh whose messages to gateways are encoded, as they would be."""

    num_bytes = 0

    def take(self, endpoint, message, *frames):
        """Encode what a real mesh would."""
        if isinstance(message, Events):
            self.num_bytes += len(CONTROL.encode(message)[0])
        else:
            super().take(endpoint, message, *frames)


def play() -> tuple[float, int, int]:
    """CPU seconds, events and bytes of a few busy seconds."""
    mesh = Told(num_prefill=64, total=10**6)
    mesh.give(hello("gateway", "h"))
    spent = 0.0
    for tick in range(10 * SECONDS):
        for number in range(CHUNKS // 10):
            mesh.sent.clear()
            mesh.submit(f"{tick}-{number}", 4000, forced_plan=str(SIZE))
            runs = [(to[3:], run) for to, run in mesh.sent_of(RunChunk)]
            began = time.process_time()
            for name, run in runs:
                mesh.give(Ready(name, 1, run.seq, run.turn))
            for name, run in runs:
                mesh.give(done(name, run))
                mesh.give(Released(name, 1, run.request, run.attempt))
            spent += time.process_time() - began
        mesh.now += 0.1
        began = time.process_time()
        mesh.router.tell(mesh.now)
        spent += time.process_time() - began
    return spent, mesh.router.books.recorder._count, mesh.num_bytes


def done(name: str, run: RunChunk) -> ChunkDone:
    """A member's part."""
    return ChunkDone(
        *(name, 1, run.seq, run.turn, run.request, 1, run.index), 0.1, 0.0, 0.0, 0.0, 0, 0
    )


def main() -> None:
    """Print the figures."""
    whole, count, num_bytes = min(play() for _ in range(3))
    nothing = {name: lambda *_: None for name in NOTES}
    with mock.patch.multiple(Recorder, **nothing):
        bare, _, _ = min(play() for _ in range(3))
    sys.stdout.write(
        f"{count / SECONDS:.0f} events per second, {num_bytes / 2 / SECONDS / 1000:.0f} kB/s for "
        f"each of two gateways\n"
        f"reports and telling {whole / SECONDS * 1000:.1f} ms per second, "
        f"{bare / SECONDS * 1000:.1f} ms without events: "
        f"{(whole - bare) / count * 1e6:.1f} us per event\n"
    )


if __name__ == "__main__":
    main()
