"""Text to ids and back, with the model's own tokenizer and chat template."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from common.errors import ConfigError
from gateway.errors import invalid
from gateway.openai import ChatMessage, Prompt

THREADS = 2
"""Threads that turn prompts into ids beside the event loop."""
WINDOW = 256
"""Ids whose text may stay uncertain; random bytes are given out as they are beyond it."""
_REPLACEMENT = "\ufffd"
Given = ParamSpec("Given")
Result = TypeVar("Result")


class Tokenizer:
    """One model's tokenizer; `encode` runs in a bounded pool of threads, the rest is quick."""

    def __init__(self, path: str) -> None:
        try:
            loaded = AutoTokenizer.from_pretrained(path, local_files_only=True)
        except (OSError, ValueError) as error:
            raise ConfigError(f"model.path: no tokenizer can be loaded from {path}") from error
        self._tokenizer: PreTrainedTokenizerBase = loaded
        # Prompts longer than the model are refused by us, with a better reason than a warning.
        self._tokenizer.model_max_length = 2**62
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="tokenizer")
        self.size = len(self._tokenizer)

    async def encode(self, prompt: Prompt) -> Sequence[int]:
        """Token ids of a prompt.

        Raises:
            Refusal: ids outside the vocabulary, an empty result, or no chat template.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, self._encode, prompt)

    async def apart(
        self, work: Callable[Given, Result], *args: Given.args, **kwargs: Given.kwargs
    ) -> Result:
        """What `work` returns or raises, in the pool of threads."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, partial(work, *args, **kwargs))

    def ids(self, text: str, *, special: bool) -> list[int]:
        """Ids of a text, with what the tokenizer puts around a prompt if `special`; slow."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=special)
        return ids

    def names(self, ids: Sequence[int]) -> list[str]:
        """What the vocabulary calls each id."""
        names = self._tokenizer.convert_ids_to_tokens(list(ids))
        assert isinstance(names, list)
        return names

    def written(self, ids: Sequence[int]) -> str:
        """The text of ids with special tokens written out."""
        return self._decode(ids, skip=False)

    def conversation(self, messages: Sequence[ChatMessage], *, generation: bool) -> str:
        """Messages as the model's template writes them, the answer begun if `generation`.

        Raises:
            Refusal: there is no template, or it does not take them.
        """
        if not self._tokenizer.chat_template:
            raise invalid("This model has no chat template.", "messages")
        turns = [{"role": message.role, "content": message.text()} for message in messages]
        try:
            text = self._tokenizer.apply_chat_template(
                turns, add_generation_prompt=generation, tokenize=False
            )
        except TemplateError as error:
            reason = f"The model's chat template does not take these messages: {error}"
            raise invalid(reason, "messages") from error
        assert isinstance(text, str)
        return text

    def piece(self, token_id: int) -> str:
        """The text of one id alone, special tokens included."""
        return self._decode([token_id], skip=False)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens."""
        return self._decode(ids, skip=True)

    def detokenizer(self) -> "IncrementalText":
        """A fresh one, for one stream."""
        return IncrementalText(self)

    def close(self) -> None:
        """Let the threads end."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _decode(self, ids: Sequence[int], *, skip: bool) -> str:
        text = self._tokenizer.decode(
            list(ids), skip_special_tokens=skip, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str)
        return text

    def _encode(self, prompt: Prompt) -> Sequence[int]:
        if isinstance(prompt, str):
            ids: list[int] = self._tokenizer.encode(prompt)
        else:
            messages = [message for message in prompt if isinstance(message, ChatMessage)]
            ids = self._chat(messages) if messages else self._known(prompt)
        if not ids:
            raise invalid("The prompt holds no token.", "prompt")
        return ids

    def _known(self, prompt: Prompt) -> list[int]:
        ids = [token for token in prompt if isinstance(token, int)]
        if max(ids) >= self.size:
            raise invalid(f"'prompt' holds an id that is not below {self.size}.", "prompt")
        return ids

    def _chat(self, messages: Sequence[ChatMessage]) -> list[int]:
        text = self.conversation(messages, generation=True)
        # The template writes the special tokens itself.
        return self.ids(text, special=False)


class IncrementalText:
    """Ids of one stream to text; a character is given out when all its bytes are there.

    A window of ids is decoded again and again. It begins where a character begins, and one clean
    stretch before what is new stays in it, as some decoders look at what comes before. The pieces
    joined are the text of all ids at once (byte-level decoders; one that falls back to bytes may
    differ after invalid bytes).
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []
        self._given = 0
        self._clean = 0

    def push(self, token_id: int) -> str:
        """The text that this id makes certain."""
        self._window.append(token_id)
        text = self._tokenizer.decode(self._window)
        whole = text.rstrip(_REPLACEMENT)
        # An unfinished character is at most three bytes long.
        ready = text[: max(len(whole), len(text) - 3)]
        if len(self._window) > WINDOW:
            ready = text
        delta = ready[self._given :]
        self._given += len(delta)
        if len(ready) == len(text):
            self._forget(text)
        return delta

    def flush(self) -> str:
        """The rest, when no more ids come."""
        text = self._tokenizer.decode(self._window)
        delta = text[self._given :]
        self._given = len(text)
        return delta

    def _forget(self, text: str) -> None:
        recent = self._window[self._clean :]
        kept = self._tokenizer.decode(recent)
        if text.endswith(kept) and (kept or len(self._window) > WINDOW):
            self._window, self._given = recent, len(kept)
        self._clean = len(self._window)
