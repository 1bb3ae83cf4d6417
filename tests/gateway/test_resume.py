"""A stream that is broken off at any token goes on as if nothing had been, byte by byte."""

import json
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from common.messages import (
    EndOfRequest,
    Failed,
    FirstToken,
    Rejected,
    Submit,
    Token,
    TokenBatch,
)
from gateway.api.openai import parse_chat, parse_completion
from gateway.api.request import Request
from gateway.api.responses import Chat, Completion, Head
from gateway.api.sources import Source
from gateway.api.sse import Events
from gateway.api.stops import Stops
from gateway.api.timing import Metrics
from gateway.api.tokenizer import Tokenizer
from gateway.mesh.call import Call
from gateway.mesh.streams import Stream
from tests.gateway.desk import DECODE, Desk, accepted, answer

PROMPT = [5, 9, 11]
DIVERGED = 2
"""An id that no attempt draws."""
NOTHING = Metrics(None, None, None, None, None)
DEATHS = ("failed", "evicted", "ended", "lost", "stall", "fence", "rejected")
BODIES = st.fixed_dictionaries(
    {
        "model": st.just("tiny"),
        "max_tokens": st.integers(1, 24),
        "seed": st.integers(0, 2**40),
        "stream": st.just(True),
        "ignore_eos": st.booleans(),
        "include_stop_str_in_output": st.booleans(),
        "skip_special_tokens": st.booleans(),
        "return_token_ids": st.booleans(),
        "return_tokens_as_token_ids": st.booleans(),
        "stop_token_ids": st.sampled_from([[], [40], [40, 41]]),
        "stop": st.sampled_from([None, "a", ["el", "qu"], ["😀", "世"], ["o", "he"]]),
        "stream_options": st.fixed_dictionaries(
            {"include_usage": st.booleans(), "continuous_usage_stats": st.booleans()}
        ),
    }
)


class Written:
    """What a client reads of one call, as its handler would write it."""

    def __init__(self, request: Request, tokenizer: Tokenizer) -> None:
        form = Chat if request.chat else Completion
        head, sources = Head("id", 0, "tiny"), [Source(PROMPT)]
        self.events = Events(request, form(head, request, sources, tokenizer.piece))
        self.whole = form(head, request, sources, tokenizer.piece)
        self.pieces: list = []
        self.raw = self.events.opening()

    def read(self, call: Call) -> None:
        pieces = call.stream.pieces()
        self.pieces += pieces
        self.raw += self.events.tokens(0, pieces, len(PROMPT))

    def end(self, call: Call) -> tuple[bytes, bytes]:
        """The stream, and the answer had it been asked for as one."""
        self.read(call)
        assert call.failure is None
        assert call.stream.finish is not None
        usage = call.stream.usage
        end = self.events.ending(usage, NOTHING)
        return self.raw + end, self.whole.whole([self.pieces], usage).json()


def parse(body: dict, *, chat: bool, logprobs: int) -> Request:
    if chat:
        more = {"messages": [{"role": "user", "content": "x"}]}
        if logprobs >= 0:
            more |= {"logprobs": True, "top_logprobs": logprobs}
        return parse_chat(json.dumps(body | more).encode())
    more = {"prompt": PROMPT} | ({"logprobs": logprobs} if logprobs >= 0 else {})
    return parse_completion(json.dumps(body | more).encode())


def open_call(desk: Desk, request: Request, tokenizer: Tokenizer) -> Call:
    ending = request.ending(request.max_tokens)
    stops = Stops(request.stops, are_shown=request.show_stops)
    text = tokenizer.detokenizer(skip=request.skip_special)
    return desk.open(Stream(PROMPT, request.sampling, ending, stops, text))


def feed(desk: Desk, token: Token, *, is_first: bool) -> None:
    desk.receive(FirstToken(token, DECODE) if is_first else TokenBatch(DECODE, (token,)))


def undisturbed(request: Request, tokenizer: Tokenizer, words: Sequence[int]) -> tuple:
    desk = Desk()
    call, written = open_call(desk, request, tokenizer), Written(request, tokenizer)
    for token in answer(desk.submit, desk.ids, words):
        feed(desk, token, is_first=False)
        written.read(call)
    emitted = [token.id for token in call.stream.emitted]
    return written.end(call), emitted, call.stream.usage


def die(desk: Desk, call: Call, how: str) -> None:
    """End the current attempt."""
    before = call.stream.attempt
    # As long as decode has said nothing, its KV may wait to be handed over: no stall.
    if how == "stall" and not call.attempt._is_decoding:
        how = "failed"
    match how:
        case "failed" | "evicted":
            is_evicted = how == "evicted"
            desk.receive(Failed("r", before, "decode", "lost", True, is_evicted))
        case "ended":
            desk.receive(EndOfRequest("r", before, 0, "error"))
        case "lost":
            desk.receive(EndOfRequest("r", before, 99, "length"))
            desk.receive(Failed("r", call.stream.attempt, "decode", "unknown", True))
        case "stall":
            desk.tick(31.0)
        case "fence":
            desk.calls.fence()
        case "rejected":
            desk.receive(Failed("r", before, "decode", "lost", True))
            desk.receive(Rejected("r", before + 1, 503, "the queue is full", 2.0))
            desk.tick(2.0)
    desk.tick()
    assert call.stream.attempt in (before + 1, before + 2)


