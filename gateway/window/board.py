"""The board: one page that draws the pool live. It holds no data; the event stream brings that.

The page may run its own inline script and style, known by their hashes, and talk to this door.
"""

import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

from aiohttp import web

_PAGE = Path(__file__).with_name("board.html").read_bytes()


def _hashes(page: bytes, tag: bytes) -> str:
    """The sources that allow exactly the elements of this name that stand in the page."""
    found = re.findall(b"<%b>(.*?)</%b>" % (tag, tag), page, re.DOTALL)
    return " ".join(f"'sha256-{b64encode(sha256(text).digest()).decode()}'" for text in found)


HEADERS = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hashes(_PAGE, b'script')}",
            f"style-src {_hashes(_PAGE, b'style')}",
            "img-src data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
        )
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


async def board(_: web.Request) -> web.Response:
    """`GET /tetris/board`."""
    return web.Response(body=_PAGE, content_type="text/html", charset="utf-8", headers=HEADERS)
