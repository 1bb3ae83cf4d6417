"""Who cannot reach whom in a simulated mesh, by names of processes."""

from collections.abc import Collection
from typing import Literal

Plane = Literal["mem", "emulated"]
"""Control messages, or links."""


class Cuts:
    """Ways that are cut, one direction of one plane each."""

    def __init__(self) -> None:
        self._cut: dict[tuple[str, str, str], int] = {}

    def cut(
        self,
        sources: Collection[str],
        others: Collection[str],
        planes: Collection[Plane],
        *,
        both: bool,
    ) -> "list[tuple[str, str, str]]":
        """Cut every way from a source to one of the others, and back too; what `heal` wants."""
        ways = [(plane, a, b) for plane in planes for a in sources for b in others if a != b]
        if both:
            ways += [(plane, b, a) for plane, a, b in ways]
        for way in ways:
            self._cut[way] = self._cut.get(way, 0) + 1
        return ways

    def heal(self, ways: "list[tuple[str, str, str]]") -> None:
        """Undo one cut."""
        for way in ways:
            self._cut[way] -= 1
            if not self._cut[way]:
                del self._cut[way]

    def reaches(self, source: str, destination: str) -> bool:
        """Whether anything gets from one endpoint to the other now."""
        if not self._cut:
            return True
        plane, name = place(source)
        return (plane, name, place(destination)[1]) not in self._cut


def place(endpoint: str) -> tuple[str, str]:
    """Plane and process of `plane://process/...`."""
    plane, _, rest = endpoint.partition("://")
    return plane, rest.partition("/")[0]
