import json

import pytest

from common.messages import (
    Failed,
    Submit,
    Token,
    TokenBatch,
)
from tests.gateway.bench import (
    CHAT,
    COMPLETION,
    DECODE,
    Bench,
    Client,
    FakeMesh,
    accept,
    events,
    say,
)


def test_a_streamed_chat_follows_the_chunk_order(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        body = CHAT | {"stream": True, "stream_options": {"include_usage": True}}
        status, raw, headers = await client.post("/v1/chat/completions", body)
        assert (status, headers["Cache-Control"]) == (200, "no-cache")
        assert headers["Content-Type"] == "text/event-stream; charset=utf-8"
        first, *chunks, last, usage = events(raw)
        assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert all("role" not in chunk["choices"][0]["delta"] for chunk in [*chunks, last])
        parts = [c["choices"][0]["delta"]["content"] for c in [*chunks, last]]
        assert "".join(parts) == "你好 there"
        assert {c["choices"][0]["finish_reason"] for c in chunks} == {None}
        assert last["choices"][0]["finish_reason"] == "length"
        assert usage["choices"] == []
        assert usage["usage"]["completion_tokens"] == len(parts)
        assert all("usage" not in c for c in [first, *chunks, last])
        assert len({(c["id"], c["created"], c["model"]) for c in [first, *chunks, usage]}) == 1
        assert first["object"] == "chat.completion.chunk"
        # No usage unless asked.
        _, raw, _ = await client.post("/v1/chat/completions", CHAT | {"stream": True})
        assert all(c["choices"] and "usage" not in c for c in events(raw))

    bench(say("你好 there", "length"), scenario)


def test_continuous_usage_runs_along(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        options = {"include_usage": True, "continuous_usage_stats": True}
        body = COMPLETION | {"stream": True, "stream_options": options}
        _, raw, _ = await client.post("/v1/completions", body)
        counts = [chunk["usage"]["completion_tokens"] for chunk in events(raw)]
        assert counts == [*range(1, len(counts)), len(counts) - 1]

    bench(say("hello", "length"), scenario)


def test_a_failure_inside_a_stream_is_an_error_event_and_no_finish(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        _, raw, _ = await client.post("/v1/completions", COMPLETION | {"stream": True})
        *chunks, error = events(raw)
        assert "".join(c["choices"][0]["text"] for c in chunks) == "hello"
        assert {c["choices"][0]["finish_reason"] for c in chunks} <= {None}
        assert error["error"]["code"] == 500
        assert "10.0.0.1" not in raw
        status, answer, _ = await client.post("/v1/completions", COMPLETION)
        assert (status, answer["error"]["type"]) == (500, "InternalServerError")

    def reply(mesh: FakeMesh, submit: Submit, ids: list[int]) -> None:
        hello = mesh.tokenizer._tokenizer.encode("hello")
        for index, token_id in enumerate(hello):
            mesh.send(TokenBatch(DECODE, (Token(submit.request, 1, index, token_id),)))
        mesh.send(Failed(submit.request, 1, "decode", "10.0.0.1 is gone", retryable=False))

    bench(reply, scenario)


def test_silence_is_filled_with_comments(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.api.sse.PING", 0.02)

    async def scenario(client: Client) -> None:
        body = json.dumps(COMPLETION | {"stream": True})
        head = {"Content-Type": "application/json"}
        url = client.url + "/v1/completions"
        async with client.session.post(url, data=body, headers=head) as answer:
            assert await answer.content.readline() == b": ping\n"
            client.mesh.tokens(client.mesh.submits[0], "hello")
            rest = (await answer.content.read()).decode().replace(": ping\n\n", "").lstrip()
            assert events(rest)[-1]["choices"][0]["finish_reason"] == "stop"

    bench(accept, scenario)
