import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

from gateway.window import board
from tests.gateway.bench import Bench, Client, accept

PAGE = (Path(board.__file__).parent / "board.html").read_text()


def sources(directive: str) -> list[str]:
    policy = dict(
        part.strip().split(" ", 1)
        for part in board.HEADERS["Content-Security-Policy"].split(";")
        if " " in part.strip()
    )
    return policy[directive].split()


def test_the_page_is_at_the_operators_door_with_strict_headers_and_nowhere_else(
    bench: Bench,
) -> None:
    async def scenario(client: Client) -> None:
        async with client.session.get(client.control + "/tetris/board") as reply:
            assert reply.status == 200
            assert reply.content_type == "text/html"
            assert await reply.text() == PAGE
            assert reply.headers["Referrer-Policy"] == "no-referrer"
            assert reply.headers["X-Content-Type-Options"] == "nosniff"
            assert "Access-Control-Allow-Origin" not in reply.headers
            policy = reply.headers["Content-Security-Policy"]
            assert policy.startswith("default-src 'none'; ")
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
        assert (await client.get("/tetris/board"))[0] == 404

    bench(accept, scenario)


def test_the_policy_allows_the_pages_own_script_and_style_and_nothing_else() -> None:
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", PAGE, re.DOTALL)
        digest = b64encode(sha256(text.encode()).digest()).decode()
        assert sources(directive) == [f"'sha256-{digest}'"]
    assert sources("connect-src") == ["'self'"]


def test_the_page_has_nothing_that_its_policy_would_block_or_that_comes_from_elsewhere() -> None:
    body = re.sub("<(script|style)>.*?</\\1>", "", PAGE, flags=re.DOTALL)
    assert not re.search(r"\s(style|on\w+)=", body)
    assert not re.search(r"<(script|link|img|iframe|object)[^>]*(src|href)=.(?!data:)", PAGE)
    assert set(re.findall(r"https?://[^'\"\s>]+", PAGE)) == {"http://www.w3.org/2000/svg"}
    for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert sink not in PAGE


def test_other_text_between_the_tags_has_another_hash() -> None:
    one, other = (board._hashes(b"<style>%b</style>" % text, b"style") for text in (b"a", b"b"))
    assert one != other
