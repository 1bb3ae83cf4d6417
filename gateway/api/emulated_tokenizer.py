"""The tokenizer of a model that is not there: every byte is a token."""

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

BOS, EOS = "<|bos|>", "<|eos|>"
"""Ids 256 and 257. Nobody draws them, and no prompt gets them unless it names them."""
TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def emulated_tokenizer() -> PreTrainedTokenizerBase:
    """Ids 0 to 255 are the bytes of UTF-8; any ids have a text."""
    vocabulary = {character: byte for byte, character in enumerate(_characters())}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(BOS, special=True), AddedToken(EOS, special=True)])
    made: PreTrainedTokenizerBase = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core, bos_token=BOS, eos_token=EOS, clean_up_tokenization_spaces=False
    )
    made.chat_template = TEMPLATE
    return made


def _characters() -> list[str]:
    """The character that stands for each byte in a byte-level vocabulary.

    Bytes that can be seen stand for themselves, all others for characters from 256 on.
    """
    seen = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return [chr(byte if byte in seen else next(others)) for byte in range(256)]
