import socket

import pytest

from common.errors import ConfigError
from compose.control_client import ControlClient, ControlError, Unreachable
from tests.compose.door import open_door


def test_bodies_come_and_go_as_json(monkeypatch: pytest.MonkeyPatch):
    # A proxy of the environment is not for this.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with open_door(lambda path, _: (200, path.encode())) as door:
        client = ControlClient(door.url + "/")
        assert client.get("/tetris/status") == b"/tetris/status"
        assert client.post("/tetris/drain", {"name": "x"}) == b"/tetris/drain"
    assert door.seen[-1] == ("POST", "/tetris/drain", b'{"name":"x"}')


def test_a_refusal_is_told_in_its_own_words():
    body = b'{"error": {"message": "no member nobody", "type": "NotFoundError"}}'
    with (
        open_door(lambda *_: (404, body)) as door,
        pytest.raises(ControlError, match=r"^no member nobody$"),
    ):
        ControlClient(door.url).post("/tetris/drain", {})


def test_a_stranger_behind_the_port_is_recognised():
    with (
        open_door(lambda *_: (500, b"<html>")) as door,
        pytest.raises(ControlError, match="answers 500: is that the control port of a mesh"),
    ):
        ControlClient(door.url).get("/tetris/status")


def test_nobody_there_says_what_to_do():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(Unreachable, match=f"cannot reach {url} .*refused.*--url"):
            ControlClient(url).get("/tetris/status")


def test_who_does_not_speak_http_is_unreachable():
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        server.settimeout(10)

        def speak(client: ControlClient) -> None:
            with pytest.raises(Unreachable):
                client.get("/")

        import threading

        asking = threading.Thread(target=speak, args=(ControlClient(url),))
        asking.start()
        accepted, _ = server.accept()
        with accepted:
            accepted.recv(1000)
            accepted.sendall(b"SSH-2.0\r\n")
        asking.join(10)
        assert not asking.is_alive()


@pytest.mark.parametrize("url", ["", "127.0.0.1:8001", "file:///etc/passwd", "http://"])
def test_what_is_no_url_is_a_wrong_call(url: str):
    with pytest.raises(ConfigError, match="no URL of a control port"):
        ControlClient(url)


def test_a_key_goes_to_the_door_and_to_nobody_that_it_leads_to():
    with open_door(lambda *_: (200, b"{}")) as stranger:
        elsewhere = stranger.url.encode()
        with open_door(lambda *_: (302, elsewhere)) as door:
            assert ControlClient(door.url, "secret").get("/tetris/status") == b"{}"
            assert door.headers[-1]["Authorization"] == "Bearer secret"
        assert len(stranger.seen) == 1
        assert "Authorization" not in stranger.headers[-1]


@pytest.mark.parametrize("key", ["", "two words", "line\nbreak", "ä"])
def test_what_is_no_key_is_a_wrong_call_and_not_repeated(key: str):
    with pytest.raises(ConfigError) as wrong:
        ControlClient("http://127.0.0.1:8001", key)
    assert not key or key not in str(wrong.value)
