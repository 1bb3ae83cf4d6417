"""How answers name a token."""

from collections.abc import Callable

Text = Callable[[int], str]
"""The text of one token id alone."""


class Names:
    """Tokens by their text, or by their ids where the client asked for those."""

    def __init__(self, text: Text, *, are_ids: bool = False) -> None:
        self.text = text
        self._are_ids = are_ids

    def __call__(self, token_id: int) -> str:
        """The name of a token."""
        return f"token_id:{token_id}" if self._are_ids else self.text(token_id)
