import asyncio
import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from loadgen.bench import main
from tests.loadgen.fake_server import FakeServer


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer().serving() as running:
        yield running


def test_a_run_reports_every_request(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text"
    text.write_text("some words to cut prompts from")
    file = tmp_path / "figures.json"
    status = main(
        ["--url", server.url, "--requests", "6", "--rate", "200", "--max-tokens", "5",
         "--text", str(text), "--prompt-chars", "3:90", "--json", str(file)]
    )  # fmt: skip
    assert status == 0
    figures = json.loads(file.read_text())
    assert (figures["completed"], figures["failed"], figures["model_id"]) == (6, 0, "tiny")
    assert (figures["total_input_tokens"], figures["total_output_tokens"]) == (42, 30)
    assert [len(gaps) for gaps in figures["itls"]] == [4] * 6
    assert 0 < figures["p50_ttft_ms"] <= figures["p99_ttft_ms"] <= figures["p99_e2el_ms"]
    assert figures["start_times"] == sorted(figures["start_times"])
    assert len(server.bodies) == 6
    assert all(3 <= len(body["prompt"]) <= 90 for body in server.bodies)
    assert all(body["max_tokens"] == 5 and body["ignore_eos"] for body in server.bodies)
    assert "TTFT" in capsys.readouterr().out


def test_the_same_seed_sends_the_same_prompts(server: FakeServer) -> None:
    arguments = ["--url", server.url, "--requests", "3", "--rate", "inf", "--max-tokens", "1"]
    sent = []
    for seed in ("4", "4", "5"):
        server.bodies.clear()
        assert main([*arguments, "--seed", seed]) == 0
        sent.append(sorted(body["prompt"] for body in server.bodies))
    assert sent[0] == sent[1] != sent[2]


def test_no_server_is_told_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    assert main(["--url", url]) == 2
    assert f"no server answers at {url}" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["nonsense", "http://", "127.0.0.1:1"])
def test_a_url_that_is_none_is_told_in_words(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--url", url]) == 2
    assert "tetris bench: no server answers at" in capsys.readouterr().err


def test_a_wrong_model_is_told_in_words(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--url", server.url, "--model", "huge"]) == 2
    assert "no model 'huge'; it has tiny" in capsys.readouterr().err


def test_a_text_that_is_missing_or_empty_is_told_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--text", str(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err
    (tmp_path / "empty").touch()
    assert main(["--text", str(tmp_path / "empty")]) == 2
    assert "is empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["--rate", "0"], ["--rate", "nan"], ["--requests", "0"], ["--prompt-chars", "9:3"]],
)
def test_impossible_options_are_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_failed_requests_are_counted_with_their_reason(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=503, text="full")

    server.complete = refuse
    file = tmp_path / "figures.json"
    arguments = ["--requests", "2", "--rate", "inf", "--json", str(file)]
    assert main(["--url", server.url, *arguments]) == 1
    assert json.loads(file.read_text())["errors"] == ["503: full"] * 2
    assert "first error: 503: full" in capsys.readouterr().out


def test_an_error_event_and_a_stream_cut_short_are_failures(
    server: FakeServer, tmp_path: Path
) -> None:
    async def fail(http: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(http)
        if len(server.bodies) == 1:
            await response.write(b'data: {"error": {"message": "lost"}}\n\ndata: [DONE]\n\n')
        return response

    server.complete = fail
    file = tmp_path / "figures.json"
    arguments = ["--requests", "2", "--rate", "50", "--json", str(file)]
    assert main(["--url", server.url, *arguments]) == 1
    errors = json.loads(file.read_text())["errors"]
    assert errors == ["lost", "the stream ended without [DONE]"]


def test_an_interrupt_still_writes_what_there_is(server: FakeServer, tmp_path: Path) -> None:
    async def hang_on_the_second(http: web.Request) -> web.StreamResponse:
        if len(server.bodies) == 1:
            return await server.stream(http)
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.Event().wait()
        raise AssertionError("cancelled before")

    server.complete = hang_on_the_second
    file = tmp_path / "figures.json"
    arguments = ["--requests", "9", "--rate", "2", "--json", str(file)]
    assert main(["--url", server.url, *arguments]) == 130
    figures = json.loads(file.read_text())
    assert (figures["completed"], figures["failed"]) == (1, 1)
    assert figures["errors"] == ["", "interrupted"]
