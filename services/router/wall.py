"""The router's own seconds as moments of the wall clock, which members of other machines share."""


class Wall:
    """Knows by how much the two differ; whoever has a clock sets `offset` now and then."""

    def __init__(self) -> None:
        self.offset = 0.0
        """Wall clock less monotonic seconds."""

    def at(self, now: float) -> float:
        """Seconds since 1970 of a monotonic moment."""
        return max(0.0, now + self.offset)
