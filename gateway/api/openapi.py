"""`GET /openapi.json`: every public route, what it takes and all that it may answer."""

from typing import Any

import msgspec
from aiohttp import web

from common.messages import ModelCard
from gateway.api.probes import METRICS_TYPE, version
from gateway.api.schemas import components, ref
from gateway.doors.bodies import JSON

Node = dict[str, Any]

REASONS = {
    400: "The request must be changed; `param` names what.",
    401: "No key, or an unknown one.",
    404: "There is no such model or route.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is not declared as plain JSON.",
    429: "This key has made too many requests.",
    500: "The request failed in the server.",
    503: "Not now: starting, stopping, full, or the mesh cannot serve.",
    504: "The time that the request may take is over.",
}
_READING = (400, 401, 404, 408, 413, 415, 429, 503)
_ASKING = (401, 429)
_EVENTS = (
    "Server-sent events when `stream` is true: chunks, with `include_usage` one more that has no "
    "choices, then `[DONE]`. A failure on the way is an event with `error`."
)


class Document:
    """The description of one gateway's door, made once.

    Args:
        card: the model that is served.
        vocabulary: number of its token ids.
        has_keys: whether clients need a key.
    """

    def __init__(self, card: ModelCard, vocabulary: int, *, has_keys: bool) -> None:
        self._has_keys = has_keys
        document: Node = {
            "openapi": "3.1.0",
            "info": {
                "title": "Tetris",
                "version": version(),
                "description": "Long-context LLM serving with an OpenAI-compatible API.",
            },
            "paths": self._paths(card),
            "components": {
                "schemas": components(card, vocabulary),
                "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            },
        }
        self._body = msgspec.json.encode(document)

    async def get(self, _: web.Request) -> web.Response:
        """`GET /openapi.json`."""
        return web.Response(body=self._body, content_type=JSON)

    def _paths(self, card: ModelCard) -> Node:
        return {
            "/v1/completions": {"post": self._generation("CompletionBody", "Completion")},
            "/v1/chat/completions": {
                "post": self._generation("ChatBody", "ChatCompletion", "ChatCompletionChunk")
            },
            "/v1/models": {"get": self._guarded("The model that is served.", _json("Models"))},
            "/v1/models/{id}": {
                "get": {
                    **self._guarded("One model.", _json("Model"), 404),
                    "parameters": [_named(card.name)],
                }
            },
            "/tokenize": {
                "post": {
                    **self._guarded(
                        "Ids of a text or conversation.", _json("Tokenized"), *_READING
                    ),
                    "requestBody": _body({"anyOf": [ref("TextBody"), ref("MessagesBody")]}),
                }
            },
            "/detokenize": {
                "post": {
                    **self._guarded("The text of ids.", _json("Detokenized"), *_READING),
                    "requestBody": _body(ref("IdsBody")),
                }
            },
            **_probes(),
        }

    def _generation(self, body: str, answer: str, chunk: str | None = None) -> Node:
        whole = {
            "description": _EVENTS,
            "content": {
                JSON: {"schema": ref(answer)},
                # Before OpenAPI 3.2 this describes each event, as its parser gives it.
                "text/event-stream": {"schema": _event(ref(chunk or answer))},
            },
        }
        summary = "Text that goes on from a prompt." if chunk is None else "The next message."
        return {
            **self._guarded(summary, whole, *_READING, 500, 504),
            "requestBody": _body(ref(body)),
        }

    def _guarded(self, summary: str, answer: Node, *statuses: int) -> Node:
        operation: Node = {
            "summary": summary,
            "responses": {"200": answer, **_refusals({*_ASKING, *statuses})},
        }
        if self._has_keys:
            operation["security"] = [{"key": []}]
        return operation


def _probes() -> Node:
    empty = {"description": "All is well."}
    text = {
        "description": "Prometheus' text format.",
        "content": {METRICS_TYPE.partition(";")[0]: {"schema": {"type": "string"}}},
    }
    document = {"description": "This document.", "content": {JSON: {"schema": {"type": "object"}}}}
    return {
        "/live": _probe("Whether the process answers.", empty),
        "/health": _probe("Whether what is open gets on.", empty, _json("Stuck", "It does not.")),
        "/ready": _probe(
            "Whether requests can be served.", _json("Ready"), _json("Ready", "They cannot.")
        ),
        "/load": _probe("Requests being served.", _json("Load")),
        "/version": _probe("The version.", _json("Version")),
        "/metrics": _probe("Figures.", text),
        "/openapi.json": _probe("The description of this door.", document),
    }


def _probe(summary: str, well: Node, ill: Node | None = None) -> Node:
    answers = {"200": well} if ill is None else {"200": well, "503": ill}
    return {"get": {"summary": summary, "responses": answers}}


def _json(name: str, description: str = "The answer.") -> Node:
    return {"description": description, "content": {JSON: {"schema": ref(name)}}}


def _event(content: Node) -> Node:
    either = {"anyOf": [content, ref("Error")]}
    json = {"type": "string", "contentMediaType": JSON, "contentSchema": either}
    data = {"anyOf": [{"const": "[DONE]"}, json]}
    return {"type": "object", "properties": {"data": data}, "required": ["data"]}


def _body(schema: Node) -> Node:
    return {"required": True, "content": {JSON: {"schema": schema}}}


def _named(model: str) -> Node:
    return {
        "name": "id",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "minLength": 1},
        "example": model,
    }


def _refusals(statuses: set[int]) -> Node:
    return {str(status): _json("Error", REASONS[status]) for status in sorted(statuses)}
