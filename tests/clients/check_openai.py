"""The openai SDK: chat, completions, streams, usage, log-probabilities, choices, errors."""

import os
import sys

import openai
from openai import OpenAI

MODEL = os.environ["TETRIS_MODEL"]
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def main() -> None:
    client = OpenAI(base_url=os.environ["TETRIS_URL"] + "/v1", api_key="unused")
    for check in (
        models,
        chat,
        chat_stream,
        parts,
        completion,
        completion_stream,
        prompts,
        choices,
        logprobs,
        echo,
        wrong_model,
        too_long,
        wrong_value,
    ):
        check(client)
        print(f"openai: {check.__name__} ok", flush=True)


def models(client: OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.id == MODEL
    assert client.models.retrieve(MODEL).id == MODEL


def chat(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0)
    assert "Paris" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def chat_stream(client: OpenAI) -> None:
    plain = list(
        client.chat.completions.create(
            model=MODEL, messages=QUESTION, temperature=0, stream=True, max_completion_tokens=8
        )
    )
    assert plain[0].choices[0].delta.role == "assistant"
    assert all(chunk.usage is None for chunk in plain)
    told = list(
        client.chat.completions.create(
            model=MODEL,
            messages=QUESTION,
            temperature=0,
            stream=True,
            max_completion_tokens=8,
            stream_options={"include_usage": True},
        )
    )
    assert told[-1].choices == []
    assert told[-1].usage.completion_tokens <= 8
    assert _text(plain) == _text(told)


def _text(chunks: list) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def parts(client: OpenAI) -> None:
    content = [
        {"type": "text", "text": "What is the capital "},
        {"type": "text", "text": "of France?"},
    ]
    answer = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": content}], temperature=0
    )
    assert "Paris" in answer.choices[0].message.content


def completion(client: OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL, prompt="The capital of France is", temperature=0, max_tokens=4
    )
    assert "Paris" in answer.choices[0].text
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 4


def completion_stream(client: OpenAI) -> None:
    options = {"model": MODEL, "prompt": "One, two, three,", "temperature": 0, "max_tokens": 12}
    whole = client.completions.create(**options).choices[0].text
    chunks = client.completions.create(**options, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole
    short = client.completions.create(**options, stop=[" six", "six"])
    assert short.choices[0].finish_reason == "stop"
    assert whole.startswith(short.choices[0].text)
    assert "six" not in short.choices[0].text


def prompts(client: OpenAI) -> None:
    texts = ["The capital of France is", "The capital of Italy is"]
    answer = client.completions.create(model=MODEL, prompt=texts, temperature=0, max_tokens=4)
    assert [choice.index for choice in answer.choices] == [0, 1]
    for choice, text in zip(answer.choices, texts, strict=True):
        alone = client.completions.create(model=MODEL, prompt=text, temperature=0, max_tokens=4)
        assert choice.text == alone.choices[0].text


def choices(client: OpenAI) -> None:
    options = {
        "model": MODEL,
        "prompt": "My favourite animal is",
        "n": 3,
        "seed": 7,
        "max_tokens": 12,
        "temperature": 1.0,
    }
    first, again = (client.completions.create(**options) for _ in range(2))
    texts = [choice.text for choice in first.choices]
    assert len(set(texts)) == 3, "three choices are three different draws"
    assert texts == [choice.text for choice in again.choices], "a seed fixes every one of them"
    streamed = ["", "", ""]
    for chunk in client.completions.create(**options, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.text
    assert streamed == texts


def logprobs(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, max_tokens=5, logprobs=True, top_logprobs=3
    )
    for token in answer.choices[0].logprobs.content:
        assert len(token.top_logprobs) == 3
        assert token.logprob == token.top_logprobs[0].logprob, "greedy takes the likeliest"
        assert token.bytes is not None
    answer = client.completions.create(
        model=MODEL, prompt="The capital", temperature=0, max_tokens=5, logprobs=2
    )
    told = answer.choices[0].logprobs
    assert "".join(told.tokens) == answer.choices[0].text
    assert len(told.token_logprobs) == len(told.top_logprobs) == len(told.text_offset) == 5


def echo(client: OpenAI) -> None:
    prompt = "The capital of France is Paris"
    answer = client.completions.create(
        model=MODEL, prompt=prompt, echo=True, logprobs=1, max_tokens=0, temperature=0
    )
    told = answer.choices[0].logprobs
    assert answer.choices[0].text == prompt
    assert "".join(told.tokens) == prompt
    assert told.token_logprobs[0] is None
    assert all(value <= 0 for value in told.token_logprobs[1:])
    assert answer.usage.completion_tokens == 0


def wrong_model(client: OpenAI) -> None:
    try:
        client.completions.create(model="nobody", prompt="x")
    except openai.NotFoundError as error:
        assert error.param == "model"
    else:
        raise AssertionError("a wrong model was served")


def too_long(client: OpenAI) -> None:
    try:
        client.completions.create(model=MODEL, prompt=[1] * 9000)
    except openai.BadRequestError as error:
        assert error.code == "context_length_exceeded"
        assert error.body["message"].startswith("This model's maximum context length is")
    else:
        raise AssertionError("a prompt beyond the context was served")


def wrong_value(client: OpenAI) -> None:
    try:
        client.completions.create(model=MODEL, prompt="x", top_p=7)
    except openai.BadRequestError as error:
        assert error.param == "top_p"
    else:
        raise AssertionError("top_p 7 was served")


if __name__ == "__main__":
    sys.exit(main())
