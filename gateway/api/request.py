"""A request of either route, with everything settled that its body alone can settle."""

import secrets
from typing import Literal

from msgspec import Struct, structs

from common.messages import MAX_PAST, Ending, Sampling
from gateway.errors import context_length, invalid

MAX_PROMPTS = 32
MAX_CHOICES = 8
"""Of each prompt."""
DEFAULT_COMPLETION = 16
"""Tokens of a completion that names no `max_tokens`."""
MAX_LOOK_BACK = MAX_PAST // 4
"""Ids that penalties can look back at."""


class TextPart(Struct, frozen=True):
    """One part of a message's content; only text is served."""

    type: Literal["text"]
    text: str


class ChatMessage(Struct, frozen=True):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart]

    def text(self) -> str:
        """The content as one string."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


Prompt = str | list[int] | list[ChatMessage]


class Encoding(Struct, frozen=True):
    """How a prompt becomes ids; the last two are for conversations."""

    add_special_tokens: bool | None = None
    """None: for text, but not for conversations, whose template writes them."""
    add_generation_prompt: bool = True
    continue_final_message: bool = False


class Shown(Struct, frozen=True):
    """What an answer tells beside text."""

    echo: bool = False
    """Whether the text begins with the prompt."""
    only_prompt: bool = False
    """Whether that is all: the one token that the mesh samples is nobody's business."""
    logprobs: int = -1
    """Alternatives with each token; -1 shows none, and no log-probabilities."""
    prompt_logprobs: int = -1
    """The same for the prompt's tokens in a field of their own."""
    token_ids: bool = False
    ids_for_tokens: bool = False
    """Whether tokens are named by their ids."""

    @property
    def scores(self) -> int:
        """Alternatives that are wanted with each token of the prompt; -1 for no scores."""
        return max(self.prompt_logprobs, self.logprobs if self.echo else -1)


class Request(Struct, frozen=True, kw_only=True):
    """A request whose parameters are all valid and settled; prompts are not tokenised yet."""

    prompts: tuple[Prompt, ...]
    n: int
    """Choices for each prompt."""
    model: str
    max_tokens: int | None
    """What the client named, if anything."""
    sampling: Sampling
    """Of the first choice."""
    has_seed: bool
    """Whether the client chose the seed."""
    min_tokens: int
    ignore_eos: bool
    stop_token_ids: tuple[int, ...]
    stops: tuple[str, ...]
    show_stops: bool
    """Whether what stops the text is part of it."""
    skip_special: bool
    """Whether special tokens have no text."""
    encoding: Encoding
    truncate: int | None
    """Last tokens of a prompt that are kept; -1 keeps what leaves room for the answer."""
    shown: Shown
    stream: bool
    include_usage: bool
    continuous_usage: bool
    timeout: float | None
    """Seconds."""
    ignored: tuple[str, ...]
    """Names of ignored fields, as far as a header can hold them."""
    num_ignored: int

    @property
    def num_choices(self) -> int:
        """Choices of all prompts, each of which is submitted by itself."""
        return len(self.prompts) * self.n

    @property
    def param(self) -> str:
        """The parameter that holds the prompt."""
        return "messages" if self.chat else "prompt"

    @property
    def chat(self) -> bool:
        """Whether this is a conversation."""
        prompt = self.prompts[0]
        return isinstance(prompt, list) and isinstance(prompt[0], ChatMessage)

    def patience(self, limit: float) -> float:
        """Seconds that it may take, of `limit`.

        Raises:
            Refusal: the client wants to wait longer.
        """
        if self.timeout is not None and self.timeout > limit:
            raise invalid(f"'timeout' must not exceed {limit:g} seconds.", "timeout")
        return limit if self.timeout is None else self.timeout

    def check_ids(self, size: int) -> None:
        """Refuse biases of ids that are not below `size`."""
        if any(bias.id >= size for bias in self.sampling.biases):
            raise invalid(f"'logit_bias' holds an id that is not below {size}.", "logit_bias")

    def samplings(self) -> list[Sampling]:
        """One for each choice of a prompt; without a seed of the client each prompt has its own."""
        seed = self.sampling.seed if self.has_seed else secrets.randbits(63)
        return [
            structs.replace(self.sampling, seed=seed, choice=choice) for choice in range(self.n)
        ]

    # Lengths, in tokens

    def kept(self, num_prompt: int, limit: int) -> int:
        """How many of its last tokens a prompt keeps, in a context of `limit`.

        Raises:
            Refusal: the client wants to keep more than there can be.
        """
        if self.truncate is None:
            return num_prompt
        if self.truncate > limit:
            reason = f"'truncate_prompt_tokens' exceeds the context of {limit} tokens."
            raise invalid(reason, "truncate_prompt_tokens")
        if self.truncate > 0:
            return min(num_prompt, self.truncate)
        return min(num_prompt, max(1, limit - (1 if self.max_tokens is None else self.max_tokens)))

    def budget(self, num_prompt: int, limit: int) -> int:
        """Tokens that may be emitted after `num_prompt` of a context of `limit`.

        A default shrinks to what fits, a number that the client named does not.

        Raises:
            Refusal: prompt and completion do not fit the context.
        """
        room = max(1, min(limit, self._reach(limit)) - num_prompt)
        default = room if self.chat else min(DEFAULT_COMPLETION, room)
        wanted = default if self.max_tokens is None else self.max_tokens
        if num_prompt + wanted > limit:
            raise context_length(limit, num_prompt, wanted, self.param)
        if num_prompt + wanted > self._reach(limit):
            reason = f"Penalties cannot look back at more than {MAX_LOOK_BACK} tokens."
            raise invalid(reason, self._penalty())
        if self.min_tokens > wanted:
            raise invalid(f"'min_tokens' exceeds the {wanted} tokens to come.", "min_tokens")
        return wanted

    def ending(self, budget: int) -> Ending:
        """What ends a choice that may emit `budget` tokens; one is always sampled."""
        return Ending(
            max_tokens=max(1, budget),
            min_tokens=self.min_tokens,
            ignore_eos=self.ignore_eos,
            stop_token_ids=self.stop_token_ids,
        )

    def _reach(self, limit: int) -> int:
        return MAX_LOOK_BACK if self.sampling.looks_back else limit

    def _penalty(self) -> str:
        sampling = self.sampling
        if sampling.repetition_penalty != 1.0:
            return "repetition_penalty"
        return "presence_penalty" if sampling.presence_penalty else "frequency_penalty"
