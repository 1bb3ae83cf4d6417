"""Bearer keys, of which a file holds names and SHA-256 digests, never the keys themselves.

One line each: `NAME SHA256HEX [REQUESTS-PER-MINUTE]`; `#` begins a comment.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from common.errors import ConfigError

MAX_FILE = 1 << 20
"""Bytes of a file of keys."""
MAX_KEYS = 1024
"""Every request is compared with all of them."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_LIMIT = re.compile(r"[1-9][0-9]{0,8}")


class Key(Struct, frozen=True):
    """What is known of one key."""

    name: str
    digest: str
    """SHA-256 of the key, in lower-case hexadecimal digits."""
    per_minute: int | None = None
    """Requests per minute that it may make."""


def fresh() -> str:
    """A new key of 256 random bits."""
    return f"tetris-{secrets.token_urlsafe(32)}"


def line(name: str, key: str, per_minute: int | None = None) -> str:
    """The line that lets a key in.

    Raises:
        ConfigError: the name cannot be one.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name[:64]!r} is no name: letters, digits and . _ - (at most 64)")
    limit = "" if per_minute is None else f" {per_minute}"
    return f"{name} {_digest(key.encode())}{limit}"


def find(keys: Sequence[Key], given: bytes) -> Key | None:
    """The key that was given, or None; takes as long whichever it is."""
    digest = _digest(given).encode()
    found = None
    for key in keys:
        if hmac.compare_digest(digest, key.digest.encode()):
            found = key
    return found


def read(path: str, setting: str) -> tuple[Key, ...]:
    """The keys of a file.

    Args:
        path: of the file.
        setting: the configuration's key that names it, for errors.

    Raises:
        ConfigError: naming file and line.
    """
    try:
        with Path(path).open("rb") as file:
            text = file.read(MAX_FILE + 1).decode()
    except OSError as error:
        raise ConfigError(f"{setting}: {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{setting}: {path}: not UTF-8") from None
    keys: dict[str, Key] = {}
    for number, content in enumerate(text.splitlines(), start=1):
        words = content.partition("#")[0].split()
        if not words:
            continue
        try:
            key = _key(words, keys)
        except ConfigError as error:
            raise ConfigError(f"{setting}: {path}:{number}: {error}") from None
        keys[key.name] = key
    if not 1 <= len(keys) <= MAX_KEYS or len(text) > MAX_FILE:
        raise ConfigError(f"{setting}: {path}: must hold 1 to {MAX_KEYS} keys")
    return tuple(keys.values())


def _key(words: list[str], known: dict[str, Key]) -> Key:
    # A line may hold a key by mistake, so that none is quoted.
    if len(words) not in (2, 3):
        raise ConfigError("a line is NAME SHA256HEX [REQUESTS-PER-MINUTE]")
    name, digest, *limit = words
    if not _NAME.fullmatch(name):
        raise ConfigError("the name holds more than letters, digits and . _ - (at most 64)")
    if not _DIGEST.fullmatch(digest):
        raise ConfigError("the second word is no SHA-256 of 64 lower-case hexadecimal digits")
    if limit and not _LIMIT.fullmatch(limit[0]):
        raise ConfigError("requests per minute must be a whole number above 0")
    if name in known:
        raise ConfigError("this name is there already")
    if any(digest == key.digest for key in known.values()):
        raise ConfigError("this key is there already, under another name")
    return Key(name, digest, int(limit[0]) if limit else None)


def _digest(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()
