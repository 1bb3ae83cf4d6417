"""A small HTTP server that answers as a gateway's control port does."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[[str, bytes], tuple[int, bytes]]
"""Status and body for a path and a request's body."""


@dataclass
class Door:
    """Where it listens and what was asked."""

    url: str
    seen: list[tuple[str, str, bytes]] = field(default_factory=list)
    headers: list[Message] = field(default_factory=list)


@contextmanager
def open_door(answer: Answer) -> Iterator[Door]:
    """Listen on a free port as long as the context lasts."""
    door = Door("")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply(b"")

        def do_POST(self) -> None:
            self.reply(self.rfile.read(int(self.headers["Content-Length"])))

        def reply(self, body: bytes) -> None:
            door.seen.append((self.command, self.path, body))
            door.headers.append(self.headers)
            status, text = answer(self.path, body)
            self.send_response(status)
            if status == 302:
                self.send_header("Location", text.decode())
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        door.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield door
        finally:
            server.shutdown()
            thread.join()
