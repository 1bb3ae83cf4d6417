"""Scores of prompts on their way to gateways, repeated until each is answered.

Pure and bounded. A prompt's scores are many messages: a gateway is sent a few at a time and the
next ones as it answers, so that neither its inbox nor the event loop here is flooded.
"""

from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from common.messages import Endpoint, PromptScores, RunChunk, Scored
from common.pages import Owner
from common.recent import Recent
from common.scores import Scores
from services.prefill_worker.plan import me, owner_of

WINDOW = 8
"""Messages that a gateway has not answered, at most."""
MAX_AGE = 30.0
"""Seconds after which a gateway that answers nothing is given up."""
MAX_SCORES = 1024
"""Scores of one message."""
MESSAGE_VALUES = 4096
"""Log-probabilities of one message: a tenth of what a header holds, and little work at a time."""
MAX_PARTS = 8192
"""Messages that are kept for all gateways; beyond it the oldest are dropped."""
MAX_VALUES = 1 << 23
"""Log-probabilities that are kept, 8 bytes each."""
MAX_UNWANTED = 4096
"""Attempts that are remembered as given up."""


class Key(NamedTuple):
    """One message, as its answer names it."""

    owner: Owner
    start: int


@dataclass
class _Part:
    scores: Scores
    rows: slice
    sender: Endpoint
    sent_at: float = float("-inf")

    @property
    def num_values(self) -> int:
        return len(range(self.rows.start, self.rows.stop)) * _width(self.scores)

    def message(self, key: Key) -> PromptScores:
        return PromptScores(*key.owner, key.start, self.scores.message(self.rows), self.sender)


@dataclass
class _Queue:
    """What one gateway is to get, in order."""

    heard_at: float
    parts: dict[Key, _Part] = field(default_factory=dict)


class ScoreOutbox:
    """All scores that no gateway has answered.

    Args:
        resend: seconds between two times that a message is due.
    """

    def __init__(self, resend: float) -> None:
        self._resend = resend
        self._queues: dict[Endpoint, _Queue] = {}
        self._unwanted: Recent[Owner] = Recent(MAX_UNWANTED)
        self._num_values = 0

    def __len__(self) -> int:
        return sum(len(queue.parts) for queue in self._queues.values())

    def owe(self, run: RunChunk, scores: Scores, now: float) -> None:
        """The gateway of an attempt is to get these, unless the attempt was given up."""
        owner = owner_of(run)
        if owner in self._unwanted:
            return
        size = max(1, min(MAX_SCORES, MESSAGE_VALUES // _width(scores)))
        for first in range(0, len(scores), size):
            rows = slice(first, min(first + size, len(scores)))
            self._put(
                run, Key(owner, scores.start + first), _Part(scores, rows, me(run).inbox), now
            )
        while len(self) > MAX_PARTS or self._num_values > MAX_VALUES:
            endpoint, oldest = min(self._queues.items(), key=lambda item: item[1].heard_at)
            self._drop(endpoint, next(iter(oldest.parts)))

    def due(self, now: float) -> list[tuple[Endpoint, PromptScores]]:
        """What to send now, and to whom; each is due again `resend` seconds later."""
        due = []
        for endpoint, queue in tuple(self._queues.items()):
            if now - queue.heard_at > MAX_AGE:
                self._drop(endpoint, *queue.parts)
            for key, part in islice(queue.parts.items(), WINDOW):
                if now - part.sent_at >= self._resend:
                    part.sent_at = now
                    due.append((endpoint, part.message(key)))
        return due

    def settle(self, scored: Scored, now: float) -> None:
        """A gateway has one message, or does not want it. Idempotent."""
        key = Key(Owner(scored.request, scored.attempt), scored.start)
        for endpoint, queue in tuple(self._queues.items()):
            if key in queue.parts:
                queue.heard_at = now
                self._drop(endpoint, key)

    def forget(self, owner: Owner) -> None:
        """The attempt was given up: nobody wants its scores, also not those to come."""
        self._unwanted.add(owner)
        for endpoint, queue in tuple(self._queues.items()):
            self._drop(endpoint, *(key for key in queue.parts if key.owner == owner))

    def clear(self) -> None:
        """Owe nothing any more, as in a new life."""
        self._queues.clear()
        self._num_values = 0

    def _put(self, run: RunChunk, key: Key, part: _Part, now: float) -> None:
        self.settle(Scored(*key.owner, key.start), now)  # a plan made anew may say it again
        queue = self._queues.setdefault(run.gateway.inbox, _Queue(now))
        queue.parts[key] = part
        self._num_values += part.num_values

    def _drop(self, endpoint: Endpoint, *keys: Key) -> None:
        """Drop messages, and the queue when nothing is left in it."""
        queue = self._queues[endpoint]
        for key in keys:
            self._num_values -= queue.parts.pop(key).num_values
        if not queue.parts:
            del self._queues[endpoint]


def _width(scores: Scores) -> int:
    """Log-probabilities of one token."""
    return 1 + int(scores.top_ids.shape[1])
