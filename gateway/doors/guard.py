"""Who is let in: bearer keys at both doors, and local names only where the control door has none.

Neither keys nor headers are ever logged or repeated.
"""

import ipaddress
import math
import re
from collections.abc import Callable, Sequence

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from common.config import GatewayConfig
from common.errors import ConfigError
from common.keys import Key, find, read
from gateway.doors.allowance import Allowance
from gateway.errors import Refusal

CHALLENGE = "Bearer"
"""What a 401 asks for, in its `WWW-Authenticate`."""
GUARDED = ("/v1", "/tokenize", "/detokenize")
"""Beginnings of the public routes that need a key; probes and metrics never do."""
BOARD = "/tetris/board"
"""The one page of operators, which a browser opens without a key."""
_BEARER = re.compile(r"bearer +(\S+) *", re.IGNORECASE)


class Keyring:
    """The keys of one door and what each may still do; time is an argument."""

    def __init__(self, keys: Sequence[Key], now: float) -> None:
        self._keys = keys
        self._allowances = {
            key.name: Allowance(key.per_minute, now) for key in keys if key.per_minute is not None
        }

    def admit(self, authorization: Sequence[str], now: float) -> None:
        """Let a request in, judged by its `Authorization` headers.

        Raises:
            Refusal: 401 without a key that is known, 429 when that key has made too many requests.
        """
        match = _BEARER.fullmatch(authorization[0]) if len(authorization) == 1 else None
        # No key at all is none of ours, also where a file holds the digest of nothing.
        given = match.group(1).encode("utf-8", "surrogateescape") if match is not None else None
        key = None if given is None else find(self._keys, given)
        if key is None:
            raise Refusal(401, "A valid API key is needed.", code="invalid_api_key")
        if key.name not in self._allowances:
            return
        after = self._allowances[key.name].take(now)
        if after > 0:
            message = "This API key has made too many requests."
            raise Refusal(429, message, code="rate_limit_exceeded", retry_after=math.ceil(after))


def public_guards(config: GatewayConfig, now: Callable[[], float]) -> list[Middleware]:
    """What stands before the public routes.

    Raises:
        ConfigError: the file of keys, and its line.
    """
    if config.keys is None:
        return []
    keyring = Keyring(read(config.keys, "gateway.keys"), now())
    return [_ask_for_key(keyring, _is_guarded, now)]


def control_guards(config: GatewayConfig, now: Callable[[], float]) -> list[Middleware]:
    """What stands before the operators' routes.

    Raises:
        ConfigError: the file of keys, and its line; or a door that everybody could use.
    """
    if config.control_keys is not None:
        keyring = Keyring(read(config.control_keys, "gateway.control_keys"), now())
        return [_ask_for_key(keyring, _is_secret, now)]
    if not is_loopback(config.control_host):
        raise ConfigError(
            f"gateway.control_host: {config.control_host} can be reached from other machines, "
            "which needs gateway.control_keys"
        )
    return [_local_names(config.control_host)]


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _is_guarded(http: web.Request) -> bool:
    resource = http.match_info.route.resource
    path = http.path if resource is None else resource.canonical
    return any(path == start or path.startswith(f"{start}/") for start in GUARDED)


def _is_secret(http: web.Request) -> bool:
    # The page holds no data, and asks for the key that its stream of them needs.
    return http.path != BOARD


def _ask_for_key(
    keyring: Keyring, is_guarded: Callable[[web.Request], bool], now: Callable[[], float]
) -> Middleware:
    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if is_guarded(request):
            keyring.admit(request.headers.getall("Authorization", ()), now())
        return await handler(request)

    return guard


def _local_names(bound: str) -> Middleware:
    """A page whose own name was made to lead to this machine is not served."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.getall("Host", ())
        if len(given) != 1 or not _is_local(given[0], bound):
            raise Refusal(403, "Without keys this door answers to names of this machine only.")
        return await handler(request)

    return guard


def _is_local(host: str, bound: str) -> bool:
    name = re.sub(r":\d{1,5}$", "", host)
    if name.startswith("[") and name.endswith("]"):
        name = name[1:-1]
    return name.lower() == bound.lower() or is_loopback(name)
