"""`tetris status`, `ledger`, `drain` and `update`: what operators ask of a running mesh."""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TypeVar

import msgspec

from common.errors import ConfigError
from common.messages import Ledger, MemberStatus, Status
from common.schedule import Report
from compose.control_client import ControlClient, ControlError, Unreachable
from compose.ledger_text import ledger_text
from compose.schedule_text import change_in, schedule_text
from compose.status_text import BUSY, UNIT, status_text
from compose.table import count

COMMANDS = ("status", "ledger", "drain", "update")
DEFAULT_URL = "http://127.0.0.1:8001"
VARIABLE = "TETRIS_CONTROL_URL"
KEY_VARIABLE = "TETRIS_CONTROL_KEY"
CLEAR = "\x1b[H\x1b[2J"
POLL = 0.5
LONGEST_DRAIN = 600.0
"""Seconds to wait for a member to go; a mesh's own bound is `mesh.drain`."""
T = TypeVar("T")


def run(options: argparse.Namespace) -> int:
    """Run one of the commands; the exit status.

    Raises:
        ConfigError: the URL is none, or the key cannot be read.
    """
    url = options.url or os.environ.get(VARIABLE) or DEFAULT_URL
    client = ControlClient(url, _key(options.key_file))
    try:
        match options.command:
            case "status":
                if options.watch:
                    return _watch(client, options.json, options.watch)
                _say(_status(client, options.json))
            case "ledger":
                _say(_ledger(client, options.json))
            case "update":
                _say(_update(client, options.changes, options.json))
            case _:
                _drain(client, options.name, wait=options.wait)
    except ControlError as error:
        sys.stderr.write(f"tetris: {error}\n")
        return 1
    return 0


def add_status(parser: argparse.ArgumentParser) -> None:
    """The options of `tetris status`."""
    _add_url(parser)
    parser.add_argument("--json", action="store_true", help="the raw answer")
    parser.add_argument("--watch", type=_seconds, metavar="N", help="again every N seconds")


def add_ledger(parser: argparse.ArgumentParser) -> None:
    """The options of `tetris ledger`."""
    _add_url(parser)
    parser.add_argument("--json", action="store_true", help="the raw answer")


def add_drain(parser: argparse.ArgumentParser) -> None:
    """The options of `tetris drain`."""
    parser.add_argument("name", metavar="NAME", help="of the member, as in `tetris status`")
    _add_url(parser)
    parser.add_argument(
        "--no-wait", dest="wait", action="store_false", help="give the order and return"
    )


def add_update(parser: argparse.ArgumentParser) -> None:
    """The options of `tetris update`."""
    parser.add_argument(
        "changes",
        nargs="*",
        metavar="KEY=VALUE",
        help="of [schedule], such as policy=cdsp-priced or priced.order=slope:3; without any, "
        "what is in force is shown",
    )
    parser.add_argument("--json", metavar="BODY|@FILE", help="all changes as one JSON object")
    _add_url(parser)


def _add_url(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--url", help=f"of a gateway's control port (default: ${VARIABLE} or {DEFAULT_URL})"
    )
    parser.add_argument(
        "--key-file",
        metavar="FILE",
        help=f"with the key of a control port that asks for one (default: ${KEY_VARIABLE})",
    )


def _key(file: str | None) -> str | None:
    if file is None:
        return os.environ.get(KEY_VARIABLE) or None
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--key-file: {file} cannot be read ({error})") from None


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError("must be between 0.1 and 3600")
    return seconds


def _status(client: ControlClient, is_raw: bool) -> str:
    body = client.get("/tetris/status")
    return _raw(body) if is_raw else status_text(_decoded(client, body, Status))


def _ledger(client: ControlClient, is_raw: bool) -> str:
    body = client.get("/tetris/ledger")
    return _raw(body) if is_raw else ledger_text(_decoded(client, body, Ledger))


def _update(client: ControlClient, changes: list[str], body: str | None) -> str:
    if body is not None and changes:
        raise ConfigError("give either KEY=VALUE or --json")
    change = change_in(changes) if body is None else _json(body)
    is_question = body is None and not changes
    answer = client.get("/update") if is_question else client.post("/update", change)
    return schedule_text(_decoded(client, answer, Report))


def _json(body: str) -> msgspec.Raw:
    """The text itself, or that of a file; the gateway judges what it means."""
    try:
        text = Path(body[1:]).read_bytes() if body.startswith("@") else body.encode()
        msgspec.json.decode(text)
    except (OSError, ValueError, RecursionError, msgspec.DecodeError) as error:
        raise ConfigError(f"--json: {error}") from None
    return msgspec.Raw(text)


def _raw(body: bytes) -> str:
    return body.decode("utf-8", errors="replace").rstrip()


def _decoded(client: ControlClient, body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise ControlError(
            f"{client.url} answers what this version does not understand ({error})"
        ) from None


def _watch(client: ControlClient, is_raw: bool, seconds: float) -> int:
    """Draw the status again and again until Ctrl-C."""
    clear = CLEAR if sys.stdout.isatty() else ""
    try:
        while True:
            try:
                text = _status(client, is_raw)
            except ControlError as error:
                # It may come back, and then this goes on.
                text = str(error)
            _say(f"{clear}{text}")
            time.sleep(seconds)
    except KeyboardInterrupt:
        return 0


def _drain(client: ControlClient, name: str, wait: bool) -> None:
    member = _member(client, name)
    client.post("/tetris/drain", {"name": name})
    if not wait or member is None:
        _say(f"{name} is told to leave")
        return
    said, deadline = "", time.monotonic() + LONGEST_DRAIN
    while time.monotonic() < deadline:
        left = _left(client, member)
        if left is None:
            _say(f"{name} has left")
            return
        if left != said:
            said = left
            _say(f"{name} is leaving: {left}")
        time.sleep(POLL)
    raise ControlError(f"{name} is still there after {LONGEST_DRAIN:.0f} s ({said})")


def _member(client: ControlClient, name: str) -> MemberStatus | None:
    status = _decoded(client, client.get("/tetris/status"), Status)
    return next((member for member in status.members if member.name == name), None)


def _left(client: ControlClient, member: MemberStatus) -> str | None:
    """What that life of a member still has to do; None when it is gone."""
    try:
        now = _member(client, member.name)
    except Unreachable:
        if member.role == "gateway":
            # Its own door, which goes with it.
            return None
        return "nobody answers"
    except ControlError as error:
        return str(error)
    if now is None or now.incarnation != member.incarnation:
        return None
    busy = count(now.active, BUSY.get(now.role, "task"))
    return f"{busy}, {now.used} {UNIT[now.role]} held" if now.role in UNIT else busy


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
