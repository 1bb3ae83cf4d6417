"""Streamed answers, byte for byte. After a wanted change: `python -m tests.gateway.test_golden`."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from common.messages import (
    Alternative,
    Failed,
    FirstToken,
    PromptScores,
    Score,
    Token,
    TokenBatch,
)
from gateway.api.choices import Order, opened
from gateway.api.openai import parse_chat, parse_completion
from gateway.api.request import Request
from gateway.api.responses import Chat, Completion, Head
from gateway.api.sources import Source
from gateway.api.sse import Events, Telling
from gateway.api.stops import Stops
from gateway.mesh.scores import Scores
from gateway.mesh.streams import Stream
from tests.gateway.desk import DECODE, Desk, Letters

FOLDER = Path(__file__).parent / "golden"
PROMPT = [ord(letter) for letter in "Say:"]
USAGE = {"stream_options": {"include_usage": True}}
CONTINUOUS = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
IDS = {"return_token_ids": True, "return_tokens_as_token_ids": True}
CASES = {
    "completion-plain": {},
    "completion-usage": USAGE,
    "completion-continuous": CONTINUOUS,
    "completion-logprobs": {"logprobs": 2},
    "completion-two": {"n": 2, **USAGE},
    "completion-two-prompts": {"prompt": [PROMPT, PROMPT[:2]], **CONTINUOUS},
    "completion-echo": {"echo": True, **CONTINUOUS},
    "completion-echo-logprobs": {"echo": True, "logprobs": 1},
    "completion-echo-only": {"echo": True, "logprobs": 0, "max_tokens": 0, **USAGE},
    "completion-stop": {"stop": ["i!"], **USAGE},
    "completion-ids": {"logprobs": 1, **IDS},
    "completion-error": {"ends": "error", **USAGE},
    "completion-late": {"ends": "late"},
    "chat-plain": {},
    "chat-usage": USAGE,
    "chat-continuous": CONTINUOUS,
    "chat-logprobs": {"logprobs": True, "top_logprobs": 2},
    "chat-two": {"n": 2, **USAGE},
    "chat-stop": {"stop": ["i!"], "include_stop_str_in_output": True},
    "chat-ids": {"logprobs": True, **IDS},
    "chat-error": {"ends": "error", **USAGE},
}


def request_of(name: str) -> Request:
    body = {"model": "tiny", "max_tokens": 9, "seed": 1, "stream": True} | CASES[name]
    body.pop("ends", None)
    if name.startswith("chat"):
        body["messages"] = [{"role": "user", "content": "x"}]
        return parse_chat(json.dumps(body).encode())
    return parse_completion(json.dumps({"prompt": PROMPT} | body).encode())


def streams_of(request: Request, sources: list[Source]) -> list[Stream]:
    return [
        Stream(
            source.ids,
            sampling,
            request.ending(request.max_tokens),
            Stops(request.stops, are_shown=request.show_stops),
            Letters(),
            source.scores if sampling.choice == 0 else None,
        )
        for source in sources
        for sampling in request.samplings()
    ]


def source_of(request: Request, prompt: object) -> Source:
    ids = prompt if isinstance(prompt[0], int) else PROMPT
    top, text = request.shown.scores, "".join(map(chr, ids))
    scores = Scores(len(ids), top) if top >= 0 else None
    return Source(ids, text if request.shown.echo else "", scores)


def letter(name: str, index: int, char: str, request: Request) -> Token:
    top = request.sampling.logprobs
    logprob = None if top < 0 else -0.25 * (index + 1)
    others = tuple(Alternative(ord("x") + i, -0.125 - i) for i in range(max(top, 0)))
    finish = "length" if char == "!" or request.shown.only_prompt else None
    return Token(name, 1, index, ord(char), logprob, others, finish)


async def written(name: str) -> bytes:
    """What a client reads; a token every 20 ms, choices in turn, the first one after 0.5 s."""
    request, desk, raw = request_of(name), Desk(), bytearray()
    sources = [source_of(request, prompt) for prompt in request.prompts]
    head, form = Head("cmpl-1", 1700000000, "tiny"), Chat if request.chat else Completion
    order = Order("cmpl-1", None, desk.time.at, desk.time.at + 60.0)

    async def write(data: bytes) -> None:
        raw.extend(data)

    async def at_once(work: Callable[[], bytes]) -> bytes:
        return work()

    with opened(desk.calls, order, streams_of(request, sources), request.n) as choices:
        events = Events(request, form(head, request, sources, chr))
        ends = CASES[name].get("ends")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (0.5 if ends == "late" else 60.0)
        telling = Telling(events, choices, deadline, write, at_once)
        async with asyncio.TaskGroup() as group:
            group.create_task(telling.run())
            await feed(desk, request, [call.name for call in choices.calls])
            if ends == "error":
                why = "10.0.0.1 is broken"
                desk.receive(Failed(choices.calls[0].name, 1, "decode-3", why, False))
            elif ends is None:
                for call in choices.calls:
                    token = letter(call.name, 2, "!", request)
                    desk.time.at += 0.02
                    desk.receive(TokenBatch(DECODE, (token,)))
    return bytes(raw)


async def feed(desk: Desk, request: Request, names: list[str]) -> None:
    """The first two tokens of each choice, and the scores."""
    desk.time.at += 0.5
    for index, char in enumerate("Hi"):
        for name in names:
            token = letter(name, index, char, request)
            desk.receive(FirstToken(token, DECODE) if index == 0 else TokenBatch(DECODE, (token,)))
            desk.time.at += 0.02
            for _ in range(20):  # until the client has it
                await asyncio.sleep(0)
    if request.shown.scores >= 0:
        scores = tuple(Score(-float(i), (Alternative(99, -0.5),)) for i in range(1, len(PROMPT)))
        desk.receive(PromptScores(names[0], 1, 1, scores, "memory:prefill"))


@pytest.mark.parametrize("name", CASES)
def test_a_streamed_answer_is_what_it_was_byte_for_byte(name: str) -> None:
    assert asyncio.run(written(name)) == (FOLDER / f"{name}.sse").read_bytes()


def test_no_golden_answer_is_left_that_nobody_gives() -> None:
    assert {path.stem for path in FOLDER.glob("*.sse")} == set(CASES)


if __name__ == "__main__":
    for case in CASES:
        (FOLDER / f"{case}.sse").write_bytes(asyncio.run(written(case)))
