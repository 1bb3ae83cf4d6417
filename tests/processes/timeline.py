"""The chunks that real workers ran, from their logs, as spans and as a picture in text."""

from dataclasses import dataclass

from tests.processes.real_mesh import RealMesh


@dataclass(frozen=True, order=True)
class Span:
    """One chunk on one instance; times are seconds of the host's monotonic clock."""

    start: float
    end: float
    name: str
    request: str
    index: int
    size: int


def spans(mesh: RealMesh) -> list[Span]:
    """All chunks that have ended, in order of their start."""
    return sorted(
        Span(e["started"], e["ended"], e["name"], e["request"], e["chunk"], e["size"])
        for e in mesh.events("chunk_done")
    )


def draw(chosen: list[Span], width: int = 72) -> str:
    """Instances by time, one letter per request, digits for the chunk's index."""
    begin, end = min(s.start for s in chosen), max(s.end for s in chosen)
    scale = (width - 1) / max(end - begin, 1e-9)
    letters = {r: chr(ord("A") + i) for i, r in enumerate(dict.fromkeys(s.request for s in chosen))}
    rows = []
    for name in sorted({s.name for s in chosen}):
        row = ["·"] * width
        for span in (s for s in chosen if s.name == name):
            first, last = int((span.start - begin) * scale), int((span.end - begin) * scale)
            for column in range(first, last + 1):
                row[column] = letters[span.request]
            row[first] = str(span.index)
        rows.append(f"{name:>20} {''.join(row)}")
    rows.append(f"{'':>20} 0 s{'':{width - 12}}{end - begin:6.2f} s")
    return "\n".join(rows)
