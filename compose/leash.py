"""Ends a child process when the launcher that started it is gone, even by SIGKILL.

The child's stdin is a pipe whose other end only the launcher holds and never writes to: it closes
when the launcher ends, however it ends. This needs no polling and works on every POSIX system.
"""

import os
import shutil
import signal
import sys
import threading
from pathlib import Path

GRACE = 10.0
"""Seconds between the request to stop and the end by force."""


def hold(directory: Path | None, grace: float = GRACE) -> None:
    """Stop this process as soon as its stdin closes.

    Args:
        directory: the launcher's private directory, removed on the launcher's behalf.
        grace: seconds to stop in; then the process ends at once.
    """
    threading.Thread(target=_wait, args=(directory, grace), name="leash", daemon=True).start()


def _wait(directory: Path | None, grace: float) -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    if directory is not None:
        shutil.rmtree(directory, ignore_errors=True)
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(grace)
    os._exit(1)
