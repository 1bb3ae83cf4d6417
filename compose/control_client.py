"""Talks HTTP to the operators' door of a gateway."""

import http.client
import re
import urllib.error
import urllib.parse
import urllib.request

import msgspec

from common.errors import ConfigError, TetrisError

TIMEOUT = 10.0
LONGEST_ANSWER = 16 << 20
_KEY = re.compile(r"[\x21-\x7e]{1,1024}")


class ControlError(TetrisError):
    """The door gave no answer, or an answer that the user has to be told."""


class Unreachable(ControlError):
    """Nobody answers at the door."""


class _Reason(msgspec.Struct, frozen=True):
    message: str


class _Refusal(msgspec.Struct, frozen=True):
    error: _Reason


class ControlClient:
    """One door.

    Args:
        url: of the door.
        key: for a door that asks for one.

    Raises:
        ConfigError: the URL or the key cannot be one.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"{url!r} is no URL of a control port, such as http://127.0.0.1:8001")
        if key is not None and not _KEY.fullmatch(key):
            raise ConfigError("the key of the control port is no single word")
        self.url = url.rstrip("/")
        self._key = key
        # A proxy of the environment leads elsewhere than to this machine or its private network.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def get(self, path: str) -> bytes:
        """The body behind a path.

        Raises:
            ControlError: with words for the user.
        """
        return self._fetch(urllib.request.Request(self.url + path))

    def post(self, path: str, body: object) -> bytes:
        """The body of the answer to a JSON body.

        Raises:
            ControlError: with words for the user.
        """
        data = msgspec.json.encode(body)
        head = {"Content-Type": "application/json"}
        return self._fetch(urllib.request.Request(self.url + path, data, head))

    def _fetch(self, request: urllib.request.Request) -> bytes:
        if self._key is not None:
            # Not for whoever a redirect leads to.
            request.add_unredirected_header("Authorization", f"Bearer {self._key}")
        try:
            with self._opener.open(request, timeout=TIMEOUT) as answer:
                body: bytes = answer.read(LONGEST_ANSWER)
                return body
        except urllib.error.HTTPError as refusal:
            with refusal:
                raise ControlError(self._reason(refusal)) from None
        except urllib.error.URLError as error:
            raise Unreachable(self._advice(str(error.reason))) from None
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(self._advice(str(error) or type(error).__name__)) from None

    def _reason(self, refusal: urllib.error.HTTPError) -> str:
        try:
            body = msgspec.json.decode(refusal.read(LONGEST_ANSWER), type=_Refusal)
        except (msgspec.DecodeError, OSError):
            return f"{self.url} answers {refusal.code}: is that the control port of a mesh?"
        return body.error.message

    def _advice(self, reason: str) -> str:
        return (
            f"cannot reach {self.url} ({reason}). Is a mesh running? Its ready text names the "
            "address: give it with --url or TETRIS_CONTROL_URL"
        )
