"""The errors of the mesh, one small tree.

TetrisError
├── ConfigError      a preset, key or model that cannot be served; ends the start
├── WireError        a message that is malformed or over a limit; dropped and counted
├── LinkTimeout      a peer on a bulk link did not answer within its bound
├── OutOfPages       no KV pages left for this owner
├── Aborted          the attempt that is being computed is over, so its computation ends
└── RequestFailed    one request cannot go on; caught in one place per service
"""


class TetrisError(Exception):
    """Root of all errors that this project raises on purpose."""


class ConfigError(TetrisError):
    """A preset, key, model or environment that this process cannot start with."""


class WireError(TetrisError):
    """A message that is malformed, unknown or over a limit; `reason` is fit for a counter."""

    def __init__(self, reason: str, detail: str = "") -> None:
        """Args: one word out of a fixed few, and what a person wants to know beside it."""
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


class LinkTimeout(TetrisError):
    """A peer on a bulk link did not send or take bytes within the bound."""


class OutOfPages(TetrisError):
    """The page pool cannot hold what was asked for."""


class Aborted(TetrisError):
    """The attempt is over, here or at another member of its group; nothing is wrong."""


class RequestFailed(TetrisError):
    """One request cannot be served; the message tells the user why and what to do."""
