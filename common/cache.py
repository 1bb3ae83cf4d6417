"""Where things lie that outlive a mesh: converted models, latency models."""

import os
from pathlib import Path

VARIABLE = "TETRIS_CACHE"


def cache_directory(kind: str) -> Path:
    """Of one kind of things, in $TETRIS_CACHE, else in the user's cache directory."""
    explicit = os.environ.get(VARIABLE)
    if explicit:
        return Path(explicit).expanduser() / kind
    shared = os.environ.get("XDG_CACHE_HOME")
    root = Path(shared) if shared else Path.home() / ".cache"
    return root / "tetris" / kind
