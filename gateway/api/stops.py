"""Stop strings: judged on text as it grows, holding back no more than could still be one."""

from collections.abc import Sequence


class Stops:
    """Cuts a growing text at the first stop string.

    What it gives does not depend on how the text is cut into pieces: the stop that is complete
    first counts, and of several complete at the same character the longest.

    Args:
        texts: the stop strings, none of them empty.
        are_shown: whether what ends the text is the last part of it.
    """

    def __init__(self, texts: Sequence[str] = (), *, are_shown: bool = False) -> None:
        self.are_shown = are_shown
        self._texts = tuple(texts)
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Add text; what is certain to belong to it, and whether a stop was reached."""
        if not self._texts:
            return text, False
        self._held += text
        found = [(at + len(s), at) for s in self._texts if (at := self._held.find(s)) >= 0]
        if found:
            end, start = min(found)
            ready, self._held = self._held[: end if self.are_shown else start], ""
            return ready, True
        cut = len(self._held) - self._open()
        ready, self._held = self._held[:cut], self._held[cut:]
        return ready, False

    def flush(self) -> str:
        """What was held back, when no more text comes."""
        ready, self._held = self._held, ""
        return ready

    def _open(self) -> int:
        """Length of the longest suffix that is a proper prefix of a stop string."""
        return max((self._overlap(text) for text in self._texts), default=0)

    def _overlap(self, text: str) -> int:
        longest = min(len(text) - 1, len(self._held))
        sizes = range(longest, 0, -1)
        return next((size for size in sizes if self._held.endswith(text[:size])), 0)
