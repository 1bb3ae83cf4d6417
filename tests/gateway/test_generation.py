from common.messages import (
    Cancel,
)
from tests.gateway.bench import (
    CHAT,
    COMPLETION,
    Bench,
    Client,
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
