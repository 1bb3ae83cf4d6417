import json
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from common.messages import Ledger, MemberStatus, Status
from common.schedule import Report, Schedule, State
from compose import operations
from compose.cli import main
from compose.ledger_text import NOTHING
from compose.operations import KEY_VARIABLE, VARIABLE
from compose.schedule_text import schedule_text
from compose.status_text import status_text
from tests.compose.door import open_door


def member(
    name: str = "decode-worker-0",
    active: int = 0,
    incarnation: int = 1,
    role: str = "decode-worker",
) -> MemberStatus:
    facts = (1.0, 0.1, 0.0, 100, 10 * active, active)
    return MemberStatus(name, role, "host", incarnation, "serving", *facts)


def status(*members: MemberStatus) -> Status:
    return Status(1, 9, 0, 0, "policy", members)


def encoded(*answers: Status) -> list[bytes]:
    return [msgspec.json.encode(answer) for answer in answers]


def draining(name: str, statuses: Sequence[bytes]) -> tuple[int, list[tuple[str, str, bytes]]]:
    """Exit status of `tetris drain` against a door that says this, one after the other."""
    left = list(statuses)

    def answer(path: str, _: bytes) -> tuple[int, bytes]:
        if path == "/tetris/drain":
            return 202, b"{}"
        return 200, left.pop(0) if len(left) > 1 else left[0]

    with open_door(answer) as door:
        return main(["drain", name, "--url", door.url]), door.seen


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "POLL", 0.001)
    monkeypatch.delenv(VARIABLE, raising=False)


def test_status_is_a_table_or_the_raw_answer(capsys: pytest.CaptureFixture[str]):
    body = msgspec.json.encode(status(member()))
    with open_door(lambda *_: (200, body)) as door:
        assert main(["status", "--url", door.url]) == 0
        assert capsys.readouterr().out == status_text(status(member())) + "\n"
        assert main(["status", "--json", "--url", door.url]) == 0
        assert json.loads(capsys.readouterr().out) == json.loads(body)


def test_the_url_may_stand_in_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    body = msgspec.json.encode(Ledger(1, (), 0))
    with open_door(lambda *_: (200, body)) as door:
        monkeypatch.setenv(VARIABLE, door.url)
        assert main(["ledger"]) == 0
    assert capsys.readouterr().out == NOTHING + "\n"
    assert door.seen == [("GET", "/tetris/ledger", b"")]


def test_watching_goes_on_through_errors_until_interrupted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    answers = [(200, encoded(status())[0]), (503, b'{"error": {"message": "no router"}}')]
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(operations.time, "sleep", sleep)
    with open_door(lambda *_: answers[len(slept) % 2]) as door:
        assert main(["status", "--watch", "2", "--url", door.url]) == 0
    assert slept == [2.0] * 3
    text = status_text(status())
    assert capsys.readouterr().out == f"{text}\nno router\n{text}\n"


def test_a_drain_is_followed_until_the_member_is_gone(capsys: pytest.CaptureFixture[str]):
    busy, nearly = member(active=2), member(active=1)
    said = encoded(status(busy), status(busy), status(busy), status(nearly), status())
    code, seen = draining("decode-worker-0", said)
    assert code == 0
    assert ("POST", "/tetris/drain", b'{"name":"decode-worker-0"}') in seen
    assert capsys.readouterr().out.splitlines() == [
        "decode-worker-0 is leaving: 2 requests, 20 slots held",
        "decode-worker-0 is leaving: 1 request, 10 slots held",
        "decode-worker-0 has left",
    ]


def test_another_life_under_the_name_means_that_the_old_one_is_gone(
    capsys: pytest.CaptureFixture[str],
):
    said = encoded(status(member()), status(member(incarnation=2)))
    assert draining("decode-worker-0", said)[0] == 0
    assert capsys.readouterr().out == "decode-worker-0 has left\n"


def test_a_router_without_an_answer_is_waited_for(capsys: pytest.CaptureFixture[str]):
    asked: list[int] = []

    def answer(path: str, _: bytes) -> tuple[int, bytes]:
        asked.append(1)
        if len(asked) == 3:
            return 503, b'{"error": {"message": "no router"}}'
        return 200, encoded(status(member()) if len(asked) < 3 else status())[0]

    with open_door(answer) as door:
        assert main(["drain", "decode-worker-0", "--url", door.url]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "decode-worker-0 is leaving: no router",
        "decode-worker-0 has left",
    ]


