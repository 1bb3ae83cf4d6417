"""How calls gather the scores of a prompt, and the answers that tell them."""

import random

import pytest

from common.messages import (
    Accepted,
    Alternative,
    Cancel,
    Ending,
    EndOfRequest,
    Failed,
    FirstToken,
    PromptScores,
    Rejected,
    Sampling,
    Score,
    Scored,
    Submit,
    Token,
)
from gateway.api.stops import Stops
from gateway.mesh.call import Call
from gateway.mesh.scores import Scores
from gateway.mesh.streams import Stream
from tests.gateway.bench import (
    CHAT,
    COMPLETION,
    DECODE,
    Bench,
    Client,
    FakeMesh,
    accept,
    events,
    scores,
)
from tests.gateway.desk import Desk, Letters, batch

PROMPT = [40, 41, 42, 43, 44]
LIKELY = {"prompt": [PROMPT], "echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 0}


def open_scored(desk: Desk, *stops: str, max_tokens: int = 1) -> Call:
    gathered = Scores(len(PROMPT), 1)
    ending = Ending(max_tokens)
    return desk.open(Stream(PROMPT, Sampling(), ending, Stops(stops), Letters(), gathered))


def piece(start: int, count: int, attempt: int = 1, name: str = "r") -> PromptScores:
    known = tuple(Score(-float(position)) for position in range(start, start + count))
    return PromptScores(name, attempt, start, known, "memory:prefill-3")


def last(attempt: int = 1, index: int = 0, letter: str = "z") -> FirstToken:
    return FirstToken(Token("r", attempt, index, ord(letter), finish="length"), DECODE)


def test_every_piece_is_answered_where_it_came_from_and_strangers_are_counted() -> None:
    desk = Desk()
    call = open_scored(desk)
    assert desk.take()[0].prompt_logprobs == 1
    good, again = piece(1, 2), piece(1, 2)
    strange = [
        piece(3, 2, attempt=2), piece(3, 2, name="unknown"), piece(4, 2),
        piece(2**31 - 1, 1),
    ]  # fmt: skip
    desk.receive(good, again, *strange)
    assert [sent for sent, _ in desk.sent] == ["memory:prefill-3"] * 6
    expected = [Scored(m.request, m.attempt, m.start) for m in (good, again, *strange)]
    assert desk.take() == expected
    assert desk.stray() == 4.0
    assert not call.is_scored
    desk.receive(piece(3, 2))
    assert call.is_scored
    other = desk.open(name="w")
    desk.receive(piece(1, 1, name="w"))
    assert (desk.stray(), other.failure) == (5.0, None)


def test_a_call_stays_open_for_scores_that_come_after_the_last_token() -> None:
    desk = Desk()
    call = open_scored(desk)
    desk.receive(Accepted("r", 1))
    desk.take()
    desk.receive(last())
    # The mesh has ended the attempt itself: there is nothing to end, to list or to say again.
    assert (desk.take(), call.is_over, call.stream.ended) == ([], False, True)
    assert desk.calls.facts().open == ()
    assert desk.tick(5.0) == []
    desk.receive(EndOfRequest("r", 1, 1, "length"), Failed("r", 1, "router", "is over", True))
    assert (desk.stray(), call.stream.attempt, call.failure) == (2.0, 1, None)
    desk.take()
    desk.receive(piece(3, 2), piece(1, 2))
    assert call.is_over
    desk.take()
    desk.close()
    assert desk.take() == []


def test_scores_that_do_not_come_are_asked_for_by_an_attempt_of_their_own() -> None:
    desk = Desk(stall_timeout=5.0)
    call = open_scored(desk)
    desk.receive(last(), piece(1, 1))
    assert desk.tick(4.9) == []
    (submit,) = desk.tick(0.1)
    assert (submit.attempt, submit.num_tokens, submit.num_emitted) == (2, len(PROMPT), 0)
    assert (submit.prompt_logprobs, submit.ending.max_tokens) == (1, 1)
    assert desk.ids == PROMPT
    assert [type(m) for m in desk.tick(0.5)] == [Submit]
    desk.receive(Accepted("r", 2))
    assert [one.attempt for one in desk.calls.facts().open] == [2]
    assert desk.tick(100.0) == []
    # Its token is nobody's; its scores count beside those that the first attempt has brought.
    desk.receive(last(2, letter="q"), piece(2, 3, attempt=2))
    assert (call.is_over, call.failure, desk.stray()) == (True, None, 0.0)
    assert [token.id for token in call.stream.emitted] == [ord("z")]
    desk.take()
    desk.close()
    assert desk.take() == []


def test_scores_that_never_come_end_the_request_in_bounded_time() -> None:
    desk = Desk(stall_timeout=5.0, max_attempts=3)
    call = open_scored(desk)
    for attempt in (1, 2, 3):
        assert (call.failure, call.stream.attempt) == (None, attempt)
        desk.receive(last(attempt))
        desk.tick(5.0)
    desk.receive(last(4))
    desk.tick(5.0)
    assert call.failure is not None
    assert call.failure.status == 503


def test_an_attempt_for_scores_takes_failures_and_rejections_like_any_other() -> None:
    desk = Desk(stall_timeout=5.0)
    call = open_scored(desk)
    desk.receive(last())
    desk.tick(5.0)
    desk.receive(Failed("r", 2, "prefill", "lost", True))
    assert (desk.submit.attempt, call.failure) == (3, None)
    desk.receive(Rejected("r", 3, 503, "the queue is full", 2.0))
    assert desk.tick(1.9) == []
    assert [m.attempt for m in desk.tick(0.1)] == [3]
    # Its end is known, its scores may still be on their way.
    desk.receive(EndOfRequest("r", 3, 1, "length"))
    assert desk.tick(4.9) == []
    assert [m.attempt for m in desk.tick(0.1)] == [4]
    desk.take()
    desk.close()
    assert desk.take() == [Cancel("r", 4)]


def test_an_attempt_that_goes_on_has_what_it_emitted_scored_too_and_that_is_left_out() -> None:
    desk = Desk()
    call = open_scored(desk, max_tokens=9)
    desk.receive(batch(0, "ab"), piece(1, 1), Failed("r", 1, "decode", "lost", True))
    assert (desk.submit.num_tokens, desk.submit.prompt_logprobs) == (len(PROMPT) + 2, 1)
    desk.receive(piece(5, 2, attempt=2), piece(2, 3, attempt=2))
    assert (call.is_scored, desk.stray()) == (True, 0.0)
    desk.receive(piece(6, 2, attempt=2))
    assert desk.stray() == 1.0
    desk.receive(Failed("r", 2, "decode", "lost", True))
    assert desk.submit.prompt_logprobs == -1


def test_a_stop_string_ends_the_text_in_the_mesh_while_scores_are_missing() -> None:
    desk = Desk()
    call = open_scored(desk, "b", max_tokens=9)
    desk.take()
    desk.receive(batch(0, "ab"))
    assert desk.take() == [EndOfRequest("r", 1, 2, "stop")]
    assert not call.is_over
    desk.take()
    desk.close()
    assert desk.take() == []


def test_a_fence_leaves_scores_alone_that_are_on_their_way() -> None:
    desk = Desk()
    call = open_scored(desk)
    desk.receive(last())
    desk.calls.fence()
    assert call.stream.attempt == 1


# Answers


def told(mesh: FakeMesh, submit: Submit, ids: list[int]) -> None:
    """Scores in any order, some twice, before and after a last token."""
    mesh.send(Accepted(submit.request, submit.attempt))
    messages = scores(submit, ids, 3) * 2 if submit.prompt_logprobs >= 0 else []
    top = (Alternative(50, -0.25), Alternative(51, -1.0))[: max(submit.sampling.logprobs, 0)]
    logprob = -0.25 if submit.sampling.logprobs >= 0 else None
    token = Token(submit.request, submit.attempt, 0, 50, logprob, top, "length")
    messages.append(FirstToken(token, DECODE))
    random.Random(len(ids)).shuffle(messages)
    for message in messages:
        mesh.send(message)


def test_an_echo_with_logprobs_has_the_shape_that_evaluations_read(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        status, answer, _ = await client.post("/v1/completions", COMPLETION | LIKELY)
        assert status == 200
        (choice,) = answer["choices"]
        found = choice["logprobs"]
        piece = client.mesh.tokenizer.piece
        names = [piece(i) for i in [*PROMPT, 50]]
        assert found["tokens"] == names
        assert found["token_logprobs"] == [None, -0.01, -0.02, -0.03, -0.04, -0.25]
        assert choice["text"] == client.mesh.tokenizer.decode([*PROMPT, 50])
        assert found["text_offset"] == [len("".join(names[:i])) for i in range(6)]
        assert found["top_logprobs"][0] is None
        # What is greedy is the likeliest of the alternatives, as lm-eval finds out.
        greedy = [
            max(t, key=t.get) == n
            for t, n in zip(found["top_logprobs"][1:], names[1:], strict=True)
        ]
        assert greedy == [False, True, False, True, True]
        assert found["top_logprobs"][1] == {piece(7): -0.001, piece(41): -0.01}
        assert answer["usage"]["completion_tokens"] == 1
        (submit,) = client.mesh.submits
        assert submit.prompt_logprobs == 1
        scored = [await client.mesh.seen.get() for _ in range(4)]
        assert {message.start for message in scored} == {1, 4}

    bench(told, scenario)


def test_no_tokens_at_all_may_be_asked_of_an_echo(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        for more in ({}, {"stream": True, "stream_options": {"include_usage": True}}):
            body = COMPLETION | LIKELY | {"max_tokens": 0, "return_token_ids": True} | more
            _, answer, _ = await client.post("/v1/completions", body)
            if more:
                echo, end, last = events(answer)
                assert end["choices"][0] | {"text": ""} == end["choices"][0]
                assert end["choices"][0]["logprobs"] is None
                finish, usage = end["choices"][0]["finish_reason"], last["usage"]
                choice = echo["choices"][0]
            else:
                choice, usage = answer["choices"][0], answer["usage"]
                finish = choice["finish_reason"]
            assert choice["text"] == client.mesh.tokenizer.decode(PROMPT)
            assert choice["logprobs"]["token_logprobs"] == [None, -0.01, -0.02, -0.03, -0.04]
            assert (choice["token_ids"], choice["prompt_token_ids"]) == ([], PROMPT)
            assert (finish, usage["completion_tokens"]) == ("length", 0)
            assert client.mesh.submits[-1].ending.max_tokens == 1
        # A prompt that fills the context leaves room for nothing.
        full = COMPLETION | {"prompt": [5] * 512, "echo": True, "max_tokens": 0}
        assert (await client.post("/v1/completions", full))[0] == 200

    bench(told, scenario)


def test_an_echo_without_logprobs_needs_no_scores(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        encode, decode = client.mesh.tokenizer._tokenizer.encode, client.mesh.tokenizer.decode
        for prompt in ("  the quick <s>", encode("stop here")):
            body = COMPLETION | {"prompt": prompt, "echo": True, "max_tokens": 1}
            _, answer, _ = await client.post("/v1/completions", body)
            shown = prompt if isinstance(prompt, str) else "stop here"
            assert answer["choices"][0]["text"] == shown + decode([50])
            assert answer["choices"][0]["logprobs"] is None
            _, raw, _ = await client.post("/v1/completions", body | {"stream": True})
            texts = [event["choices"][0]["text"] for event in events(raw)]
            assert texts == [shown, decode([50])]
        assert {submit.prompt_logprobs for submit in client.mesh.submits} == {-1}

    bench(told, scenario)


def test_one_choice_asks_for_the_scores_of_all(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        body = COMPLETION | LIKELY | {"n": 2, "prompt": [PROMPT, PROMPT[:3]]}
        _, answer, _ = await client.post("/v1/completions", body)
        wanted = [submit.prompt_logprobs for submit in client.mesh.submits]
        assert wanted == [1, -1, 1, -1]
        lengths = [len(c["logprobs"]["tokens"]) for c in answer["choices"]]
        assert lengths == [6, 6, 4, 4]
        assert answer["choices"][0]["logprobs"] == answer["choices"][1]["logprobs"]
        assert answer["usage"]["prompt_tokens"] == 5 + 3

    bench(told, scenario)


def test_prompt_logprobs_are_told_by_id_and_ranks_only_where_they_are_known(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        body = COMPLETION | {"prompt": PROMPT, "max_tokens": 1, "prompt_logprobs": 2}
        _, answer, _ = await client.post("/v1/completions", body)
        choice = answer["choices"][0]
        first, odd, even, *_ = choice["prompt_logprobs"]
        piece = client.mesh.tokenizer.piece
        assert first is None
        assert odd == {
            "41": {"logprob": -0.01, "rank": None, "decoded_token": piece(41)},
            "7": {"logprob": -0.001, "rank": 1, "decoded_token": piece(7)},
            "8": {"logprob": -1.001, "rank": 2, "decoded_token": piece(8)},
        }
        assert even["42"] == {"logprob": -0.02, "rank": 1, "decoded_token": piece(42)}
        assert len(even) == 2
        assert (choice["logprobs"], len(choice["prompt_logprobs"])) == (None, len(PROMPT))
        _, answer, _ = await client.post("/v1/chat/completions", CHAT | {"prompt_logprobs": 0})
        assert [len(entry or {}) for entry in answer["prompt_logprobs"]][:2] == [0, 1]
        assert len(answer["prompt_logprobs"]) == answer["usage"]["prompt_tokens"]

    bench(told, scenario)


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_whose_scores_do_not_come_ends_at_its_deadline(
    bench: Bench, stream: bool
) -> None:
    def reply(mesh: FakeMesh, submit: Submit, ids: list[int]) -> None:
        accept(mesh, submit, ids)
        mesh.send(FirstToken(Token(submit.request, 1, 0, 50, -1.0, (), "length"), DECODE))
        mesh.send(scores(submit, ids)[0])

    async def scenario(client: Client) -> None:
        body = COMPLETION | LIKELY | {"timeout": 0.3, "stream": stream, "prompt": [5] * 20}
        status, answer, _ = await client.post("/v1/completions", body)
        if stream:
            assert [event["error"]["code"] for event in events(answer)] == ["timeout"]
        else:
            assert (status, answer["error"]["code"]) == (504, "timeout")
        await client.mesh.until(lambda: client.mesh.facts.idle)

    bench(reply, scenario)
