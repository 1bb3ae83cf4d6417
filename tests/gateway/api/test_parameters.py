"""What parameters do to an answer, through the whole gateway."""

import json
import random

import pytest

from common.messages import Bias, Submit
from tests.gateway.api.test_openai import NAMES
from tests.gateway.bench import (
    CHAT,
    COMPLETION,
    Bench,
    Client,
    FakeMesh,
    events,
    say,
    scores,
)

LEAVES = [None, True, False, 0, 1, -1, 2.5, 1e308, 2**70, "", "x", "5", [], {}, [[]], [1], ["a"]]


def test_stop_strings_and_special_tokens_are_shown_where_that_is_asked_for(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        for more, text in (
            ({}, "the quick fox"),
            ({"stop": [" fox"]}, "the quick"),
            ({"stop": [" fox"], "include_stop_str_in_output": True}, "the quick fox"),
            ({"skip_special_tokens": False}, "the quick fox"),
            (
                {"skip_special_tokens": False, "include_stop_str_in_output": True},
                "the quick fox</s>",
            ),
            ({"include_stop_str_in_output": True}, "the quick fox"),
        ):
            _, answer, _ = await client.post("/v1/completions", COMPLETION | more)
            assert answer["choices"][0]["text"] == text
            assert answer["choices"][0]["finish_reason"] == "stop"

    bench(say("the quick fox"), scenario)


def test_ids_are_told_where_that_is_asked_for(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        ids = client.mesh.tokenizer._tokenizer.encode("hello fox")
        wanted = {"return_token_ids": True}
        _, answer, _ = await client.post(
            "/v1/completions", COMPLETION | {"prompt": [5, 6]} | wanted
        )
        choice = answer["choices"][0]
        assert (choice["token_ids"], choice["prompt_token_ids"]) == (ids, [5, 6])
        _, answer, _ = await client.post("/v1/chat/completions", CHAT | wanted)
        assert answer["choices"][0]["token_ids"] == ids
        assert len(answer["prompt_token_ids"]) == answer["usage"]["prompt_tokens"]
        _, raw, _ = await client.post("/v1/completions", COMPLETION | wanted | {"stream": True})
        chunks = [event["choices"][0] for event in events(raw)]
        assert [i for chunk in chunks for i in chunk["token_ids"]] == ids
        assert ["prompt_token_ids" in chunk for chunk in chunks] == [True] + [False] * (
            len(ids) - 1
        )
        _, raw, _ = await client.post("/v1/chat/completions", CHAT | {"stream": True})
        assert "token_ids" not in raw

    bench(say("hello fox", "length"), scenario)


def test_a_truncated_prompt_keeps_its_end_and_is_echoed_as_it_is_kept(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        ids = client.mesh.tokenizer._tokenizer.encode("the quick brown fox")
        body = COMPLETION | {"prompt": "the quick brown fox", "truncate_prompt_tokens": 2}
        _, answer, _ = await client.post("/v1/completions", body | {"echo": True})
        kept = client.mesh.tokenizer.decode(ids[-2:])
        assert answer["choices"][0]["text"] == kept + "hello"
        assert answer["usage"]["prompt_tokens"] == 2 == client.mesh.submits[0].num_tokens
        long = COMPLETION | {"prompt": [5] * 600, "truncate_prompt_tokens": -1}
        _, answer, _ = await client.post("/v1/completions", long)
        assert answer["usage"]["prompt_tokens"] == 512 - 40

    bench(say("hello", "length"), scenario)


def test_penalties_and_biases_reach_the_router(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        body = {
            "presence_penalty": 0.5, "frequency_penalty": -1, "repetition_penalty": 1.25,
            "logit_bias": {"7": -100, "12": 5.5},
        }  # fmt: skip
        for path, base in (("/v1/completions", COMPLETION), ("/v1/chat/completions", CHAT)):
            status, _, headers = await client.post(path, base | body)
            assert status == 200
            assert "x-tetris-ignored" not in headers
            sampling = client.mesh.submits[-1].sampling
            assert sampling.presence_penalty == 0.5
            assert sampling.frequency_penalty == -1
            assert sampling.repetition_penalty == 1.25
            assert sampling.biases == (Bias(7, -100), Bias(12, 5.5))

    bench(say("hello", "length"), scenario)


def test_ignored_fields_are_counted(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        body = COMPLETION | {"zeta": 1, "alpha": {}, "a\r\nb": 1, "user": "me", "n": None}
        for stream in (False, True):
            _, _, headers = await client.post("/v1/completions", body | {"stream": stream})
            assert headers["x-tetris-ignored"] == "alpha,zeta"
        _, metrics, _ = await client.get("/metrics")
        assert "tetris_gateway_ignored_parameters_total 6.0" in metrics

    bench(say("hello", "length"), scenario)


def value(rng: random.Random, depth: int = 0) -> object:
    """Any JSON, mostly short."""
    if depth > 2 or rng.random() < 0.6:
        return rng.choice(LEAVES)
    if rng.random() < 0.5:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(["type", "text", "5", "role"]): value(rng, depth + 1) for _ in range(2)}


def tell_all(mesh: FakeMesh, submit: Submit, ids: list[int]) -> None:
    for message in scores(submit, ids) if submit.prompt_logprobs >= 0 else []:
        mesh.send(message)
    mesh.tokens(submit, "hello", "length")


def test_random_bodies_never_make_the_server_fail(bench: Bench) -> None:
    rng = random.Random(5)
    names = [name for name in NAMES if name != "timeout"]

    async def scenario(client: Client) -> None:
        served = 0
        for _ in range(400):
            fields = {rng.choice(names): value(rng) for _ in range(rng.randrange(1, 4))}
            for path, base in (("/v1/completions", COMPLETION), ("/v1/chat/completions", CHAT)):
                status, answer, _ = await client.post(path, base | fields)
                served += status == 200
                assert status in (200, 400, 404), fields
                # A stream that has begun has no error in it either.
                assert status != 200 or "error" not in str(answer), fields
                assert status == 200 or answer["error"]["message"], fields
        assert served > 30
        await client.mesh.until(lambda: client.mesh.facts.idle)
        assert client.mesh.facts.open == ()

    bench(tell_all, scenario)


@pytest.mark.parametrize("stream", [False, True])
def test_openais_own_client_reads_every_choice(bench: Bench, stream: bool) -> None:
    openai = pytest.importorskip("openai")

    async def scenario(client: Client) -> None:
        api = openai.AsyncOpenAI(base_url=client.url + "/v1", api_key="x", max_retries=0)
        async with api:
            asked = {"model": "tiny", "n": 2, "logprobs": True, "top_logprobs": 1}
            messages = [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]
            if not stream:
                answer = await api.chat.completions.create(messages=messages, **asked)
                assert [c.message.content for c in answer.choices] == ["hello fox"] * 2
                assert answer.usage.completion_tokens == 2 * len(answer.choices[0].logprobs.content)
                text = await api.completions.create(model="tiny", prompt=["a", "b"], n=2, seed=1)
                assert [choice.index for choice in text.choices] == [0, 1, 2, 3]
                return
            options = {"include_usage": True}
            texts, usage = ["", ""], None
            async for chunk in await api.chat.completions.create(
                messages=messages, stream=True, stream_options=options, **asked
            ):
                for choice in chunk.choices:
                    texts[choice.index] += choice.delta.content
                usage = chunk.usage or usage
            assert texts == ["hello fox"] * 2
            assert usage.completion_tokens > 0
            assert usage.model_extra == {}

    bench(say("hello fox", "length"), scenario)


def test_too_many_fields_and_too_deep_ones_are_refused(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        many = {f"field{i}": i for i in range(300)}
        deep = b'{"model":"tiny","prompt":' + b"[" * 5000 + b"]" * 5000 + b"}"
        for body in (json.dumps(COMPLETION | many).encode(), deep):
            status, answer, _ = await client.post("/v1/completions", body)
            assert (status, answer["error"]["type"]) == (400, "BadRequestError")

    bench(say("hello"), scenario)
