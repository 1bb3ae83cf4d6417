import asyncio
import json

import pytest
from msgspec import structs

from common.messages import Accepted, Cancel, Failed, Rejected, Sampling, Submit, Token, TokenBatch
from gateway.api.choices import Choices, Order, opened
from gateway.api.stops import Stops
from gateway.errors import Refusal
from gateway.mesh.streams import Stream, Usage
from tests.gateway.bench import CHAT, COMPLETION, DECODE, Bench, Client, FakeMesh, accept, events
from tests.gateway.desk import Desk, Ending, Letters

WORDS = ["hello", "the quick", "fox and", "größe", "stop here", "你好", "world", "there"]
ORDER = Order("cmpl-1", "2x8", 100.0, 130.0)


def each_its_own(mesh: FakeMesh, submit: Submit, ids: list[int]) -> None:
    """A text that depends on seed, choice and prompt, as the workers' does."""
    mesh.send(Accepted(submit.request, submit.attempt))
    word = (submit.sampling.choice + submit.sampling.seed + sum(ids)) % len(WORDS)
    mesh.tokens(submit, WORDS[word], "length")


def streams(count: int) -> list[Stream]:
    return [
        Stream([7] * (1 + i), Sampling(choice=i), Ending(20), Stops(), Letters())
        for i in range(count)
    ]


def letters(name: str, index: int, text: str, *, ends: bool = False) -> TokenBatch:
    tokens = [Token(name, 1, index + i, ord(c)) for i, c in enumerate(text)]
    if ends:
        tokens[-1] = Token(name, 1, index + len(text) - 1, ord(text[-1]), finish="length")
    return TokenBatch(DECODE, tuple(tokens))


