"""langchain-openai: the chat model and the completion model, whole and streamed."""

import os

from langchain_openai import ChatOpenAI, OpenAI

MODEL = os.environ["TETRIS_MODEL"]
SERVER = {"model": MODEL, "base_url": os.environ["TETRIS_URL"] + "/v1", "api_key": "unused"}


def main() -> None:
    chat = ChatOpenAI(**SERVER, temperature=0, max_completion_tokens=16)
    answer = chat.invoke("What is the capital of France?")
    assert "Paris" in answer.content
    assert answer.usage_metadata["output_tokens"] <= 16
    print("langchain: chat ok", flush=True)

    streamed = "".join(chunk.content for chunk in chat.stream("What is the capital of France?"))
    assert streamed == answer.content
    print("langchain: chat stream ok", flush=True)

    told = ChatOpenAI(**SERVER, temperature=0, max_completion_tokens=4, logprobs=True)
    content = told.invoke("What is the capital of France?").response_metadata["logprobs"]["content"]
    assert 1 <= len(content) <= 4
    print("langchain: chat log-probabilities ok", flush=True)

    model = OpenAI(**SERVER, temperature=0, max_tokens=4)
    text = model.invoke("The capital of France is")
    assert "Paris" in text
    assert "".join(model.stream("The capital of France is")) == text
    print("langchain: completions and their stream ok", flush=True)

    texts = ["The capital of France is", "The capital of Italy is"]
    results = model.generate(texts).generations
    assert len(results) == 2
    assert results[0][0].text == text
    print("langchain: several prompts ok", flush=True)


if __name__ == "__main__":
    main()
