import asyncio
import io
import os
import sys

from compose.child import KEPT_LINES, Child, Command
from compose.console import Console


def run(code: str) -> tuple[Child, str]:
    """A child that runs `code` to its end, and what it said."""
    log = io.StringIO()

    async def main() -> Child:
        child = Child(Command("one", (sys.executable, "-c", code), os.environ), Console(log))
        assert child.how_it_ended == "not ended"
        await child.start()
        await child.run()
        assert child.ended.is_set()
        child.terminate()
        child.kill()
        return child

    return asyncio.run(main()), log.getvalue()


def test_both_of_its_streams_are_passed_on() -> None:
    child, log = run("import sys; sys.stderr.write('err\\n'); sys.stdout.write('out\\n')")
    assert sorted(child.last_lines) == ["err", "out"]
    assert log.count("one ") == 2
    assert child.how_it_ended == "exit status 0"


def test_only_its_last_lines_are_kept() -> None:
    child, log = run("[print(n) for n in range(100)]")
    assert list(child.last_lines) == [str(n) for n in range(100 - KEPT_LINES, 100)]
    assert len(log.splitlines()) == 100


def test_bytes_that_are_no_text_do_no_harm() -> None:
    child, _ = run("import sys; sys.stdout.buffer.write(b'\\xff\\xfe bad\\n')")
    assert list(child.last_lines) == ["\ufffd\ufffd bad"]


def test_a_signal_is_named() -> None:
    child, _ = run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert child.how_it_ended == "signal SIGKILL"


def test_an_exit_status_is_told() -> None:
    child, _ = run("raise SystemExit(3)")
    assert child.how_it_ended == "exit status 3"
