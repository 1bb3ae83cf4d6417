import asyncio

import pytest

from compose.readiness import Readiness


def ask(answer: bytes) -> tuple[str | None, bytes]:
    """What the probe makes of an answer, and the request that it sent."""

    async def main() -> tuple[str | None, bytes]:
        seen = bytearray()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen.extend(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer)
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            return await Readiness("127.0.0.1", port)(), bytes(seen)

    return asyncio.run(main())


def test_two_hundred_is_ready() -> None:
    waiting_for, request = ask(b'HTTP/1.1 200 OK\r\n\r\n{"ready": true, "missing": []}')
    assert waiting_for is None
    assert request.startswith(b"GET /ready HTTP/1.0\r\n")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"ready": false, "missing": ["router", "decode-worker"]}', "router, decode-worker"),
        (b"not JSON", "answer"),
        (b"[]", "answer"),
        (b"{}", "answer"),
    ],
)
def test_anything_else_waits_and_names_what_is_missing(body: bytes, text: str) -> None:
    waiting_for, _ = ask(b"HTTP/1.1 503 Service Unavailable\r\n\r\n" + body)
    assert waiting_for == f"waiting for {text}"


@pytest.mark.parametrize("answer", [b"", b"nonsense", b"\r\n\r\n"])
def test_no_answer_is_not_ready(answer: bytes) -> None:
    assert ask(answer)[0] is not None


def test_a_closed_door_waits_for_the_gateway() -> None:
    async def main() -> str | None:
        server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        return await Readiness("127.0.0.1", port)()

    assert asyncio.run(main()) == "waiting for the gateway"
