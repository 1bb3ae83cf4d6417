"""The operators' door of a mesh, as a test asks it."""

import json
import urllib.error
import urllib.request
from typing import Any

WAIT = 10.0


def ask(url: str) -> Any:
    """The JSON behind an address; None when nobody answers, or not well."""
    try:
        with urllib.request.urlopen(url, timeout=WAIT) as answer:
            return json.load(answer)
    except (OSError, ValueError):
        return None


def status(url: str) -> dict[str, Any] | None:
    """Members, load and policy; None without a router or a gateway."""
    found = ask(f"{url}/tetris/status")
    return found if isinstance(found, dict) else None


def ledger(url: str) -> list[dict[str, Any]] | None:
    """What attempts hold at members."""
    found = ask(f"{url}/tetris/ledger")
    return found["entries"] if isinstance(found, dict) else None


def figures(url: str, *prefixes: str) -> dict[str, float]:
    """Metrics by name and labels, those that begin so; nothing when nobody answers."""
    try:
        with urllib.request.urlopen(f"{url}/metrics", timeout=WAIT) as answer:
            lines = [line.rsplit(" ", 1) for line in answer.read().decode().splitlines()]
    except (OSError, urllib.error.HTTPError):
        return {}
    return {line[0]: float(line[1]) for line in lines if line[0].startswith(prefixes)}


def post(url: str, body: object) -> tuple[int, Any]:
    """Status and JSON of the answer to a JSON body; 0 when nobody answers, or not well."""
    given = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), given)
    try:
        with urllib.request.urlopen(request, timeout=WAIT) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, json.load(refusal)
    except (OSError, ValueError):
        return 0, None
