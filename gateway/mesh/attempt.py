"""The current attempt of a call, as far as the gateway sees it; time is an argument."""

from dataclasses import dataclass
from math import inf
from typing import Literal

from common.messages import Peer

ASK = 1.0
"""Seconds without a token after which decode is asked for it, and between two such questions."""

Action = Literal["submit", "ask", "renew"]


@dataclass(slots=True)
class Attempt:
    """What is known of one attempt, and what has to be done about it."""

    base: int
    """Tokens that had come before it."""
    submit_at: float
    """When its Submit is to go out next, unless the router has answered."""
    accepted: bool = False
    may_be_held: bool = False
    """Whether anybody in the mesh may hold something of it."""
    decode: Peer | None = None
    """Who decodes it, once a token has come."""
    only_scores: bool = False
    """Whether the text is complete, and only scores of the prompt are missing."""
    begun: float = inf
    """When its first token came: all of its prompt is computed then."""
    heard: float = inf
    """When its first token came, and from then on the last one that the stream could go on with."""
    _is_decoding: bool = False
    _asked: float = -inf

    def token(self, decode: Peer, now: float, *, is_decoding: bool, has_grown: bool) -> None:
        """A token has come, from decode itself or from prefill, and the stream has grown or not."""
        self.accepted = True
        self.decode = decode
        self.begun = min(self.begun, now)
        if has_grown or self.heard == inf:
            self.heard = now
        self._is_decoding = self._is_decoding or is_decoding

    def rejected(self, submit_at: float) -> None:
        """The router has not taken it in; it may be tried again."""
        self.accepted = self.may_be_held = False
        self.submit_at = submit_at

    def over(self) -> None:
        """The router has closed it."""
        self.accepted = True
        self.may_be_held = False
        # Whether decode has begun or not, it knows what has become of the tokens.
        self._is_decoding = True

    def due(self, now: float, stall: float, *, gap: bool) -> Action | None:
        """What is to be done; `gap` if a token is missing while later ones are there.

        After `stall` seconds without a token of decode the attempt is given up. Its KV may wait
        longer than that for its turn to be handed over, which the router's levelling watches.
        """
        if not self.accepted:
            return "submit" if now >= self.submit_at else None
        if self._is_decoding and now - self.heard >= stall:
            return "renew"
        # A decode instance need not know a request whose KV still waits to be sent to it.
        silent = self._is_decoding and (gap or now - self.heard >= ASK)
        return "ask" if silent and self.may_ask(now) else None

    def may_ask(self, now: float) -> bool:
        """Whether decode is known and has not just been asked."""
        return self.decode is not None and now - self._asked >= ASK

    def asked(self, now: float) -> None:
        """Decode has been asked for tokens."""
        self._asked = now
