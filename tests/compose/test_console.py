import io

import pytest

from compose.console import Console


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_stand_under_names_in_one_column() -> None:
    log = io.StringIO()
    console = Console(log, width=8)
    console.say("starting")
    console.line("router", "joined")
    assert log.getvalue() == "tetris   | starting\nrouter   | joined\n"


def test_a_terminal_gets_one_colour_for_each_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    log = Terminal()
    console = Console(log, width=1)
    for name in ("a", "b", "a"):
        console.line(name, "text")
    first, second, third = log.getvalue().splitlines()
    assert first == third == "\x1b[36ma\x1b[0m | text"
    assert second == "\x1b[35mb\x1b[0m | text"


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    log = Terminal()
    Console(log, width=1).line("a", "text")
    assert log.getvalue() == "a | text\n"
