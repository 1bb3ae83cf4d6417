import asyncio
import json
from contextlib import ExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from common import failpoints
from common.messages import (
    Accepted,
    Cancel,
    Ending,
    EndOfRequest,
    Failed,
    FirstToken,
    Open,
    PromptScores,
    Rejected,
    Resend,
    Sampling,
    Submit,
    Token,
    TokenBatch,
)
from common.wire import CONTROL
from gateway.api.choices import Order, opened
from gateway.api.stops import Stops
from gateway.api.tokenizer import Tokenizer
from gateway.errors import Refusal
from gateway.mesh.places import MAX_OPEN
from gateway.mesh.scores import Scores
from gateway.mesh.streams import Stream
from tests.common.test_wire import STRATEGY_OF
from tests.gateway.bench import (
    COMPLETION,
    DECODE,
    Bench,
    Client,
    FakeMesh,
    accept,
)
from tests.gateway.desk import Desk, Letters, accepted, batch, first


def test_a_stop_string_is_cut_and_ends_the_request_at_the_router(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        body = COMPLETION | {"stop": ["fox"]}
        _, answer, _ = await client.post("/v1/completions", body)
        choice = answer["choices"][0]
        assert (choice["text"], choice["finish_reason"]) == ("the quick ", "stop")
        end = await client.mesh.seen.get()
        assert isinstance(end, EndOfRequest)
        assert (end.num_tokens, end.reason) == (answer["usage"]["completion_tokens"], "stop")

    def reply(mesh: FakeMesh, submit: Submit, ids: list[int]) -> None:
        mesh.tokens(submit, "the quick fox and more and more", "length")

    bench(reply, scenario)


def test_a_rejection_keeps_its_status_and_its_time(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        body = COMPLETION | {"stream": True}
        status, answer, headers = await client.post("/v1/completions", body)
        # Whole seconds, and none too early.
        assert (status, headers["Retry-After"]) == (503, "5")
        assert answer["error"]["message"] == "the queue is full"

    def reply(mesh: FakeMesh, submit: Submit, ids: list[int]) -> None:
        mesh.send(Rejected(submit.request, submit.attempt, 503, "the queue is full", 4.2))

    bench(reply, scenario)


def test_submit_is_repeated_until_it_is_answered(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        status, _, _ = await client.post("/v1/completions", COMPLETION)
        assert (status, len(client.mesh.submits)) == (200, 3)
        assert len({submit.sampling.seed for submit in client.mesh.submits}) == 1

    def reply(mesh: FakeMesh, submit: Submit, ids: list[int]) -> None:
        if len(mesh.submits) == 3:
            mesh.tokens(submit, "hello", "length")

    bench(reply, scenario)


def test_a_client_that_leaves_cancels_its_request(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        body = json.dumps(COMPLETION | {"stream": True})
        head = {"Content-Type": "application/json"}
        url = client.url + "/v1/completions"
        async with client.session.post(url, data=body, headers=head) as answer:
            assert answer.status == 200
            answer.close()
        cancel = await client.mesh.seen.get()
        assert isinstance(cancel, Cancel)
        assert cancel.request == client.mesh.submits[0].request

    bench(accept, scenario)


def test_a_retryable_failure_goes_on_with_the_next_token(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        status, answer, _ = await client.post("/v1/completions", COMPLETION)
        assert (status, answer["choices"][0]["text"]) == (200, "hello world")
        first, second = client.mesh.submits
        assert second.num_emitted == second.num_tokens - first.num_tokens > 0
        assert second.ending.max_tokens == 40 - second.num_emitted

    def reply(mesh: FakeMesh, submit: Submit, ids: list[int]) -> None:
        if submit.attempt == 2:
            mesh.tokens(submit, " world")
            return
        for index, token_id in enumerate(mesh.tokenizer._tokenizer.encode("hello")):
            mesh.send(TokenBatch(DECODE, (Token(submit.request, 1, index, token_id),)))
        mesh.send(Failed(submit.request, 1, "decode", "lost", retryable=True))

    bench(reply, scenario)


def test_places_are_bounded(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(client.post("/v1/completions", COMPLETION))
            await client.mesh.arrived.wait()
            status, answer, headers = await client.post("/v1/completions", COMPLETION)
            assert (status, headers["Retry-After"]) == (503, "1")
            assert answer["error"]["type"] == "ServiceUnavailableError"
            client.mesh.tokens(client.mesh.submits[0], "hello")
            assert (await waiting)[0] == 200

    bench(accept, scenario, max_requests=1)


def test_a_heartbeat_lists_what_the_router_has_taken_and_nothing_that_is_over() -> None:
    desk = Desk()
    desk.open()
    assert desk.calls.facts().open == ()
    desk.receive(accepted())
    assert desk.calls.facts().open == (Open("r", 1, 0),)
    desk.receive(batch(0, "ab"))
    assert desk.calls.facts().open == (Open("r", 1, 2),)
    desk.receive(Failed("r", 1, "decode", "lost", True))
    assert desk.calls.facts().open == ()
    desk.receive(accepted(2))
    assert desk.calls.facts().open == (Open("r", 2, 2),)
    desk.receive(TokenBatch(DECODE, (Token("r", 2, 2, 99, finish="stop"),)))
    assert desk.calls.facts().open == ()


def test_a_heartbeat_counts_places_and_lists_no_more_than_it_can_hold() -> None:
    desk = Desk(max_requests=10_000)
    with ExitStack() as stack:
        for _ in range(MAX_OPEN):
            stack.enter_context(desk.calls.place())
        with pytest.raises(Refusal):
            stack.enter_context(desk.calls.place())
        assert not desk.calls.facts().idle
    assert desk.calls.facts().idle


def test_a_submit_is_repeated_every_resend_until_it_is_accepted() -> None:
    desk = Desk()
    desk.open()
    assert [type(m) for m in desk.take()] == [Submit]
    assert desk.tick(0.4) == []
    assert [type(m) for m in desk.tick(0.1)] == [Submit]
    assert [type(m) for m in desk.tick(0.5)] == [Submit]
    desk.receive(accepted())
    assert desk.tick(1000.0) == []


def test_no_prompt_piles_up_for_a_router_that_is_not_heard() -> None:
    desk = Desk()
    desk.open()
    desk.take()
    for _ in range(100):
        desk.time.at += 0.5
        desk.calls.tick(desk.time.at, silence=1.6)
    assert desk.take() == []
    desk.calls.tick(desk.time.at, silence=0.0)
    assert [type(m) for m in desk.take()] == [Submit]


def test_missing_tokens_are_asked_of_the_instance_that_decodes_them() -> None:
    desk = Desk()
    desk.open()
    desk.receive(first(0, "a"), batch(0, "ab"), batch(3, "d"))
    desk.take()
    desk.calls.tick(desk.time.at)
    ask = Resend("r", 1, 2, desk.process.peer)
    assert desk.sent == [(DECODE.inbox, ask)]
    assert desk.tick(0.5) == []
    assert desk.tick(0.5) == [ask]
    desk.receive(batch(2, "cd"))
    assert desk.tick(0.5) == []
    assert desk.tick(0.5) == [Resend("r", 1, 4, desk.process.peer)]
    assert b"tetris_gateway_resends_total 3.0" in desk.metrics.render()


def test_a_stream_that_stands_still_is_given_up_and_begins_again() -> None:
    desk = Desk(stall_timeout=5.0)
    call = desk.open()
    desk.receive(batch(0, "ab"))
    cancel, submit = desk.tick(5.0)
    assert cancel == Cancel("r", 1)
    assert isinstance(submit, Submit)
    assert (submit.attempt, submit.num_emitted, call.fruitless) == (2, 2, 0)
    # The new attempt waits for its turn as long as it takes.
    desk.receive(accepted(2))
    assert desk.tick(1000.0) == []


def test_an_attempt_that_is_over_without_its_tokens_has_them_asked_for_first() -> None:
    desk = Desk()
    call = desk.open()
    desk.receive(first(0, "a"))
    desk.take()
    desk.receive(EndOfRequest("r", 1, 3, "length"), EndOfRequest("r", 1, 3, "length"))
    assert desk.take() == [Resend("r", 1, 1, desk.process.peer)]
    end = Token("r", 1, 2, ord("c"), finish="length")
    desk.receive(TokenBatch(DECODE, (Token("r", 1, 1, ord("b")), end)))
    assert call.stream.finish is None
    assert "".join(piece.text for piece in call.stream.pieces()) == "abc"
    assert (call.stream.finish, call.stream.attempt) == ("length", 1)
    desk.close()
    assert desk.take() == []


def test_an_attempt_that_is_over_without_any_token_begins_again() -> None:
    for reason in ("length", "stop", "error", "abort"):
        desk = Desk()
        desk.open()
        desk.receive(accepted())
        desk.take()
        desk.receive(EndOfRequest("r", 1, 1, reason))
        (submit,) = desk.take()
        assert (type(submit), submit.attempt) == (Submit, 2)


def test_decode_that_no_longer_knows_an_ended_attempt_makes_a_new_one() -> None:
    desk = Desk()
    desk.open()
    desk.receive(first(0, "a"), EndOfRequest("r", 1, 3, "length"))
    desk.receive(Failed("r", 1, "decode", "does not hold it", True))
    assert (desk.submit.attempt, desk.submit.num_emitted) == (2, 1)


def test_leaving_cancels_whenever_something_may_be_held() -> None:
    # The answer to the Submit never came, the attempt is under way, or it is not.
    for messages, cancelled in (
        ([], 1),
        ([accepted()], 1),
        ([batch(0, "ab")], 1),
        ([Failed("r", 1, "decode", "lost", True)], 2),
        ([Rejected("r", 1, 400, "too long")], None),
        ([Failed("r", 1, "decode", "broken", False)], None),
        ([EndOfRequest("r", 1, 0, "error"), Rejected("r", 2, 503, "full", 1.0)], None),
        ([first(0, "a"), EndOfRequest("r", 1, 2, "length")], None),
        ([TokenBatch(DECODE, (Token("r", 1, 0, 97, finish="stop"),))], None),
    ):
        desk = Desk()
        desk.open()
        desk.receive(*messages)
        desk.take()
        desk.close()
        assert desk.take() == ([] if cancelled is None else [Cancel("r", cancelled)])


def test_what_belongs_to_nothing_is_counted_and_changes_nothing() -> None:
    desk = Desk()
    call = desk.open()
    desk.receive(first(0, "a"), batch(0, "ab"))
    assert desk.stray() == 0.0  # decode says the first token again
    desk.receive(
        batch(1, "b"), first(1, "b", attempt=2), Accepted("unknown", 1), accepted(2),
        Failed("r", 2, "", "", True), EndOfRequest("r", 7, 0, "error"), Cancel("r", 1),
        TokenBatch(DECODE, (Token("unknown", 1, 0, 5), Token("r", 1, 2**31 - 1, 5))),
    )  # fmt: skip
    assert desk.stray() == 9.0
    assert (call.stream.attempt, call.failure) == (1, None)
    assert len(call.stream.emitted) == 2


def test_failpoints_are_reached() -> None:
    hits: list[str] = []
    desk = Desk()
    with (
        failpoints.hooked("gateway.submit", lambda: hits.append("submit")),
        failpoints.hooked("gateway.token", lambda: hits.append("token")),
    ):
        desk.open()
        desk.receive(batch(0, "ab"), batch(0, "a"))
    assert hits == ["submit", "token", "token"]


def test_a_gateway_that_is_to_end_takes_nobody_and_abandons_what_is_left() -> None:
    desk = Desk()
    call = desk.open()
    desk.process.stopping.set()
    with pytest.raises(Refusal, match="stopping"), desk.calls.place():
        pass
    desk.calls.abandon()
    assert call.failure is not None
    assert call.failure.status == 503


def test_every_submit_says_how_long_its_client_still_waits() -> None:
    desk = Desk()
    order = Order("r", None, desk.time.at, desk.time.at + 10.0)
    with opened(desk.calls, order, [Stream([7], Sampling(), Ending(9), Stops(), Letters())], 1):
        assert desk.submit.patience == 10.0
        assert [m.patience for m in desk.tick(4.0)] == [6.0]
        desk.receive(Failed("r", 1, "decode", "lost", True))
        assert (desk.submit.attempt, desk.submit.patience) == (2, 6.0)
        assert [m.patience for m in desk.tick(100.0)] == [0.0]
    desk.open(name="endless")
    assert desk.submit.patience is None


SAID = (Accepted, Rejected, Failed, EndOfRequest, FirstToken, TokenBatch, PromptScores)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_whatever_comes_calls_go_on_and_leave_nothing(data: st.DataObject, tokenizer: Tokenizer):
    desk, small = Desk(max_attempts=3), st.integers(0, 4)
    texts = Stops(["a"]), tokenizer.detokenizer()
    desk.open(Stream([7, 8, 9], Sampling(logprobs=2), Ending(4), *texts, Scores(3, 2)))

    def ours(token: Token) -> Token:
        return structs.replace(token, request="r", attempt=attempt, index=data.draw(small))

    for _ in range(data.draw(st.integers(1, 10))):
        message = data.draw(STRATEGY_OF[data.draw(st.sampled_from(SAID))])
        attempt = data.draw(st.integers(1, 3))
        match message:
            case FirstToken():
                message = structs.replace(message, token=ours(message.token))
            case TokenBatch():
                message = structs.replace(message, tokens=tuple(map(ours, message.tokens)))
            case PromptScores():
                start = 1 + data.draw(small)
                message = structs.replace(message, request="r", attempt=attempt, start=start)
            case _:
                message = structs.replace(message, request="r", attempt=attempt)
        desk.receive(message)
        desk.time.at += data.draw(st.sampled_from([0.0, 1.0, 31.0]))
        desk.calls.tick(desk.time.at)
        for _, said in desk.sent:
            assert CONTROL.decode(CONTROL.encode(said, [b""] * said.num_frames))[0] == said
        desk.take()
    desk.close()
    assert len(desk.calls) == desk.calls.places.taken == 0
    assert desk.calls.facts().open == ()