def play(desk: Desk, call: Call, written: Written, words: Sequence[int], draw) -> None:
    """Attempts that die, each with some of its tokens in any order, then one that does not."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    old: list[Token] = []
    for how in draw(st.lists(st.sampled_from(DEATHS), max_size=6)):
        tokens = answer(desk.submit, desk.ids, words)
        arriving = rng.choices(tokens, k=rng.randrange(2 * len(tokens) + 1)) + tokens[:2]
        arriving += rng.choices(old, k=min(len(old), 5))
        rng.shuffle(arriving)
        for token in arriving[: rng.randrange(len(arriving) + 1)]:
            feed(desk, token, is_first=rng.random() < 0.2)
            if rng.random() < 0.5:
                written.read(call)
        # Were one of them taken later on, it would show.
        old += [structs.replace(token, id=DIVERGED, finish=None) for token in tokens]
        if call.is_over:
            return
        die(desk, call, how)
    tokens = answer(desk.submit, desk.ids, words)
    arriving = tokens + old + tokens
    rng.shuffle(arriving)
    for token in arriving:
        feed(desk, token, is_first=False)


@settings(deadline=None, max_examples=400)
@given(data=st.data(), body=BODIES, chat=st.booleans(), logprobs=st.sampled_from([-1, 0, 2]))
def test_any_deaths_and_any_order_give_the_undisturbed_stream(
    tokenizer: Tokenizer, data: st.DataObject, body: dict, chat: bool, logprobs: int
) -> None:
    body["min_tokens"] = data.draw(st.integers(0, body["max_tokens"]))
    request = parse(body, chat=chat, logprobs=logprobs)
    words = vocabulary(tokenizer)
    expected, emitted, usage = undisturbed(request, tokenizer, words)
    desk = Desk()
    call, written = open_call(desk, request, tokenizer), Written(request, tokenizer)
    play(desk, call, written, words, data.draw)
    assert written.end(call) == expected
    assert [token.id for token in call.stream.emitted] == emitted
    assert call.stream.usage == usage
    sent = desk.take()
    desk.close()
    assert not any(isinstance(m, Submit) for m in desk.tick(100.0))
    ends = [m for m in (*sent, *desk.take()) if isinstance(m, EndOfRequest)]
    assert len(ends) <= 1


def vocabulary(tokenizer: Tokenizer) -> list[int]:
    """Few ids, so that stops are met: the end, stop ids, letters, and characters in pieces."""
    ids = tokenizer._tokenizer.encode("hello world quick fox 你好世界 😀😁 größe")
    return sorted({1, 40, 41, *ids})


@pytest.mark.parametrize("evicted", [False, True])
def test_a_stream_broken_off_after_every_token_of_it_goes_on(
    tokenizer: Tokenizer, evicted: bool
) -> None:
    body = {"model": "tiny", "max_tokens": 24, "min_tokens": 20, "seed": 5, "stream": True}
    body |= {"stop": ["zz"], "stream_options": {"include_usage": True}}
    request = parse(body, chat=False, logprobs=2)
    words = vocabulary(tokenizer)
    expected, emitted, _ = undisturbed(request, tokenizer, words)
    assert len(emitted) >= 20
    for cut in range(len(emitted)):
        desk = Desk(max_attempts=2)
        call, written = open_call(desk, request, tokenizer), Written(request, tokenizer)
        desk.receive(accepted())
        for token in answer(desk.submit, desk.ids, words)[:cut]:
            feed(desk, token, is_first=False)
            written.read(call)
        desk.receive(Failed("r", 1, "decode", "lost", True, evicted))
        submit = desk.submit
        assert desk.ids == PROMPT + emitted[:cut]
        assert (submit.attempt, submit.num_emitted, submit.evicted) == (2, cut, evicted)
        assert submit.ending.max_tokens == 24 - cut
        assert submit.ending.min_tokens == max(0, 20 - cut)
        for token in answer(submit, desk.ids, words):
            feed(desk, token, is_first=False)
        assert written.end(call) == expected


def test_no_attempt_follows_a_stop_that_the_client_has_not_read_yet(tokenizer: Tokenizer) -> None:
    body = {"model": "tiny", "max_tokens": 24, "stop": ["o w"], "stream": True}
    request = parse(body, chat=False, logprobs=-1)
    desk = Desk()
    call = open_call(desk, request, tokenizer)
    ids = tokenizer._tokenizer.encode("hello world and more")
    tokens = [Token("r", 1, index, token_id) for index, token_id in enumerate(ids)]
    desk.take()
    for token in tokens:
        feed(desk, token, is_first=False)
    desk.receive(Failed("r", 1, "decode", "lost", True))
    (end,) = desk.take()
    assert isinstance(end, EndOfRequest)
    assert end.num_tokens == call.stream.usage.completion < len(ids)
    assert call.stream.finish is None
    assert "".join(piece.text for piece in call.stream.pieces()) == "hell"
    assert call.stream.finish == "stop"
