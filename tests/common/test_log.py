import json

import pytest

from common.config import LogConfig
from common.log import FORBIDDEN, configure
from common.messages import Token, TokenBatch


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return [json.loads(line) for line in captured.err.splitlines()]


def test_each_line_is_json_with_its_service_and_name(capsys):
    log = configure(LogConfig(), service="router", name="router-1")
    log.info("joined", epoch=7)
    (line,) = lines(capsys)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "joined",
        "level": "info",
        "service": "router",
        "name": "router-1",
        "epoch": 7,
    }


def test_what_is_below_the_level_is_not_written(capsys):
    log = configure(LogConfig(level="warning"))
    log.info("quiet")
    log.warning("loud")
    assert [line["event"] for line in lines(capsys)] == ["loud"]


def test_prompts_ids_and_keys_never_get_in(capsys):
    log = configure(LogConfig())
    log.info("request", **dict.fromkeys(FORBIDDEN, "4242 secret"))
    log.info(
        "values", ids_list=[4242], raw=b"4242", batch=TokenBatch("d", (Token("r", 1, 0, 4242),))
    )
    text = capsys.readouterr().err
    assert "4242" not in text
    assert json.loads(text.splitlines()[1])["batch"] == "<TokenBatch>"


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_traceback_shows_no_locals(capsys, form):
    log = configure(LogConfig(format=form), service="gateway")
    hidden = "".join(["pass", "word", "42"])
    try:
        int("broken" + hidden[:0])
    except ValueError:
        log.exception("failed")
    text = capsys.readouterr().err
    assert hidden not in text
    assert "broken" in text
    assert "test_log.py" in text
    assert "failed" in text
    assert (text.count("\n") == 1) == (form == "json")
