import asyncio

import pytest

from compose.readiness import Readiness

NEEDED = {"prefill-worker": 2, "decode-worker": 1}
OK = b"HTTP/1.1 200 OK\r\n\r\n"


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
            return await Readiness("127.0.0.1", port, NEEDED)(), bytes(seen)

    return asyncio.run(main())


@pytest.mark.parametrize(
    "body",
    [
        b'{"ready": true, "missing": []}',
        b'{"ready": true, "missing": [], "members": {"prefill-worker": 3, "decode-worker": 1}}',
    ],
)
def test_two_hundred_with_all_members_is_ready(body: bytes) -> None:
    waiting_for, request = ask(OK + body)
    assert waiting_for is None
    assert request.startswith(b"GET /ready HTTP/1.0\r\n")


def test_who_has_not_joined_yet_is_waited_for() -> None:
    body = b'{"missing": [], "members": {"prefill-worker": 1, "decode-worker": 1}}'
    assert ask(OK + body)[0] == "waiting for prefill-worker (1 of 2)"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"ready": false, "missing": ["router", "decode-worker"]}', "router, decode-worker"),
        (b"not JSON", "the gateway"),
        (b"[]", "the gateway"),
        (b"{}", "the gateway"),
        (b'{"missing": 1}', "the gateway"),
    ],
)
def test_anything_else_waits_and_names_what_is_missing(body: bytes, text: str) -> None:
    waiting_for, _ = ask(b"HTTP/1.1 503 Service Unavailable\r\n\r\n" + body)
    assert waiting_for == f"waiting for {text}"


@pytest.mark.parametrize("answer", [b"", b"nonsense", b"\r\n\r\n", OK])
def test_no_answer_is_not_ready(answer: bytes) -> None:
    assert ask(answer)[0] == "waiting for the gateway"


def test_a_closed_door_waits_for_the_gateway() -> None:
    async def main() -> str | None:
        server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        return await Readiness("127.0.0.1", port, NEEDED)()

    assert asyncio.run(main()) == "waiting for the gateway"
