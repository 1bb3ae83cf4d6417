import asyncio
import json

import pytest

from common.messages import (
    ClusterState,
)
from tests.gateway.bench import (
    CHAT,
    COMPLETION,
    Bench,
    Client,
    accept,
    say,
)

BAD = [
    ({"prompt": None}, "prompt"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [[]]}, "prompt"),
    ({"prompt": ["a", ""]}, "prompt"),
    ({"prompt": ["a", [1]]}, "prompt"),
    ({"prompt": [[1], []]}, "prompt"),
    ({"prompt": ["a"] * 33}, "prompt"),
    ({"prompt": [[5], [10**6]]}, "prompt"),
    ({"prompt": [True]}, "prompt"),
    ({"prompt": [1, "a"]}, "prompt"),
    ({"prompt": [-1]}, "prompt"),
    ({"prompt": [10**6]}, "prompt"),
    ({"prompt": {"a": 1}}, "prompt"),
    ({"prompt": [1.5]}, "prompt"),
    ({"model": None}, "model"),
    ({"model": 3}, "model"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": "9"}, "max_tokens"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": float("nan")}, "temperature"),
    ({"temperature": float("-inf")}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.1}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"min_p": -1}, "min_p"),
    ({"seed": 2**70}, "seed"),
    ({"seed": 1.5}, "seed"),
    ({"stop": ["a"] * 5}, "stop"),
    ({"stop": ""}, "stop"),
    ({"stop": [1]}, "stop"),
    ({"stop_token_ids": [-1]}, "stop_token_ids"),
    ({"min_tokens": 41}, "min_tokens"),
    ({"ignore_eos": "yes"}, "ignore_eos"),
    ({"stream": 1}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"logprobs": 21}, "logprobs"),
    ({"logprobs": True}, "logprobs"),
    ({"n": 0}, "n"),
    ({"n": 9}, "n"),
    ({"n": True}, "n"),
    ({"best_of": 2}, "best_of"),
    ({"n": 2, "best_of": 1}, "best_of"),
    ({"n": 2, "best_of": 2**80}, "best_of"),
    ({"echo": 1}, "echo"),
    ({"suffix": "x"}, "suffix"),
    ({"logit_bias": {"5": 101}}, "logit_bias"),
    ({"logit_bias": {"-5": 1}}, "logit_bias"),
    ({"logit_bias": {"x": 1}}, "logit_bias"),
    ({"logit_bias": {"5": None}}, "logit_bias"),
    ({"logit_bias": {"100000": 1}}, "logit_bias"),
    ({"logit_bias": {str(i): 1 for i in range(301)}}, "logit_bias"),
    ({"logit_bias": [5]}, "logit_bias"),
    ({"presence_penalty": 2.1}, "presence_penalty"),
    ({"frequency_penalty": -2.1}, "frequency_penalty"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
    ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
    ({"truncate_prompt_tokens": 513}, "truncate_prompt_tokens"),
    ({"prompt_logprobs": -1}, "prompt_logprobs"),
    ({"prompt_logprobs": 21}, "prompt_logprobs"),
    ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
    ({"max_tokens": 0, "prompt_logprobs": 1}, "max_tokens"),
    ({"max_tokens": 0, "echo": True, "min_tokens": 1}, "min_tokens"),
    ({"include_stop_str_in_output": "no"}, "include_stop_str_in_output"),
    ({"skip_special_tokens": 0}, "skip_special_tokens"),
    ({"add_special_tokens": 1}, "add_special_tokens"),
    ({"return_token_ids": "x"}, "return_token_ids"),
    ({"guided_anything": {}}, "guided_anything"),
    ({"chat_template_kwargs": {}}, "chat_template_kwargs"),
    ({"structured_outputs": {"json": {}}}, "structured_outputs"),
    ({"guided_regex": ".*"}, "guided_regex"),
]


BAD_CHAT = [
    ({"messages": None}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": "hello"}, "messages"),
    ({"messages": [{"role": "user"}]}, "messages"),
    ({"messages": [{"role": "king", "content": "x"}]}, "messages"),
    ({"messages": [{"role": "k" * 3000, "content": "x"}]}, "messages"),
    ({"messages": [{"role": "user", "content": None}]}, "messages"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
    ({"max_completion_tokens": -1}, "max_completion_tokens"),
    ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"echo": True}, "echo"),
    ({"n": 9}, "n"),
    ({"add_generation_prompt": 1}, "add_generation_prompt"),
    (
        {"add_generation_prompt": True, "continue_final_message": True},
        "continue_final_message",
    ),
    ({"logprobs": 3}, "logprobs"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"tools": [{"type": "function"}]}, "tools"),
    ({"chat_template": "x"}, "chat_template"),
]


BROKEN = [b"", b"{", b"[]", b"nonsense", b'{"prompt":"\xff"}', b'{"a":' + b"[" * 100_000, b'"x"']


