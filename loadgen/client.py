"""One server over HTTP: which models it has, and one streamed completion after another.

Every request has a connection of its own, and its body is ready before its time comes, so that
what is measured is the server and not this client.
"""

import asyncio
import json
from dataclasses import dataclass, field
from time import perf_counter

import aiohttp

CONNECT = 10.0
"""Seconds to reach the server."""
SILENCE = 120.0
"""Seconds without a byte after which a stream counts as dead; servers send comments."""
_MAX_MESSAGE = 500


class ServerError(Exception):
    """The server cannot be measured at all; says what to do."""


@dataclass
class Outcome:
    """What became of one request; times in seconds."""

    start: float
    """After the start of the run."""
    delay: float
    """How late this client was to send it."""
    arrivals: list[float] = field(default_factory=list)
    """Seconds after `start` at which a piece of text came."""
    latency: float = 0.0
    num_input: int = 0
    num_output: int = 0
    error: str = "interrupted"
    """Empty after success."""

    @property
    def ok(self) -> bool:
        """Whether the whole answer came."""
        return not self.error

    @property
    def ttft(self) -> float:
        """Seconds to the first piece."""
        return self.arrivals[0] if self.arrivals else 0.0

    @property
    def gaps(self) -> list[float]:
        """Seconds between one piece and the next."""
        pairs = zip(self.arrivals, self.arrivals[1:], strict=False)
        return [later - earlier for earlier, later in pairs]


class Client:
    """Talks to one server; use it as `async with`."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "Client":
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT, sock_read=SILENCE)
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        self._session = aiohttp.ClientSession(timeout=timeout, connector=connector)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def choose_model(self, wanted: str | None) -> str:
        """The model to measure: the one named, or the server's first.

        Raises:
            ServerError: no server there, or it does not have the model.
        """
        models = await self._models()
        if wanted is None:
            return models[0]
        if wanted not in models:
            raise ServerError(f"the server has no model '{wanted}'; it has {', '.join(models)}")
        return wanted

    async def complete(self, body: bytes, outcome: Outcome) -> None:
        """Send one request and fill in its outcome."""
        begin = perf_counter()
        try:
            outcome.error = await self._stream(body, outcome, begin)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            outcome.error = f"{type(error).__name__}: {error}"[:_MAX_MESSAGE]
        outcome.latency = perf_counter() - begin

    async def _models(self) -> list[str]:
        try:
            async with asyncio.timeout(CONNECT), self._get("/v1/models") as answer:
                listing = await answer.json()
                models = [str(model["id"]) for model in listing["data"]]
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise ServerError(f"no server answers at {self._url}: {reason}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise ServerError(f"{self._url}/v1/models is not that of an OpenAI API") from error
        if not models:
            raise ServerError(f"the server at {self._url} has no model")
        return models

    def _get(self, path: str) -> aiohttp.client._RequestContextManager:
        assert self._session is not None
        return self._session.get(self._url + path, raise_for_status=True)

    async def _stream(self, body: bytes, outcome: Outcome, begin: float) -> str:
        assert self._session is not None
        headers = {"Content-Type": "application/json"}
        url = self._url + "/v1/completions"
        async with self._session.post(url, data=body, headers=headers) as answer:
            if answer.status != 200:
                return f"{answer.status}: {await answer.text()}"[:_MAX_MESSAGE]
            async for line in answer.content:
                if line.startswith(b"data: [DONE]"):
                    return ""
                if line.startswith(b"data: ") and (error := _note(line[6:], outcome, begin)):
                    return error
        return "the stream ended without [DONE]"


def _note(data: bytes, outcome: Outcome, begin: float) -> str:
    event = json.loads(data)
    if "error" in event:
        return str(event["error"].get("message", "error"))[:_MAX_MESSAGE]
    if event.get("choices"):
        outcome.arrivals.append(perf_counter() - begin)
    if usage := event.get("usage"):
        outcome.num_input = usage["prompt_tokens"]
        outcome.num_output = usage["completion_tokens"]
    return ""
