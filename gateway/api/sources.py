"""One prompt as the mesh gets it and as its answer tells it again."""

from collections.abc import Sequence

from msgspec import Struct

from gateway.mesh.scores import Scores


class Source(Struct, frozen=True):
    """A prompt's ids, its text where it is echoed, and its scores where they are wanted."""

    ids: Sequence[int]
    text: str = ""
    scores: Scores | None = None
