import asyncio
import json

import pytest

from common.messages import (
    Accepted,
    Cancel,
    FirstToken,
    Submit,
    Token,
    TokenBatch,
)
from gateway.api.tokenizer import Tokenizer
from tests.gateway.bench import (
    CHAT,
    COMPLETION,
    DECODE,
    Bench,
    Client,
    FakeMesh,
    Reply,
    accept,
    events,
    say,
)


def test_a_completion_has_openais_shape(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        body = COMPLETION | {"prompt": ["hello world"], "seed": None, "user": "me", "what": 1}
        status, answer, headers = await client.post("/v1/completions", body)
        assert status == 200
        (choice,) = answer["choices"]
        expected = {"text": "größe 😀", "index": 0, "logprobs": None, "finish_reason": "stop"}
        assert choice == expected
        assert (answer["object"], answer["model"]) == ("text_completion", "tiny")
        prompt = len(client.mesh.tokenizer._tokenizer.encode("hello world"))
        assert answer["usage"]["prompt_tokens"] == prompt == client.mesh.submits[0].num_tokens
        used = answer["usage"]
        assert used["total_tokens"] == prompt + used["completion_tokens"]
        assert headers["x-tetris-ignored"] == "what"
        assert headers["x-request-id"]

    bench(say("größe 😀"), scenario)


def test_logprobs_have_both_routes_shapes(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        _, answer, _ = await client.post("/v1/completions", COMPLETION | {"logprobs": 2})
        logprobs = answer["choices"][0]["logprobs"]
        assert set(logprobs["token_logprobs"]) == {-0.5}
        assert len(logprobs["top_logprobs"][0]) == 2
        joined = "".join(logprobs["tokens"])
        assert joined == answer["choices"][0]["text"]
        assert [
            joined[o:].startswith(t)
            for o, t in zip(logprobs["text_offset"], logprobs["tokens"], strict=True)
        ] == [True] * len(logprobs["tokens"])
        _, answer, _ = await client.post(
            "/v1/chat/completions", CHAT | {"logprobs": True, "top_logprobs": 1}
        )
        entry = answer["choices"][0]["logprobs"]["content"][0]
        assert (entry["logprob"], len(entry["top_logprobs"])) == (-0.5, 1)
        assert bytes(entry["bytes"]).decode() == entry["token"]

    bench(say("hello fox", "length"), scenario)


def test_parameters_reach_the_router(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        body = COMPLETION | {
            "prompt": [[5, 6, 7]], "temperature": 0, "top_p": 0.5, "top_k": 3, "min_p": 0.1,
            "seed": -1, "stop_token_ids": [9], "ignore_eos": True, "min_tokens": 2, "logprobs": 0,
            "n": 1, "best_of": 1, "presence_penalty": 0, "frequency_penalty": 0.0,
        }  # fmt: skip
        await client.post("/v1/completions", body, **{"x-tetris-plan": "2x64"})
        (submit,) = client.mesh.submits
        sampling, ending = submit.sampling, submit.ending
        assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0, 0.5, 3)
        assert (sampling.min_p, sampling.seed, sampling.logprobs) == (0.1, 2**63 - 1, 0)
        assert (ending.max_tokens, ending.min_tokens, ending.ignore_eos) == (40, 2, True)
        assert (ending.stop_token_ids, submit.forced_plan) == ((9,), "2x64")
        # Defaults: 16 tokens or the rest of the context, a seed of its own.
        await client.post("/v1/completions", {"model": "tiny", "prompt": [1, 2]})
        await client.post("/v1/chat/completions", CHAT)
        _, short, rest = client.mesh.submits
        assert short.ending.max_tokens == 16
        assert rest.ending.max_tokens == 512 - rest.num_tokens
        assert short.sampling.temperature == 1.0
        assert short.sampling.seed != rest.sampling.seed

    bench(say("hello", "length"), scenario, allow_forced_plans=True)


def test_what_is_too_long_is_refused_in_the_words_that_clients_match(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        body = COMPLETION | {"prompt": [5] * 500}
        status, answer, _ = await client.post("/v1/completions", body)
        assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
        assert answer["error"]["param"] == "prompt"
        assert answer["error"]["message"] == (
            "This model's maximum context length is 512 tokens. However, you requested 540 "
            "tokens (500 in the prompt, 40 for the completion)."
        )
        long = [{"role": "user", "content": "xq" * 600}]
        status, answer, _ = await client.post("/v1/chat/completions", CHAT | {"messages": long})
        assert (status, answer["error"]["param"]) == (400, "messages")
        assert answer["error"]["code"] == "context_length_exceeded"

    bench(accept, scenario)


def test_a_request_that_takes_too_long_ends_with_an_error(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        status, answer, _ = await client.post("/v1/completions", COMPLETION)
        assert (status, answer["error"]["code"]) == (504, "timeout")
        assert isinstance(await client.mesh.seen.get(), Cancel)
        _, raw, _ = await client.post("/v1/completions", COMPLETION | {"stream": True})
        assert [event["error"]["code"] for event in events(raw)] == ["timeout"]

    bench(accept, scenario, request_timeout=0.2)


def test_a_client_may_wait_less_but_not_longer_than_the_server_allows(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        for bad in (0, -1, "5", True, 60.5, 1e300):
            status, answer, _ = await client.post("/v1/completions", COMPLETION | {"timeout": bad})
            assert (status, answer["error"]["param"]) == (400, "timeout"), bad
        assert client.mesh.submits == []
        for body in (COMPLETION | {"timeout": 0.2}, COMPLETION | {"timeout": 0.2, "stream": True}):
            status, answer, headers = await client.post("/v1/completions", body)
            assert (status, answer["error"]["code"]) == (504, "timeout")
            assert "x-tetris-ignored" not in headers
            cancel = await client.mesh.seen.get()
            assert isinstance(cancel, Cancel)
            assert cancel.request == client.mesh.submits[-1].request

    bench(silence, scenario, request_timeout=60.0)


@pytest.mark.parametrize(("seconds", "header"), [(1.23456, "1.235"), (None, None)])
def test_the_predicted_ttft_is_told_before_the_first_token(
    bench: Bench, seconds: float | None, header: str | None
) -> None:
    async def scenario(client: Client) -> None:
        for body in (COMPLETION, COMPLETION | {"stream": True}):
            status, _, headers = await client.post("/v1/completions", body)
            assert status == 200
            assert headers.get("x-tetris-predicted-ttft") == header

    def reply(mesh: FakeMesh, submit: Submit, ids: list[int]) -> None:
        mesh.send(Accepted(submit.request, submit.attempt, seconds))
        # The plan comes later; what counts is what was said at first.
        mesh.send(Accepted(submit.request, submit.attempt, 0.5))
        mesh.tokens(submit, "hello", "length")

    bench(reply, scenario)


def silence(mesh: FakeMesh, submit: Submit, ids: list[int]) -> None:
    """As a router does that is just starting again."""


def accept_and_begin(mesh: FakeMesh, submit: Submit, ids: list[int]) -> None:
    mesh.send(Accepted(submit.request, submit.attempt))
    mesh.send(FirstToken(Token(submit.request, submit.attempt, 0, 5), DECODE))


def accept_and_decode(mesh: FakeMesh, submit: Submit, ids: list[int]) -> None:
    accept_and_begin(mesh, submit, ids)
    tokens = tuple(Token(submit.request, submit.attempt, index, 5) for index in range(3))
    mesh.send(TokenBatch(DECODE, tokens))


def head(length: int) -> bytes:
    start = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{start}Content-Length: {length}\r\n\r\n".encode()


async def idle(client: Client) -> None:
    """Until the gateway's heartbeats tell that nobody has a place."""
    await client.mesh.until(lambda: client.mesh.facts.idle)


async def busy(client: Client) -> None:
    await client.mesh.until(lambda: not client.mesh.facts.idle)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("reply", [silence, accept, accept_and_begin, accept_and_decode])
def test_a_client_that_leaves_frees_everything_in_every_phase(
    bench: Bench, reply: Reply, stream: bool
) -> None:
    async def scenario(client: Client) -> None:
        body = json.dumps(COMPLETION | {"stream": stream}).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(head(len(body)) + body)
        await client.mesh.arrived.wait()
        if stream and reply is not silence:
            await reader.readuntil(b"\r\n\r\n")
        await busy(client)
        writer.transport.abort()
        cancel = await client.mesh.seen.get()
        assert cancel == Cancel(client.mesh.submits[0].request, 1)
        await idle(client)
        assert client.mesh.facts.open == ()

    bench(reply, scenario)


def test_a_client_that_leaves_before_its_request_is_read_holds_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoding = asyncio.Event()

    async def encode(tokenizer: Tokenizer, prompt: object, how: object) -> list[int]:
        encoding.set()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(Tokenizer, "encode", encode)

    async def scenario(client: Client) -> None:
        body = json.dumps(COMPLETION).encode()
        for sent in (head(len(body)) + body[:9], head(len(body)) + body):
            _, writer = await asyncio.open_connection("127.0.0.1", client.port)
            writer.write(sent)
            await busy(client)
            if sent.endswith(body):
                await encoding.wait()
            writer.transport.abort()
            await idle(client)
        assert client.mesh.submits == []
        assert client.mesh.seen.empty()

    bench(accept, scenario)


def test_a_slow_tokenizer_is_no_excuse_for_the_deadline(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def encode(tokenizer: Tokenizer, prompt: object, how: object) -> list[int]:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(Tokenizer, "encode", encode)

    async def scenario(client: Client) -> None:
        status, answer, _ = await client.post("/v1/completions", COMPLETION | {"timeout": 0.1})
        assert (status, answer["error"]["code"]) == (504, "timeout")

    bench(accept, scenario)
