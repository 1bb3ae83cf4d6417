"""Text to ids and back, with the model's own tokenizer and chat template."""

import asyncio
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from jinja2 import TemplateError
from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from common.config import EMULATED
from common.errors import ConfigError
from gateway.api.emulated_tokenizer import emulated_tokenizer
from gateway.api.incremental_text import IncrementalText, Role
from gateway.api.request import ChatMessage, Encoding, Prompt
from gateway.errors import invalid

THREADS = 2
"""Threads that turn prompts into ids beside the event loop."""
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_PLAIN = Encoding()
MAX_REASON = 512
"""Characters."""
T = TypeVar("T")


class Tokenizer:
    """One model's tokenizer; `encode` runs in a bounded pool of threads, the rest is quick."""

    def __init__(self, path: str) -> None:
        try:
            if path == EMULATED:
                loaded = emulated_tokenizer()
            else:
                loaded = AutoTokenizer.from_pretrained(path, local_files_only=True)
        except (OSError, ValueError) as error:
            raise ConfigError(f"model.path: no tokenizer can be loaded from {path}") from error
        self._tokenizer: PreTrainedTokenizerBase = loaded
        self._fast: Backend | None = getattr(loaded, "backend_tokenizer", None)
        # Prompts longer than the model are refused by us, with a better reason than a warning.
        self._tokenizer.model_max_length = 2**62
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="tokenizer")
        self.size = len(self._tokenizer)
        # Neither grows beyond the vocabulary.
        self._pieces: dict[int, str] = {}
        self._roles: dict[int, Role] = {}

    async def encode(self, prompt: Prompt, how: Encoding = _PLAIN) -> Sequence[int]:
        """Token ids of a prompt.

        Raises:
            Refusal: ids outside the vocabulary, an empty result, or no chat template.
        """
        return await self.run(lambda: self._encode(prompt, how))

    async def run(self, work: Callable[[], T]) -> T:
        """Long work with text, in one of the threads."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def ids(self, text: str, *, special: bool) -> list[int]:
        """Ids of a text, with what the tokenizer puts around a prompt if `special`; slow."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=special)
        return ids

    def names(self, ids: Sequence[int]) -> list[str]:
        """What the vocabulary calls each id."""
        names = self._tokenizer.convert_ids_to_tokens(list(ids))
        assert isinstance(names, list)
        return names

    def piece(self, token_id: int) -> str:
        """The text of one id alone, special tokens included."""
        text = self._pieces.get(token_id)
        if text is None:
            text = self._pieces[token_id] = self.decode([token_id], skip=False)
        return text

    def decode(self, ids: Sequence[int], *, skip: bool = True) -> str:
        """The text of ids, with or without that of special tokens."""
        if self._fast is not None:
            # What transformers calls in the end, without what it does before.
            return self._fast.decode(list(ids), skip_special_tokens=skip)
        text = self._tokenizer.decode(
            list(ids), skip_special_tokens=skip, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str)
        return text

    def detokenizer(self, *, skip: bool = True) -> IncrementalText:
        """A fresh one, for one stream."""
        return IncrementalText(lambda ids: self.decode(ids, skip=skip), self._role)

    def close(self) -> None:
        """Let the threads end."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _role(self, token_id: int) -> Role:
        role = self._roles.get(token_id)
        if role is None:
            token = self._tokenizer.convert_ids_to_tokens(token_id)
            is_byte = isinstance(token, str) and _BYTE.fullmatch(token)
            is_skipped = self.piece(token_id) and not self.decode([token_id])
            role = "special" if is_skipped else "byte" if is_byte else "text"
            self._roles[token_id] = role
        return role

    def _encode(self, prompt: Prompt, how: Encoding) -> Sequence[int]:
        if isinstance(prompt, str):
            ids = self.ids(prompt, special=how.add_special_tokens is not False)
        else:
            messages = [message for message in prompt if isinstance(message, ChatMessage)]
            ids = self._chat(messages, how) if messages else self._known(prompt)
        if not ids:
            raise invalid("The prompt holds no token.", "prompt")
        return ids

    def _known(self, prompt: Prompt) -> list[int]:
        ids = [token for token in prompt if isinstance(token, int)]
        if max(ids) >= self.size:
            raise invalid(f"'prompt' holds an id that is not below {self.size}.", "prompt")
        return ids

    def _chat(self, messages: Sequence[ChatMessage], how: Encoding) -> list[int]:
        if not self._tokenizer.chat_template:
            raise invalid("This model has no chat template.", "messages")
        turns = [{"role": message.role, "content": message.text()} for message in messages]
        try:
            text = self._tokenizer.apply_chat_template(
                turns,
                add_generation_prompt=how.add_generation_prompt,
                continue_final_message=how.continue_final_message,
                tokenize=False,
            )
        except (TemplateError, ValueError) as error:
            reason = f"The model's chat template does not take these messages: {error}"
            raise invalid(reason[:MAX_REASON], "messages") from error
        assert isinstance(text, str)
        # The template writes the special tokens itself.
        return self.ids(text, special=bool(how.add_special_tokens))