def test_an_order_may_be_given_without_waiting(capsys: pytest.CaptureFixture[str]):
    body = encoded(status(member()))[0]
    with open_door(lambda *_: (200, body)) as door:
        assert main(["drain", "decode-worker-0", "--no-wait", "--url", door.url]) == 0
    assert capsys.readouterr().out == "decode-worker-0 is told to leave\n"
    assert [path for _, path, _ in door.seen] == ["/tetris/status", "/tetris/drain"]


def test_a_gateway_takes_its_door_along(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    body = encoded(status(member("gateway", 0, 1, "gateway")))[0]
    with open_door(lambda *_: (200, body)) as door:
        client = operations.ControlClient(door.url)
        before = operations._member(client, "gateway")
    assert before is not None
    assert operations._left(client, before) is None
    other = msgspec.structs.replace(before, role="kv-transfer")
    assert operations._left(client, other) == "nobody answers"


def test_a_member_that_does_not_go_is_told_in_the_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(operations, "LONGEST_DRAIN", 0.05)
    assert draining("decode-worker-0", encoded(status(member(active=1))))[0] == 1
    assert "still there" in capsys.readouterr().err


def test_the_schedule_is_shown_or_changed_and_then_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    report = Report(Schedule(), State(None, 0.1, 0, None))
    file = tmp_path / "change.json"
    file.write_text('{ "min_chunk": 5 }')
    with open_door(lambda *_: (200, msgspec.json.encode(report))) as door:
        for words in (
            [],
            ["policy=cdsp", "priced.base=1"],
            ["--json", "{}"],
            ["--json", f"@{file}"],
        ):
            assert main(["update", *words, "--url", door.url]) == 0
            assert capsys.readouterr().out == schedule_text(report) + "\n"
    assert door.seen == [
        ("GET", "/update", b""),
        ("POST", "/update", b'{"policy":"cdsp","priced":{"base":1}}'),
        ("POST", "/update", b"{}"),
        ("POST", "/update", b'{ "min_chunk": 5 }'),
    ]


def test_a_refused_change_is_told_with_its_key(capsys: pytest.CaptureFixture[str]):
    body = b'{"error": {"message": "policy: expected one of cdsp"}}'
    with open_door(lambda *_: (400, body)) as door:
        assert main(["update", "policy=x", "--url", door.url]) == 1
    assert capsys.readouterr().err == "tetris: policy: expected one of cdsp\n"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((404, b'{"error": {"message": "no member x"}}'), "tetris: no member x\n"),
        ((200, b"{}"), "does not understand"),
        ((200, b"\xff"), "does not understand"),
    ],
)
def test_what_went_wrong_is_one_line_and_status_1(
    answer: tuple[int, bytes], words: str, capsys: pytest.CaptureFixture[str]
):
    with open_door(lambda *_: answer) as door:
        assert main(["status", "--url", door.url]) == 1
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "argv",
    [
        ["status", "--watch", "0"],
        ["drain"],
        ["ledger", "--watch", "1"],
        ["status", "--url", "x"],
        ["update", "policy"],
        ["update", "policy=cdsp", "--json", "{}"],
        ["update", "--json", "{"],
        ["update", "--json", "@/no/such/file"],
    ],
)
def test_a_wrong_call_has_status_2(argv: list[str], capsys: pytest.CaptureFixture[str]):
    try:
        code = main(argv)
    except SystemExit as end:
        code = int(end.code or 0)
    assert code == 2
    assert capsys.readouterr().err


def test_the_key_stands_in_a_file_or_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "key"
    file.write_text("from-file\n")
    monkeypatch.setenv(KEY_VARIABLE, "from-environment")
    with open_door(lambda *_: (200, b"{}")) as door:
        call = ["status", "--json", "--url", door.url]
        assert main(call) == 0
        assert main([*call, "--key-file", str(file)]) == 0
        monkeypatch.delenv(KEY_VARIABLE)
        assert main(call) == 0
        given = [headers["Authorization"] for headers in door.headers]
        assert given == ["Bearer from-environment", "Bearer from-file", None]
        assert main([*call, "--key-file", str(tmp_path / "none")]) == 2
    assert "--key-file" in capsys.readouterr().err
