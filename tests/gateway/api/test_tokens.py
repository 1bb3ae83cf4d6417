import json

import pytest

from gateway.api.tokenizer import Tokenizer
from gateway.api.tokens import MAX_IDS, MAX_TEXT
from tests.gateway.bench import Bench, Client, say

TALK = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "größe 😀"}]


async def ids_of(client: Client, **body: object) -> list[int]:
    status, answer, _ = await client.post("/tokenize", body)
    assert status == 200, answer
    assert answer["count"] == len(answer["tokens"])
    assert answer["max_model_len"] == 512
    return answer["tokens"]


def test_text_becomes_the_ids_that_a_completion_would_have(
    bench: Bench, tokenizer: Tokenizer
) -> None:
    async def scenario(client: Client) -> None:
        text = "hello <s>größe 你好 😀"
        ids = await ids_of(client, model="tiny", prompt=text)
        assert ids == tokenizer._tokenizer.encode(text)
        bare = await ids_of(client, prompt=text, add_special_tokens=False)
        assert bare == tokenizer._tokenizer.encode(text, add_special_tokens=False)
        status, answer, _ = await client.post("/detokenize", {"tokens": ids})
        # Special tokens are written out.
        assert (status, answer) == (200, {"prompt": text})
        assert await ids_of(client, prompt="") == tokenizer._tokenizer.encode("")
        assert (await client.post("/detokenize", {"tokens": []}))[1] == {"prompt": ""}
        await client.post("/v1/completions", {"model": "tiny", "prompt": text})
        assert client.mesh.submits[0].num_tokens == len(ids)

    bench(say("hello", "length"), scenario)


def test_a_conversation_becomes_the_ids_that_a_chat_would_have(
    bench: Bench, tokenizer: Tokenizer
) -> None:
    async def scenario(client: Client) -> None:
        known = tokenizer._tokenizer
        for begun in (True, False):
            ids = await ids_of(client, messages=TALK, add_generation_prompt=begun)
            text = known.apply_chat_template(TALK, add_generation_prompt=begun, tokenize=False)
            assert ids == known.encode(text, add_special_tokens=False)
        parts = [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]
        assert await ids_of(client, messages=parts) == await ids_of(client, messages=TALK[:1])
        await client.post("/v1/chat/completions", {"model": "tiny", "messages": TALK})
        assert client.mesh.submits[0].num_tokens == len(await ids_of(client, messages=TALK))

    bench(say("hello", "length"), scenario)


def test_the_names_of_ids_are_told_when_asked_for(bench: Bench, tokenizer: Tokenizer) -> None:
    async def scenario(client: Client) -> None:
        _, answer, _ = await client.post("/tokenize", {"prompt": "hello world"})
        assert answer["token_strs"] is None
        body = {"prompt": "hello world", "return_token_strs": True}
        _, answer, _ = await client.post("/tokenize", body)
        assert answer["token_strs"] == tokenizer._tokenizer.convert_ids_to_tokens(answer["tokens"])

    bench(say("hello"), scenario)


BAD = [
    ("/tokenize", {}, "prompt"),
    ("/tokenize", {"prompt": None}, "prompt"),
    ("/tokenize", {"prompt": 5}, "prompt"),
    ("/tokenize", {"prompt": ["a"]}, "prompt"),
    ("/tokenize", {"prompt": "a" * (MAX_TEXT + 1)}, "prompt"),
    ("/tokenize", {"prompt": "a", "add_special_tokens": 1}, "add_special_tokens"),
    ("/tokenize", {"messages": []}, "messages"),
    ("/tokenize", {"messages": [{"role": "king", "content": "x"}]}, "messages"),
    ("/tokenize", {"messages": [TALK[0]] * 5000}, "messages"),
    ("/tokenize", {"messages": [{"role": "user", "content": "a" * 600_000}] * 2}, "messages"),
    ("/tokenize", {"messages": TALK, "chat_template": "x"}, "chat_template"),
    ("/tokenize", {"messages": TALK, "tools": []}, "tools"),
    ("/tokenize", {"messages": TALK, "continue_final_message": True}, "continue_final_message"),
    ("/detokenize", {}, "tokens"),
    ("/detokenize", {"tokens": None}, "tokens"),
    ("/detokenize", {"tokens": "abc"}, "tokens"),
    ("/detokenize", {"tokens": [1, -1]}, "tokens"),
    ("/detokenize", {"tokens": [1, 1.5]}, "tokens"),
    ("/detokenize", {"tokens": [10**6]}, "tokens"),
    ("/detokenize", {"tokens": [2**70]}, "tokens"),
    ("/detokenize", {"tokens": [1] * (MAX_IDS + 1)}, "tokens"),
]


@pytest.mark.filterwarnings("ignore:Sending a large body")
def test_every_bad_value_is_refused_naming_its_parameter(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        for path, body, name in BAD:
            status, answer, _ = await client.post(path, body)
            assert (status, answer["error"]["param"]) == (400, name), (path, str(body)[:80])
            assert 0 < len(answer["error"]["message"]) < 1000
        for raw in (b"", b"{", b"[]", b'{"prompt":"\xff"}', b'{"prompt":"\\ud800"}', b"[" * 9999):
            for path in ("/tokenize", "/detokenize"):
                assert (await client.post(path, raw))[0] == 400
        for path, body in (("/tokenize", {"prompt": "a"}), ("/detokenize", {"tokens": [5]})):
            status, answer, _ = await client.post(path, body | {"model": "other"})
            assert (status, answer["error"]["code"]) == (404, "model_not_found")
            assert (await client.post(path, body | {"unheard_of": 1}))[0] == 200
            form = {"Content-Type": "text/plain"}
            assert (await client.post(path, body, **form))[0] == 415

    bench(say("hello"), scenario)


def test_a_gateway_that_stops_tokenizes_no_more(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        status, *_ = await client.post("/tokenize", {"prompt": "a"})
        assert status == 200
        client.process.stopping.set()
        raw = json.dumps({"prompt": "a"}).encode()
        status, answer, _ = await client.post("/tokenize", raw)
        assert (status, answer["error"]["type"]) == (503, "ServiceUnavailableError")

    bench(say("hello"), scenario)
