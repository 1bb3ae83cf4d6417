import asyncio
import json
from pathlib import Path

import pytest

from common import keys
from common.config import GatewayConfig
from common.errors import ConfigError
from gateway.doors.guard import Keyring, control_guards, is_loopback
from gateway.errors import Refusal
from tests.gateway.bench import COMPLETION, Bench, Client, say
from tests.gateway.test_control import answer
from tests.gateway.test_service import leaf

GUARDED = [
    ("POST", "/v1/completions"),
    ("POST", "/v1/chat/completions"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/tiny"),
    ("GET", "/v1/nothing"),
    ("GET", "/%761/models"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
]
FREE = ["/live", "/health", "/ready", "/load", "/version", "/metrics", "/openapi.json"]


def written(path: Path, name: str, per_minute: int | None = None) -> tuple[str, str]:
    """A new key and the file that knows it."""
    key = keys.fresh()
    (path / name).write_text(keys.line(name, key, per_minute))
    return key, str(path / name)


def test_what_generates_or_tells_of_models_needs_a_key_and_probes_do_not(
    bench: Bench, tmp_path: Path
) -> None:
    key, file = written(tmp_path, "client")

    async def scenario(client: Client) -> None:
        for method, path in GUARDED:
            for given in ({}, {"Authorization": f"Bearer {key}x"}):
                async with client.session.request(method, client.url + path, headers=given) as got:
                    assert got.status == 401, path
                    assert got.headers["WWW-Authenticate"] == "Bearer"
                    error = (await got.json())["error"]
                    assert error["type"] == "AuthenticationError"
                    assert error["code"] == "invalid_api_key"
        for path in FREE:
            assert (await client.get(path))[0] == 200, path
        status, *_ = await client.post(
            "/v1/completions", COMPLETION, Authorization=f"bearer  {key}"
        )
        assert status == 200
        assert len(client.mesh.submits) == 1

    bench(say("hello"), scenario, keys=file)


def test_a_key_that_asks_too_often_is_told_when_to_come_back(bench: Bench, tmp_path: Path) -> None:
    key, file = written(tmp_path, "client", per_minute=2)

    async def scenario(client: Client) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        statuses = []
        for _ in range(3):
            async with client.session.get(client.url + "/v1/models", headers=headers) as got:
                statuses.append(got.status)
                after, body = got.headers.get("Retry-After"), await got.json()
        assert statuses == [200, 200, 429]
        assert 1 <= int(after or "0") <= 30
        assert body["error"]["type"] == "RateLimitError"

    bench(say("hello"), scenario, keys=file)


def test_the_operators_door_has_keys_of_its_own(bench: Bench, tmp_path: Path) -> None:
    key, file = written(tmp_path, "client")
    operator, control = written(tmp_path, "operator")

    async def scenario(client: Client) -> None:
        client.mesh.answer = answer
        for given, expected in ((None, 401), (key, 401), (operator, 200)):
            headers = {} if given is None else {"Authorization": f"Bearer {given}"}
            for path in ("/tetris/status", "/update"):
                async with client.session.get(client.control + path, headers=headers) as got:
                    assert got.status == expected
        async with client.session.get(
            client.url + "/v1/models", headers={"Authorization": f"Bearer {operator}"}
        ) as got:
            assert got.status == 401

    bench(say("hello"), scenario, keys=file, control_keys=control)


def test_neither_keys_nor_headers_get_into_the_log_or_an_answer(
    bench: Bench,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    key, file = written(tmp_path, "client")

    async def scenario(client: Client) -> None:
        for given in (f"Bearer {key}", f"Bearer {key}-wrong", f"Basic {key}"):
            headers = {"Authorization": given}
            async with client.session.get(client.url + "/v1/models", headers=headers) as got:
                assert key not in await got.text()
        assert key not in (await client.get("/metrics"))[1]

    bench(say("hello"), scenario, keys=file)
    assert key not in caplog.text + "".join(capfd.readouterr())


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [""],
        ["Bearer"],
        ["Bearer "],
        ["secret"],
        ["Basic secret"],
        ["Bearer secret secret"],
        ["Bearer secret", "Bearer secret"],
        ["Bearer s\udcffcret"],
        ["Bearer " + "x" * 8000],
    ],
)
def test_only_one_bearer_header_with_a_known_key_lets_in(headers: list[str]) -> None:
    digest = keys.line("a", "secret").split()[1]
    ring = Keyring([keys.Key("a", digest)], 0.0)
    with pytest.raises(Refusal) as refused:
        ring.admit(headers, 0.0)
    assert refused.value.status == 401
    ring.admit(["Bearer secret"], 0.0)
    ring.admit(["BEARER secret"], 0.0)


def test_the_digest_of_nothing_lets_nobody_in_without_a_key() -> None:
    # As `printf %s "$KEY" | sha256sum` makes it, where there is no such variable.
    digest = keys.line("a", "").split()[1]
    ring = Keyring([keys.Key("a", digest)], 0.0)
    for headers in ([], [""], ["Bearer "]):
        with pytest.raises(Refusal):
            ring.admit(headers, 0.0)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.1.2.3", "gateway.example"])
def test_a_control_door_for_other_machines_needs_keys(host: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        control_guards(GatewayConfig(control_host=host), lambda: 0.0)
    assert "gateway.control_host" in str(wrong.value)
    assert "gateway.control_keys" in str(wrong.value)


def test_such_a_door_and_a_bad_file_of_keys_stop_the_start(bench: Bench, tmp_path: Path) -> None:
    bad = tmp_path / "keys"
    bad.write_text("bob\n")

    async def scenario(client: Client) -> None:
        raise AssertionError("the gateway must not start")

    for settings in ({"control_host": "0.0.0.0"}, {"keys": str(bad)}, {"control_keys": str(bad)}):
        with pytest.raises(ExceptionGroup) as failed:
            bench(say("hello"), scenario, **settings)
        assert isinstance(leaf(failed.value.subgroup(ConfigError)), ConfigError), settings


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1:8001", 200),
        ("127.0.0.2", 200),
        ("localhost:1234", 200),
        ("LOCALHOST", 200),
        ("[::1]:8001", 200),
        ("evil.example", 403),
        ("evil.example:8001", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example:8001", 403),
        ("10.0.0.1:8001", 403),
        ("localhost:x", 403),
        ("", 403),
    ],
)
def test_without_keys_operators_call_this_machine_by_its_local_names(
    bench: Bench, host: str, expected: int
) -> None:
    async def scenario(client: Client) -> None:
        client.mesh.answer = answer
        headers = {"Host": host}
        async with client.session.get(client.control + "/tetris/status", headers=headers) as got:
            body = json.loads(await got.text())
            assert got.status == expected
        if expected == 403:
            assert body["error"]["type"] == "PermissionDeniedError"
            assert client.mesh.questions == []

    bench(say("hello"), scenario)


def test_a_request_without_or_with_two_hosts_is_not_local(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        port = int(client.control.rpartition(":")[2])
        for hosts in (b"", b"Host: localhost\r\nHost: localhost\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /tetris/status HTTP/1.0\r\n" + hosts + b"\r\n")
            assert (await reader.read()).split(b" ")[1] in (b"400", b"403")
            writer.close()

    bench(say("hello"), scenario)


def test_loopback_is_judged_by_address_and_by_one_name() -> None:
    assert all(map(is_loopback, ["127.0.0.1", "127.9.9.9", "::1", "localhost"]))
    assert not any(map(is_loopback, ["", "0.0.0.0", "::", "10.0.0.1", "localhost.example", "host"]))
