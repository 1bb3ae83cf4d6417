import asyncio
import json

from common.messages import (
    Cancel,
    EndOfRequest,
    Failed,
    Rejected,
    Submit,
    Token,
    TokenBatch,
)
from tests.gateway.bench import (
    COMPLETION,
    DECODE,
    Bench,
    Client,
    FakeMesh,
    accept,
)


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
        assert (status, headers["Retry-After"]) == (503, "4")
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
