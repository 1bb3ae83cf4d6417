"""Who was refused and told when to come back: a place in time that is kept for him.

Under a steady overload whatever comes free is taken by whoever comes next, so a client who waits
as he was asked to would be refused for ever. Every refusal therefore books a share of the second
in which its client is to return; later ones get later seconds, so that those who return never want
more than the mesh can give. Not everybody returns: what is booked counts as much as the share
that did of late, so that promises nobody redeems keep nothing from others.

Bounded: a fixed number of promises of a fixed size, each forgotten soon after its time. What was
promised stays promised: when all places are taken, those who come next get a time but no place.
Pure; moments are monotonic seconds.
"""

import math
from hashlib import blake2b
from typing import NamedTuple

from common.messages import Submit

MAX_PROMISES = 8192
HORIZON = 1024
"""Seconds that anybody is asked to stay away, at most."""
GRACE = 10.0
"""Seconds after its time in which a promise holds."""
SHARE = 0.8
"""Of the mesh's time that is promised; the rest is for what promises did not foresee."""
PROMPT = 2
"""Seconds after its time from which a promise counts as one that nobody redeems, for now."""
SEEN = 4
"""Promises that were redeemed before any was made, so to speak."""
MEMORY = 32
"""Promises that the share of those who return is learnt from."""


class Promise(NamedTuple):
    """Seconds of the whole mesh that a request takes, and the second in which it may come."""

    second: int
    work: float


class Promises:
    """All promises that are still to be redeemed."""

    def __init__(self, limit: int = MAX_PROMISES) -> None:
        self.returning = 1.0
        """The share of those who were asked to return that did, of late."""
        self._limit = limit
        self._promises: dict[bytes, Promise] = {}
        self._seconds: dict[int, dict[bytes, None]] = {}
        """Whose time begins in each second, in order of time from `_first` on."""
        self._work: dict[int, float] = {}
        self._first = self._judged = 0
        """The first second that is not forgotten, and the first that is not learnt from."""
        self._seen = SEEN

    def __len__(self) -> int:
        return len(self._promises)

    def is_due(self, key: bytes, now: float) -> bool:
        """Whether somebody comes back in the time that he was told."""
        self._expire(now)
        promise = self._promises.get(key)
        return promise is not None and promise.second <= now

    def redeem(self, key: bytes, now: float) -> None:
        """Somebody is taken in, whether or not he had a promise."""
        self._expire(now)
        if self._drop(key):
            self._learn(1.0)

    def make(self, key: bytes, work: float, least: float, now: float) -> float:
        """Promise somebody a time to come back, or tell him again the one that he was promised.

        Args:
            key: what he is known by, see `fingerprint`.
            work: seconds that he keeps the whole mesh busy.
            least: seconds before which it makes no sense to come back.
            now: seconds.

        Returns:
            Seconds from now; the promise holds from then on.
        """
        self._expire(now)
        known = self._promises.get(key)
        if known is not None and known.second > now:
            return known.second - now
        if known is not None:
            # He came when he should and there was no room.
            self.redeem(key, now)
        first = math.ceil(now + max(1.0, min(least, HORIZON)))
        second = self._free_second(first, work, math.floor(now) + HORIZON)
        if len(self._promises) < self._limit:
            self._promises[key] = Promise(second, work)
            self._seconds.setdefault(second, {})[key] = None
            self._work[second] = self._work.get(second, 0.0) + work
        return second - now

    def _free_second(self, first: int, work: float, last: int) -> int:
        """The first second from which so much work has room, in as many seconds as it takes."""
        work *= self.returning
        length = min(max(1, math.ceil(work / SHARE)), HORIZON)
        backlog, ahead = 0.0, sum(map(self._booked, range(self._first, self._first + length)))
        for second in range(self._first, last):
            is_free = backlog <= 0.0 and ahead + work <= SHARE * length
            if second >= first and is_free:
                return second
            booked = self._booked(second)
            backlog = max(0.0, backlog + booked - SHARE)
            ahead += self._booked(second + length) - booked
        return max(first, last)

    def _booked(self, second: int) -> float:
        """Seconds of the whole mesh that those will take who come back in that second."""
        return self.returning * self._work.get(second, 0.0)

    def _expire(self, now: float) -> None:
        """Forget those whose time is over."""
        past = math.floor(now - GRACE)
        if past - self._first > HORIZON + 2 * GRACE:
            # So long a silence that all of them are over.
            for key in list(self._promises):
                self._drop(key)
            self._first = self._judged = past
        while self._judged < math.floor(now) - PROMPT:
            for _ in self._seconds.get(self._judged, ()):
                self._learn(0.0)
            self._judged += 1
        while self._first < past:
            for key in list(self._seconds.get(self._first, ())):
                self._drop(key)
            self._first += 1

    def _drop(self, key: bytes) -> bool:
        promise = self._promises.pop(key, None)
        if promise is None:
            return False
        keys = self._seconds[promise.second]
        del keys[key]
        self._work[promise.second] -= promise.work
        if not keys:
            del self._seconds[promise.second], self._work[promise.second]
        return True

    def _learn(self, returned: float) -> None:
        self._seen = min(self._seen + 1, MEMORY)
        self.returning += (returned - self.returning) / self._seen


def fingerprint(submit: Submit, ids: bytes) -> bytes:
    """What a request is known by when it comes again, under another id."""
    digest = blake2b(ids, digest_size=16)
    digest.update(f"{submit.ending.max_tokens} {submit.sampling.choice}".encode())
    return digest.digest()
