"""litellm, which people put in front of servers: chat, stream, completions, errors."""

import os

import litellm

MODEL = os.environ["TETRIS_MODEL"]
SERVER = {"api_base": os.environ["TETRIS_URL"] + "/v1", "api_key": "unused"}
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def main() -> None:
    for provider in ("hosted_vllm", "openai"):
        name = f"{provider}/{MODEL}"
        answer = litellm.completion(name, QUESTION, temperature=0, max_tokens=16, **SERVER)
        assert "Paris" in answer.choices[0].message.content
        assert answer.usage.completion_tokens <= 16
        print(f"litellm: {provider} chat ok", flush=True)

        chunks = list(
            litellm.completion(
                name,
                QUESTION,
                temperature=0,
                max_tokens=16,
                stream=True,
                stream_options={"include_usage": True},
                **SERVER,
            )
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == answer.choices[0].message.content
        assert chunks[-1].usage.prompt_tokens == answer.usage.prompt_tokens
        print(f"litellm: {provider} stream ok", flush=True)

    answer = litellm.text_completion(
        model=f"text-completion-openai/{MODEL}",
        prompt="The capital of France is",
        max_tokens=4,
        temperature=0,
        **SERVER,
    )
    assert "Paris" in answer.choices[0].text
    print("litellm: text completion ok", flush=True)

    long = [{"role": "user", "content": "a b c d e " * 4000}]
    try:
        litellm.completion(f"hosted_vllm/{MODEL}", long, **SERVER)
    except litellm.ContextWindowExceededError:
        print("litellm: recognises a prompt beyond the context, ok", flush=True)
    else:
        raise AssertionError("a prompt beyond the context was served")


if __name__ == "__main__":
    main()
