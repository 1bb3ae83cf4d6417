import asyncio
import socket

import pytest

from gateway.doors import writing
from tests.gateway.bench import Bench, Client, accept
from tests.gateway.happenings import mesh_state, said
from tests.gateway.window.test_watching import arrived


def test_who_does_not_read_is_cut_off(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "WRITE", 0.1)

    async def scenario(client: Client) -> None:
        wide = mesh_state(1.0, [f"prefill-{i}" for i in range(1024)])
        for number in range(150):  # 17 MB, more than what the sockets take in
            await arrived(client, said(number, wide))
        host, _, port = client.control.removeprefix("http://").partition(":")
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.setblocking(False)
        await asyncio.get_running_loop().sock_connect(plain, (host, int(port)))
        reader, writer = await asyncio.open_connection(sock=plain, limit=1024)
        writer.write(b"GET /tetris/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert await reader.read(15) == b"HTTP/1.1 200 OK"
        async with asyncio.timeout(10):
            await asyncio.sleep(0.5)
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await reader.readexactly(1 << 30)
        writer.close()

    bench(accept, scenario)
