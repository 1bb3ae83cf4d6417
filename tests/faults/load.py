"""Poisson arrivals on a mesh: a fixed set of requests, every answer compared with its reference."""

import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tests.faults.arena import Arena
from tests.faults.stream import NONE, Difference, Request, Stream, compare

MAX_OPEN = 400
"""Streams at once; more would measure this client."""


@dataclass(frozen=True)
class Verdict:
    """What became of one request.

    `kind` is whole, refused (503 or 429 with a reason), unreachable (nobody listened), cut (the
    connection was lost), left (by the client) or failed (the server said so, or wrong text).
    """

    kind: str
    started: float
    ended: float
    difference: Difference = NONE
    why: str = ""


def judge(stream: Stream, expected: Sequence[str], text: str) -> Verdict:
    """Compare an ended stream with the undisturbed answer; a broken one with its beginning."""
    answer = stream.answer
    kind, why = _kind(stream), answer.wrong
    wanted = list(expected) if kind == "whole" else list(expected[: len(answer.tokens)])
    found = compare(wanted, answer.tokens)
    if found or (kind == "whole" and answer.text != text):
        kind, why = "failed", f"text differs: {found}"
    return Verdict(kind, stream.started, stream.ended, found, why)


def _kind(stream: Stream) -> str:
    answer = stream.answer
    if stream.has_left:
        return "left"
    if not answer.wrong:
        return "whole"
    if answer.status in (429, 503):
        return "refused"
    if answer.error:
        return "failed"
    return "cut" if answer.status else "unreachable"


class Load:
    """Requests at random times until stopped.

    Args:
        rate: arrivals per second.
        leavers: share of clients that go away after a random time.
    """

    def __init__(
        self, arena: Arena, requests: Sequence[Request], rate: float, seed: int, leavers: float = 0
    ) -> None:
        self._arena = arena
        self._requests = requests
        self._rate = rate
        self._leavers = leavers
        self._rng = random.Random(seed)
        self._over = threading.Event()
        self._streams: list[Stream] = []
        self.verdicts: list[Verdict] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        for request in requests:
            arena.reference(request)
        self._thread.start()

    @property
    def num_open(self) -> int:
        """Streams that are not over."""
        return sum(not stream.is_over for stream in list(self._streams))

    def stop(self, limit: float = 180.0) -> list[Verdict]:
        """No new requests; all verdicts once the open ones have ended.

        Those that are still open after `limit` seconds become verdicts of the kind `stuck`.
        """
        self._over.set()
        self._thread.join()
        deadline = time.monotonic() + limit
        while self.num_open and time.monotonic() < deadline:
            time.sleep(0.1)
        self._collect()
        self.verdicts += [Verdict("stuck", one.started, 0.0) for one in self._streams]
        return self.verdicts

    def _run(self) -> None:
        while not self._over.wait(self._rng.expovariate(self._rate)):
            self._collect()
            if len(self._streams) < MAX_OPEN:
                request = self._rng.choice(self._requests)
                stream = Stream(self._arena.mesh.url, request)
                self._streams.append(stream)
                if self._rng.random() < self._leavers:
                    leaving = threading.Timer(self._rng.uniform(0.05, 4.0), stream.leave)
                    leaving.daemon = True
                    leaving.start()

    def _collect(self) -> None:
        for stream in [one for one in self._streams if one.is_over]:
            self._streams.remove(stream)
            expected = self._arena.references[stream.request]
            self.verdicts.append(judge(stream, expected.tokens, expected.text))


def counts(verdicts: Sequence[Verdict]) -> str:
    """How many of each kind, in words."""
    kinds = Counter(verdict.kind for verdict in verdicts)
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "none"


def capacity(arena: Arena, requests: Sequence[Request], seconds: float, clients: int) -> float:
    """Answers per second that so many clients in a row get."""
    for request in requests:
        arena.reference(request)
    deadline, done = time.monotonic() + seconds, [0] * clients

    def work(index: int) -> None:
        while time.monotonic() < deadline:
            request = requests[(index + done[index]) % len(requests)]
            assert not Stream(arena.mesh.url, request).join().wrong
            done[index] += 1

    started = time.monotonic()
    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.monotonic() - started)
