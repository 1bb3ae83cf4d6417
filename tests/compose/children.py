"""Small programs for a launcher to start, and what listens to them."""

import io
import os
import signal
import sys
from pathlib import Path

from compose.child import Command

ROOT = Path(__file__).resolve().parents[2]

OBEDIENT = """
import sys, threading
from compose import leash
leash.hold(None)
print('up', flush=True)
threading.Event().wait()
"""
DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('up', flush=True)
while True: time.sleep(60)
"""
DYING = """
import sys
sys.exit('the model is not a model')
"""
SAYS_BYE = """
import signal, sys, threading
over = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: over.set())
print('up', flush=True)
over.wait()
print('bye', flush=True)
"""


def command(name: str, code: str) -> Command:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return Command(name, (sys.executable, "-c", code), environment)


def counting(directory: Path, code: str) -> str:
    """A child that counts its lives in `directory` and then runs `code` with that number."""
    return f"""
import os, signal, sys, threading, time
from pathlib import Path
from compose import leash
leash.hold(None)
life = len(list(Path({str(directory)!r}).iterdir()))
Path({str(directory)!r}, str(life)).write_text(os.environ.get('TETRIS_FAILPOINTS', ''))
print('up', life, flush=True)
def ready():
    while not os.path.exists({str(directory) + ".ready"!r}): time.sleep(0.01)
{code}
threading.Event().wait()
"""


class CountedProbe:
    """Ready once every child has said that it is up."""

    def __init__(self, log: io.StringIO, needed: int) -> None:
        self._log = log
        self._needed = needed

    async def __call__(self) -> str | None:
        missing = self._needed - self._log.getvalue().count("| up")
        return f"waiting for {missing}" if missing > 0 else None


class StoppingLog(io.StringIO):
    """Asks the launcher to stop as soon as a line with these words is written."""

    def __init__(self, until: str) -> None:
        super().__init__()
        self._until = until

    def write(self, text: str) -> int:
        if self._until in text:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().write(text)
