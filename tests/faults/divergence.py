"""How often a resumed greedy stream differs in bfloat16: `python -m tests.faults.divergence`.

Decode computes a token from its own KV, a new attempt prefills it again: in float32 the same
token wins, in bfloat16 nearly equal logits may change places. Reported, never asserted.
"""

import argparse
import random
import signal
import sys
from collections.abc import Sequence

from tests.faults.arena import Arena, arena, prompt
from tests.faults.stream import Request, Stream, compare

TOKENS = 48


def main(argv: Sequence[str] | None = None) -> int:
    """Kill the decode instance at a random token of each stream, and count what changed."""
    parser = argparse.ArgumentParser(description="Counts resumes whose text differs in bfloat16.")
    parser.add_argument("--resumes", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dtype", default="bfloat16")
    options = parser.parse_args(argv)
    rng = random.Random(options.seed)
    with arena(2, 2, "faults.toml", "--dtype", options.dtype) as own:
        differ = sum(_resume(own, rng) for _ in range(options.resumes))
        noisy = sum(_repeat(own, rng) for _ in range(options.resumes))
    _say(
        f"{options.dtype}: {differ} of {options.resumes} resumed greedy streams differ, "
        f"{noisy} of {options.resumes} undisturbed repetitions"
    )
    return 0


def _resume(own: Arena, rng: random.Random) -> bool:
    request, mark = _request(rng), own.mark()
    expected = own.reference(request)
    mark = own.mark()
    stream = Stream(own.mesh.url, request)
    planned = own.await_event(mark, "planned", attempt=1)
    count = rng.randint(1, TOKENS - 8)
    stream.await_tokens(count)
    own.signal(str(planned["decode"]), signal.SIGKILL)
    answer = stream.join()
    assert not answer.wrong, answer.wrong
    assert answer.tokens[:count] == expected.tokens[:count]
    found = compare(expected.tokens, answer.tokens)
    _say(f"killed after {count:2} tokens: {found or 'equal'}")
    own.await_complete()
    return bool(found)


def _repeat(own: Arena, rng: random.Random) -> bool:
    request = _request(rng)
    return bool(compare(own.reference(request).tokens, Stream(own.mesh.url, request).join().tokens))


def _request(rng: random.Random) -> Request:
    return Request(prompt(rng.randrange(6), rng.choice((60, 150, 300))), TOKENS)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