def test_every_bad_value_is_refused_naming_its_parameter(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        cases = [("/v1/completions", COMPLETION | change, name) for change, name in BAD]
        cases += [("/v1/chat/completions", CHAT | change, name) for change, name in BAD_CHAT]
        for path, body, name in cases:
            status, answer, _ = await client.post(path, body)
            assert (status, answer["error"]["param"]) == (400, name), body
            assert answer["error"]["type"] == "BadRequestError"
            assert 0 < len(answer["error"]["message"]) < 1000
        for raw in BROKEN:
            status, answer, _ = await client.post("/v1/completions", raw)
            assert (status, answer["error"]["code"]) == (400, 400), raw[:20]
        assert client.mesh.submits == []
        assert (await client.get("/health"))[0] == 200

    bench(accept, scenario)


def test_wrong_model_route_method_type_and_size_are_json_errors(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        status, answer, _ = await client.post("/v1/completions", COMPLETION | {"model": "other"})
        assert (status, answer["error"]["code"]) == (404, "model_not_found")
        assert (await client.post("/v1/nothing", {}))[0] == 404
        status, body, headers = await client.get("/v1/completions")
        assert (status, headers["Allow"]) == (405, "POST")
        assert json.loads(body)["error"]["code"] == 405
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        assert (await client.post("/v1/completions", COMPLETION, **form))[0] == 415
        packed = {"Content-Encoding": "gzip"}
        assert (await client.post("/v1/completions", COMPLETION, **packed))[0] == 415
        status, answer, _ = await client.post("/v1/completions", b" " * 5000)
        assert (status, answer["error"]["code"]) == (413, 413)
        plan = {"x-tetris-plan": "1x9"}
        status, answer, _ = await client.post("/v1/completions", COMPLETION, **plan)
        assert (status, answer["error"]["param"]) == (400, "x-tetris-plan")
        given = {"x-request-id": "mine-1"}
        _, _, headers = await client.post("/v1/nothing", {}, **given)
        assert (headers["x-request-id"], headers["Server"]) == ("mine-1", "tetris")

    bench(accept, scenario, max_body_bytes=4096)


async def raw(client: Client, data: bytes) -> tuple[int, dict[str, object]]:
    """Status and error of what is sent as it stands."""
    host, _, port = client.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return int(head.split(b" ")[1]), json.loads(body)["error"]


def test_bytes_that_are_no_text_are_refused_as_json(bench: Bench) -> None:
    body = json.dumps(COMPLETION).encode()
    close = b"Host: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
    post = b"POST /v1/completions HTTP/1.1\r\n" + close

    async def scenario(client: Client) -> None:
        for plan in (b"1\xff", b"\xd9\xa1", b"1," * 200):
            length = f"Content-Length: {len(body)}\r\n\r\n".encode()
            status, error = await raw(
                client, post + b"x-tetris-plan: " + plan + b"\r\n" + length + body
            )
            assert (status, error["param"]) == (400, "x-tetris-plan")
        for path in (b"/%ff", b"/v1/models/%ff", b"/%ed%a0%80"):
            status, error = await raw(client, b"GET " + path + b" HTTP/1.1\r\n" + close + b"\r\n")
            assert status == 404
        assert client.mesh.submits == []

    bench(accept, scenario, allow_forced_plans=True)


def test_broken_http_is_refused_and_not_quoted_in_the_log(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(client: Client) -> None:
        chunked = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        for broken in (b"secret prompt\r\n\r\n", chunked + b"secret prompt\r\n"):
            host, _, port = client.url.removeprefix("http://").partition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(broken)
            assert (await reader.read()).split(b" ")[1] == b"400"
            writer.close()

    bench(accept, scenario)
    assert "secret" not in caplog.text


def test_models_metrics_health_and_readiness(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        _, body, _ = await client.get("/v1/models")
        (model,) = json.loads(body)["data"]
        assert (model["id"], model["max_model_len"]) == ("tiny", 512)
        assert json.loads((await client.get("/v1/models/tiny"))[1]) == model
        assert (await client.get("/v1/models/a/b"))[0] == 404
        await client.post("/v1/completions", COMPLETION)
        _, text, _ = await client.get("/metrics")
        labels = 'engine="0",model_name="tiny"'
        ended = 'vllm:request_success_total{engine="0",finished_reason="length",model_name="tiny"}'
        assert f"{ended} 1.0" in text
        assert f"vllm:time_to_first_token_seconds_count{{{labels}}} 1.0" in text
        assert "vllm:inter_token_latency_seconds_count" in text
        assert f"vllm:e2e_request_latency_seconds_count{{{labels}}} 1.0" in text
        assert f"vllm:prompt_tokens_total{{{labels}}}" in text
        assert (await client.get("/metrics", "HEAD"))[0] == 200
        client.mesh.state = ClusterState(5, 1, 0, 0, 0, requests=2, decode_slots=48)
        status = 200
        while status == 200:
            status, body, _ = await client.get("/ready")
        assert json.loads(body)["missing"] == ["decode-worker", "kv-transfer"]
        assert json.loads(body)["members"]["prefill-worker"] == 1
        _, text, _ = await client.get("/metrics")
        assert 'tetris_mesh_in_use{of="requests"} 2.0' in text
        assert 'tetris_mesh_in_use{of="decode_slots"} 48.0' in text

    bench(say("hello", "length"), scenario)
