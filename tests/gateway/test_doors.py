"""What is refused at the doors, byte by byte; how long the loop stands still is bench_doors'."""

import asyncio
import json
import re
import socket

import pytest

from tests.gateway.bench import COMPLETION, Bench, Client, accept, say

POST = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
BODY = json.dumps(COMPLETION).encode()
HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


class Raw:
    """A connection on which bytes are sent as they are."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, client: Client) -> "Raw":
        return cls(*await asyncio.open_connection("127.0.0.1", client.port))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def rest(self) -> bytes:
        """All that comes until the other side closes; nothing if it is cut."""
        try:
            return await self.reader.read()
        except ConnectionError:
            return b""
        finally:
            self.writer.close()

    async def answer(self) -> tuple[int, bytes]:
        """One answer; the connection stays open."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"Content-Length: (\d+)", head)
        body = await self.reader.readexactly(int(length[1]) if length else 0)
        return int(head.split(b" ")[1]), body


async def ask(client: Client, data: bytes) -> bytes:
    raw = await Raw.open(client)
    raw.send(data)
    return await raw.rest()


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


async def posted(client: Client, body: bytes) -> bytes:
    """The answer to a whole body."""
    length = b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    return await ask(client, POST + length + body)


async def is_well(client: Client) -> None:
    assert (await client.get("/health"))[0] == 200
    assert (await client.post("/v1/completions", COMPLETION))[0] == 200


