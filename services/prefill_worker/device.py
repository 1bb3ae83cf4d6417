"""What this instance computes on, in words that two machines share if they are equally fast."""

import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
FIELDS = ("model name", "cpu family", "model", "stepping")
LONGEST = 128


def processor(path: Path = CPUINFO) -> str:
    """The processor's own name and numbers; the same in every container of one machine."""
    found: dict[str, str] = {}
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    parts = [platform.machine(), *(found[field] for field in FIELDS if field in found)]
    return " ".join(filter(None, parts))[:LONGEST]
