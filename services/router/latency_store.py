"""Latency models that were measured here, in files that the next router finds.

A file that cannot be read or written costs a line in the log, never more.
"""

import hashlib
import json
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from common.errors import ConfigError
from common.latency import LatencyModel
from common.messages import Hello


class LatencyStore:
    """Models by key; without a directory, nothing is kept."""

    def __init__(self, directory: Path | None, log: FilteringBoundLogger | None = None) -> None:
        self._directory = directory
        self._log = log

    def load(self, key: str, sizes: tuple[int, ...]) -> LatencyModel | None:
        """The model of that key, if there is one for these sizes."""
        path = self._path(key)
        if path is None or not path.exists():
            return None
        try:
            model = LatencyModel.load(str(path))
        except ConfigError as error:
            self.tell("a kept latency model is of no use", reason=str(error))
            return None
        if model.sizes != sizes:
            self.tell("a kept latency model is of no use", reason=f"{path}: other sizes")
            return None
        self.tell("latency model found", path=str(path))
        return model

    def save(self, key: str, model: LatencyModel, comment: str) -> None:
        """Keep a model in place of the one before."""
        path = self._path(key)
        if path is None:
            return
        try:
            model.dump(path, comment)
        except OSError as error:
            self.tell("the latency model is not kept", reason=f"{path}: {error}")

    def tell(self, event: str, **facts: object) -> None:
        """Log something about latency models."""
        if self._log is not None:
            self._log.info(event, **facts)

    def _path(self, key: str) -> Path | None:
        return None if self._directory is None else self._directory / f"{key}.toml"


def key_of(hello: Hello, prior: LatencyModel) -> str:
    """What a measured model is good for: one device, model and dtype, and one prior.

    A prefill instance tells its device; names of nodes change with every container. Another prior
    (another `router.latency`) has other sizes and begins anew.
    """
    dtype = hello.layout.dtype if hello.layout is not None else ""
    curves = {size: list(curve) for size, curve in prior.curves.items()}
    identity = json.dumps([hello.device, hello.model.fingerprint, dtype, curves])
    return f"{dtype}-{hashlib.sha256(identity.encode()).hexdigest()[:20]}"