def test_a_head_that_does_not_come_is_not_waited_for(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        silent, slow, later = [await Raw.open(client) for _ in range(3)]
        slow.send(HEALTH[:20])
        later.send(HEALTH)
        assert (await later.answer())[0] == 200
        later.send(HEALTH[:20])
        assert await silent.rest() == b""
        for raw in (slow, later):
            answer = await raw.rest()
            assert status(answer) == 408
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == 408
        await is_well(client)

    bench(say("hello"), scenario, header_timeout=0.2)


def test_letter_by_letter_is_no_way_around_the_time_of_a_head(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        raw = await Raw.open(client)
        raw.send(b"GET /health HTTP/1.1\r\n")
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(raw.rest())
            # Were it endless, the bench would end it.
            while not reading.done():
                raw.send(b"a")
                await asyncio.sleep(0.01)
        # Cut while it still sends, a client may see only the cut.
        answer = reading.result()
        assert answer == b"" or status(answer) == 408
        await is_well(client)

    bench(say("hello"), scenario, header_timeout=0.3)


def test_a_connection_that_rests_between_requests_is_kept(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        raw = await Raw.open(client)
        for _ in range(3):
            raw.send(HEALTH)
            assert (await raw.answer())[0] == 200
            # Longer than a head may take.
            await asyncio.sleep(0.3)
        raw.writer.close()

    bench(say("hello"), scenario, header_timeout=0.2)


def test_a_request_that_takes_long_is_not_late(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        raw = await Raw.open(client)
        raw.send(POST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
        await client.mesh.until(lambda: len(client.mesh.facts.open) == 1)
        await asyncio.sleep(0.4)
        client.mesh.tokens(client.mesh.submits[0], "hello")
        assert (await raw.answer())[0] == 200
        raw.writer.close()

    bench(accept, scenario, header_timeout=0.2)


def test_a_body_that_does_not_come_is_not_waited_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.doors.bodies.BODY", 0.2)
    monkeypatch.setattr("gateway.app.LINGER", 0.2)

    async def scenario(client: Client) -> None:
        half = await ask(client, POST + b"Content-Length: 1000\r\n\r\n" + BODY)
        assert status(half) == 408
        chunked = POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{"
        assert status(await ask(client, chunked)) == 408
        assert client.mesh.submits == []
        await is_well(client)

    bench(say("hello"), scenario)


GIANT_HEADS = {
    "line": b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "endless line": b"GET /" + b"a" * 300_000,
    "name": b"GET /health HTTP/1.1\r\n" + b"a" * 9000 + b": b\r\n\r\n",
    "value": b"GET /health HTTP/1.1\r\na: " + b"b" * 9000 + b"\r\n\r\n",
    "endless value": b"GET /health HTTP/1.1\r\na: " + b"b" * 300_000,
    "many": b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 200 + b"\r\n",
    "endless many": b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 20_000,
}


@pytest.mark.parametrize("head", GIANT_HEADS.values(), ids=GIANT_HEADS.keys())
def test_a_giant_head_is_refused(bench: Bench, head: bytes) -> None:
    async def scenario(client: Client) -> None:
        answer = await ask(client, head)
        # Cut while it still sends, a client may see only the cut.
        assert answer == b"" or status(answer) == 400
        await is_well(client)

    bench(say("hello"), scenario)


def test_a_hundred_megabytes_are_refused_and_not_read(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.app.LINGER", 0.3)
    piece = b"x" * ((1 << 20) - 2) + b"\r\n"

    async def sent(client: Client, head: bytes, start: bytes = b"") -> tuple[int, int]:
        """The status, and the bytes that were taken; nothing is read until all were tried."""
        loop = asyncio.get_running_loop()
        with socket.socket() as raw:
            raw.setblocking(False)
            await loop.sock_connect(raw, ("127.0.0.1", client.port))
            await loop.sock_sendall(raw, head + b"\r\n")
            answer = await loop.sock_recv(raw, 4096) if not start else b""
            taken = 0
            try:
                async with asyncio.timeout(5):
                    while taken < 100 << 20:
                        await loop.sock_sendall(raw, start + piece)
                        taken += len(piece)
            except ConnectionError:
                pass
            if not answer:
                try:
                    answer = await loop.sock_recv(raw, 4096)
                except ConnectionError:
                    # The cut came first; that it was refused shows in what was taken.
                    return 413, taken
        return status(answer), taken

    async def scenario(client: Client) -> None:
        said, taken = await sent(client, POST + b"Content-Length: 104857600\r\n")
        assert said == 413
        assert taken < 40 << 20
        start = b"%x\r\n" % ((1 << 20) - 2)
        said, taken = await sent(client, POST + b"Transfer-Encoding: chunked\r\n", start)
        assert said in (400, 413)
        assert taken < 60 << 20
        assert client.mesh.submits == []
        await is_well(client)

    bench(say("hello"), scenario)


def test_a_body_that_is_a_bit_too_large_is_taken_before_it_is_refused(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        for _ in range(3):
            assert status(await posted(client, b" " * 9_000_000)) == 413

    bench(say("hello"), scenario)


def test_a_body_nobody_asked_for_is_not_read_either(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.app.LINGER", 0.3)

    async def scenario(client: Client) -> None:
        for line in (b"GET /health", b"POST /nothing", b"DELETE /health"):
            raw = await Raw.open(client)
            raw.send(line + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 104857600\r\n\r\n")
            answer, _ = await raw.answer()
            assert answer in (200, 404, 405)
            with pytest.raises(ConnectionError):
                for _ in range(100):
                    raw.send(b"x" * (1 << 20))
                    await raw.writer.drain()
            raw.writer.close()
        await is_well(client)

    bench(say("hello"), scenario)


def test_compressed_bodies_and_too_many_values_are_refused(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        for packing in ("gzip", "deflate", "br", "zstd", "gzip, identity"):
            packed = {"Content-Encoding": packing}
            answered, error, _ = await client.post("/v1/completions", COMPLETION, **packed)
            assert (answered, error["error"]["code"]) == (415, 415)
        for body in (b'{"prompt": [' + b"[]," * 1_000_000 + b"1]}", b"[" * 1_000_000):
            answer = await posted(client, body)
            assert status(answer) == 400
            assert b"values" in answer
        # As many commas inside a text are no values.
        text = json.dumps(COMPLETION | {"prompt": "," * 1_000_000, "model": "other"}).encode()
        assert status(await posted(client, text)) == 404

    bench(say("hello"), scenario)


def test_connections_beyond_the_limits_are_told_to_come_back(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        held = [await Raw.open(client) for _ in range(3)]
        for raw in held:
            raw.send(HEALTH)
            assert (await raw.answer())[0] == 200
        refused = await (await Raw.open(client)).rest()
        assert status(refused) == 503
        assert b"Retry-After: 1\r\n" in refused
        assert json.loads(refused.partition(b"\r\n\r\n")[2])["error"]["code"] == 503
        for raw in held:
            raw.writer.close()
            await raw.writer.wait_closed()
        answer = b" 503"
        while status(answer) == 503:
            answer = await ask(
                client, HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
            )
        assert status(answer) == 200

    # One more is the bench's own.
    bench(say("hello"), scenario, max_connections=100, max_connections_per_host=4)


def test_who_does_not_read_an_answer_is_cut_off(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.doors.connections.WRITE", 0.3)

    async def scenario(client: Client) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket() as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            raw.setblocking(False)
            await loop.sock_connect(raw, ("127.0.0.1", client.port))
            request = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
            with pytest.raises(ConnectionError):
                async with asyncio.timeout(10):
                    while True:
                        await loop.sock_sendall(raw, request * 100)
        await is_well(client)

    bench(say("hello"), scenario)


SMUGGLED = {
    "both lengths": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n{}",
    "a list of lengths": b"Content-Length: 5, 6\r\n\r\n{}",
    "a signed length": b"Content-Length: +2\r\n\r\n{}",
    "a hexadecimal length": b"Content-Length: 0x2\r\n\r\n{}",
    "an unknown coding": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked twice": b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "chunked but not last": b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "a space before the colon": b"Content-Length : 2\r\n\r\n{}",
    "a folded header": b"X-A: b\r\n Content-Length: 2\r\n\r\n{}",
    "a bare newline": b"X-A: b\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a null in a header": b"X-A: b\0c\r\n\r\n",
    "a null in a name": b"X\0A: b\r\n\r\n",
    "a chunk size that is none": b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("headers", SMUGGLED.values(), ids=SMUGGLED.keys())
def test_a_request_with_two_readings_gets_at_most_a_400_and_the_connection_ends(
    bench: Bench, headers: bytes
) -> None:
    async def scenario(client: Client) -> None:
        hidden = b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n"
        answer = await ask(client, POST + headers + hidden)
        assert status(answer) in (400, 415)
        assert b'"version"' not in answer
        assert client.mesh.submits == []
        await is_well(client)

    bench(say("hello"), scenario)


END = b"Host: x\r\nConnection: close\r\n\r\n"
ODD = {
    "no method": b"/health HTTP/1.1\r\n\r\n",
    "unknown method": b"BREW /health HTTP/1.1\r\n" + END,
    "method of bytes": b"\xff\xfe /health HTTP/1.1\r\nHost: x\r\n\r\n",
    "connect": b"CONNECT a:1 HTTP/1.1\r\n" + END,
    "trace": b"TRACE /health HTTP/1.1\r\n" + END,
    "upgrade": b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\n"
    b"Upgrade: h2c\r\n\r\n",
    "expectation": b"POST /tokenize HTTP/1.1\r\nExpect: tea\r\n" + END,
    "http/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "http/9": b"GET /health HTTP/9.9\r\n" + END,
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,
    "null in the path": b"GET /hea\0lth HTTP/1.1\r\n" + END,
    "encoded null": b"GET /v1/models/%00 HTTP/1.1\r\n" + END,
    "dots": b"GET /../../etc/passwd HTTP/1.1\r\n" + END,
    "absolute": b"GET http://evil.example/health HTTP/1.1\r\n" + END,
    "broken absolute": b"GET http://[::1/ HTTP/1.1\r\n" + END,
    "bad port": b"GET http://a:99999999/ HTTP/1.1\r\n" + END,
    "bytes in a header": b"GET /health HTTP/1.1\r\nHost: \xff\xfe\r\nConnection: close\r\n\r\n",
    "bytes in an id": b"GET /health HTTP/1.1\r\nHost: x\r\nx-request-id: \xff\xc3\r\n"
    b"Connection: close\r\n\r\n",
    "bytes in a type": b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Type: \xff/\xc3\r\n"
    b"Content-Length: 2\r\nConnection: close\r\n\r\n{}",
    "bytes in a coding": POST + b"Content-Encoding: \xff\r\nContent-Length: 2\r\n"
    b"Connection: close\r\n\r\n{}",
    "deep": POST + b"Content-Length: 100013\r\nConnection: close\r\n\r\n"
    b'{"messages": ' + b"[" * 100_000,
    "deep tokens": b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b'Content-Length: 100013\r\nConnection: close\r\n\r\n{"messages": ' + b"[" * 100_000,
    "cookies": b"GET /health HTTP/1.1\r\nCookie: \xff=\xff; ;;=\r\n" + END,
}


def test_odd_requests_are_no_errors_of_ours(
    bench: Bench, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    async def scenario(client: Client) -> None:
        for name, request in ODD.items():
            answer = await ask(client, request)
            assert answer == b"" or status(answer) < 500, name
            assert answer == b"" or status(answer) != 200 or b"/health" in request, name
        _, metrics, _ = await client.get("/metrics")
        for odd in ("BREW", "TRACE", "CONNECT", "evil"):
            assert odd not in metrics
        assert client.mesh.submits == []
        await is_well(client)

    bench(say("hello"), scenario)
    said = caplog.text + "".join(capfd.readouterr())
    assert "Traceback" not in said
    assert "evil" not in said
