"""How many requests a key may make: a bucket that holds a minute's worth; time is an argument."""


class Allowance:
    """Tokens of one key, one for each request; starts full."""

    def __init__(self, per_minute: int, now: float) -> None:
        self._size = float(per_minute)
        self._left = self._size
        self._seen = now

    def take(self, now: float) -> float:
        """Take one for a request: 0, or the seconds until there is one, and then none is taken."""
        rate = self._size / 60.0
        self._left = min(self._size, self._left + (now - self._seen) * rate)
        self._seen = now
        if self._left < 1.0:
            return (1.0 - self._left) / rate
        self._left -= 1.0
        return 0.0