def test_every_choice_of_every_prompt_is_submitted_and_told_by_its_index(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        body = COMPLETION | {"prompt": [[5, 6], [7, 8, 9]], "n": 3, "best_of": 3, "seed": 11}
        status, answer, _ = await client.post("/v1/completions", body)
        assert status == 200
        assert [choice["index"] for choice in answer["choices"]] == list(range(6))
        texts = [choice["text"] for choice in answer["choices"]]
        assert texts == [WORDS[(i + 11 + total) % 8] for total in (11, 24) for i in range(3)]
        submits = client.mesh.submits
        assert [s.request for s in submits] == [f"{answer['id']}-{i}" for i in range(6)]
        assert [s.sampling.choice for s in submits] == [0, 1, 2, 0, 1, 2]
        assert {s.sampling.seed for s in submits} == {11}
        # Every prompt counts once, every choice's tokens count.
        encode = client.mesh.tokenizer._tokenizer.encode
        assert answer["usage"]["prompt_tokens"] == 2 + 3
        assert answer["usage"]["completion_tokens"] == sum(len(encode(text)) for text in texts)
        _, again, _ = await client.post("/v1/completions", body)
        assert [choice["text"] for choice in again["choices"]] == texts

    bench(each_its_own, scenario)


def test_prompts_without_a_seed_are_drawn_differently_and_one_is_named_as_its_answer(
    bench: Bench,
) -> None:
    async def scenario(client: Client) -> None:
        await client.post("/v1/completions", COMPLETION | {"prompt": ["hello", "hello"], "n": 2})
        seeds = [submit.sampling.seed for submit in client.mesh.submits]
        assert seeds[0] == seeds[1] != seeds[2] == seeds[3]
        _, answer, _ = await client.post("/v1/chat/completions", CHAT | {"n": 1})
        assert client.mesh.submits[-1].request == answer["id"]

    bench(each_its_own, scenario)


def test_streams_of_several_choices_share_one_connection(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        options = {"include_usage": True, "continuous_usage_stats": True}
        body = CHAT | {"n": 4, "seed": 1, "stream": True, "stream_options": options}
        _, raw, _ = await client.post("/v1/chat/completions", body)
        *chunks, last = events(raw)
        roles, rest = chunks[:4], chunks[4:]
        assert [c["choices"][0]["index"] for c in roles] == [0, 1, 2, 3]
        assert all(c["choices"][0]["delta"] == {"role": "assistant", "content": ""} for c in roles)
        texts = ["", "", "", ""]
        counts = [0, 0, 0, 0]
        ended = set()
        for chunk in rest:
            (choice,) = chunk["choices"]
            index = choice["index"]
            assert index not in ended
            texts[index] += choice["delta"]["content"]
            counts[index] += 1
            assert chunk["usage"]["completion_tokens"] == counts[index]
            if choice["finish_reason"] is not None:
                ended.add(index)
        assert ended == {0, 1, 2, 3}
        _, whole, _ = await client.post("/v1/chat/completions", CHAT | {"n": 4, "seed": 1})
        assert texts == [choice["message"]["content"] for choice in whole["choices"]]
        assert last["choices"] == []
        assert last["usage"] == whole["usage"]
        assert last["usage"]["completion_tokens"] == sum(counts)

    bench(each_its_own, scenario)


@pytest.mark.parametrize("stream", [False, True])
def test_one_choice_that_fails_fails_all_and_nothing_is_left_in_the_mesh(
    bench: Bench, stream: bool
) -> None:
    def reply(mesh: FakeMesh, submit: Submit, ids: list[int]) -> None:
        mesh.send(Accepted(submit.request, submit.attempt))
        if len(mesh.submits) == 3:
            first = mesh.submits[0].request
            mesh.send(TokenBatch(DECODE, (Token(first, 1, 0, 40),)))
            mesh.send(Failed(mesh.submits[1].request, 1, "decode", "broken", retryable=False))

    async def scenario(client: Client) -> None:
        body = COMPLETION | {"n": 3, "stream": stream}
        status, answer, _ = await client.post("/v1/completions", body)
        if stream:
            assert status == 200
            assert events(answer)[-1]["error"]["code"] == 500
            assert '"finish_reason":"' not in answer
        else:
            assert (status, answer["error"]["code"]) == (500, 500)
        cancelled = [await client.mesh.seen.get() for _ in range(2)]
        assert all(isinstance(message, Cancel) for message in cancelled)
        names = [submit.request for submit in client.mesh.submits]
        assert {message.request for message in cancelled} == {names[0], names[2]}
        await client.mesh.until(lambda: client.mesh.facts.idle)
        assert client.mesh.facts.open == ()

    bench(reply, scenario)


def test_a_choice_that_the_router_rejects_keeps_its_status(bench: Bench) -> None:
    def reply(mesh: FakeMesh, submit: Submit, ids: list[int]) -> None:
        if submit.sampling.choice == 1:
            mesh.send(Rejected(submit.request, submit.attempt, 503, "the queue is full", 4.2))
        else:
            accept(mesh, submit, ids)

    async def scenario(client: Client) -> None:
        body = COMPLETION | {"n": 2, "stream": True}
        status, answer, headers = await client.post("/v1/completions", body)
        assert (status, headers["Retry-After"]) == (503, "5")
        assert answer["error"]["message"] == "the queue is full"
        cancel = await client.mesh.seen.get()
        assert cancel == Cancel(client.mesh.submits[0].request, 1)

    bench(reply, scenario)


def test_a_client_that_leaves_cancels_all_of_its_choices(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        body = json.dumps(COMPLETION | {"prompt": ["a", "b"], "n": 2, "stream": True})
        head = {"Content-Type": "application/json"}
        url = client.url + "/v1/completions"
        async with client.session.post(url, data=body, headers=head) as answer:
            assert answer.status == 200
            answer.close()
        cancels = {(await client.mesh.seen.get()).request for _ in range(4)}
        assert cancels == {submit.request for submit in client.mesh.submits}

    bench(accept, scenario)


def test_every_choice_needs_a_place(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        for body, name in (({"n": 4}, "n"), ({"prompt": ["a"] * 4}, "prompt")):
            status, answer, _ = await client.post("/v1/completions", COMPLETION | body)
            assert (status, answer["error"]["param"]) == (400, name)
            assert "4 choices, this server takes 3" in answer["error"]["message"]
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(client.post("/v1/completions", COMPLETION | {"n": 2}))
            await client.mesh.until(lambda: client.mesh.facts.streams == 2)
            status, answer, headers = await client.post("/v1/completions", COMPLETION | {"n": 2})
            assert (status, headers["Retry-After"]) == (503, "1")
            assert client.mesh.facts.streams == 2
            while len(client.mesh.submits) < 2:
                client.mesh.arrived.clear()
                await client.mesh.arrived.wait()
            for submit in client.mesh.submits:
                client.mesh.tokens(submit, "hello")
            assert (await waiting)[0] == 200
        await client.mesh.until(lambda: client.mesh.facts.idle)

    bench(accept, scenario, max_requests=3)


def test_calls_are_numbered_share_deadline_and_plan_and_are_closed_together() -> None:
    desk = Desk()
    with opened(desk.calls, ORDER, streams(3), 1) as choices:
        submits = desk.take()
        assert [submit.request for submit in submits] == ["cmpl-1-0", "cmpl-1-1", "cmpl-1-2"]
        assert {(submit.forced_plan, submit.patience) for submit in submits} == {("2x8", 30.0)}
        assert choices.usage == Usage(1 + 2 + 3, 0)
    assert {cancel.request for cancel in desk.take()} == {s.request for s in submits}
    assert len(desk.calls) == 0
    with opened(desk.calls, ORDER, streams(1), 1):
        assert desk.take()[0].request == "cmpl-1"


def test_what_one_choice_brought_is_told_before_another_ones_failure() -> None:
    async def scenario() -> None:
        desk = Desk()
        with opened(desk.calls, ORDER, streams(3), 3) as choices:
            desk.receive(letters("cmpl-1-2", 0, "ab"), letters("cmpl-1-0", 0, "c"))
            desk.receive(Failed("cmpl-1-1", 1, "decode", "broken", False))
            news = await choices.next()
            told = {index: "".join(p.text for p in pieces) for index, pieces in news}
            assert told == {2: "ab", 0: "c"}
            desk.receive(letters("cmpl-1-0", 1, "d"))
            with pytest.raises(Refusal):
                await choices.next()

    asyncio.run(scenario())


def test_a_wait_that_is_cancelled_loses_nothing() -> None:
    async def scenario() -> None:
        desk = Desk()
        with opened(desk.calls, ORDER, streams(2), 2) as choices:
            for wait in (choices.accepted, choices.next):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await wait()
            desk.receive(letters("cmpl-1-1", 0, "ab", ends=True))
            desk.receive(letters("cmpl-1-0", 0, "c", ends=True))
            # The tokens that come while it waits for something else are not forgotten.
            await choices.accepted()
            await choices.scored()
            news = dict(await choices.next())
            assert {index: len(pieces) for index, pieces in news.items()} == {0: 1, 1: 2}
            assert choices.are_finished

    asyncio.run(scenario())


def test_a_single_call_without_news_waits_for_the_next() -> None:
    async def scenario() -> None:
        desk = Desk()
        choices = Choices([desk.open()])
        desk.receive(Accepted("r", 1))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await choices.next()
        assert not choices.are_finished

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("answers", "status", "after"),
    [
        ([Rejected("", 1, 503, "full", 3.0), Rejected("", 1, 503, "full", 9.0)], 503, 9.0),
        ([Rejected("", 1, 503, "full", 9.0), Rejected("", 1, 503, "full", 3.0)], 503, 9.0),
        ([Rejected("", 1, 503, "full", 3.0), Rejected("", 1, 400, "too long")], 400, None),
        ([Accepted("", 1), Rejected("", 1, 503, "full", 3.0)], 503, 3.0),
    ],
)
def test_who_is_refused_comes_back_when_there_is_room_for_the_last_choice(
    answers: list[Accepted | Rejected], status: int, after: float | None
) -> None:
    async def scenario() -> Refusal:
        desk = Desk()
        with opened(desk.calls, ORDER, streams(2), 2) as choices:
            loop = asyncio.get_running_loop()
            for index, one in enumerate(answers):
                message = structs.replace(one, request=f"cmpl-1-{index}")
                loop.call_later(0.01 * (1 + index), desk.receive, message)
            with pytest.raises(Refusal) as refused:
                await choices.accepted()
            return refused.value

    refusal = asyncio.run(scenario())
    assert (refusal.status, refusal.retry_after) == (status, after)
