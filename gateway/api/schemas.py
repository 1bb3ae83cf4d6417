"""JSON schemas of what the public door takes and gives, out of the very types that judge it."""

from collections.abc import Sequence
from typing import Any

import msgspec

from common.messages import ModelCard
from gateway.api.answers import DeltaChoice, MessageChoice, TextChoice, UsageBody
from gateway.api.openai import ChatBody, CompletionBody
from gateway.api.probes import Load, Models, Ready, Stuck, Version
from gateway.api.tokens import Detokenized, IdsBody, MessagesBody, TextBody, Tokenized
from gateway.errors import ErrorBody

Schema = dict[str, Any]

_TYPES = (
    *(CompletionBody, ChatBody, TextBody, MessagesBody, IdsBody),
    *(TextChoice, MessageChoice, DeltaChoice, UsageBody, Tokenized, Detokenized),
    *(Models, Ready, Stuck, Load, Version, ErrorBody),
)
_PREFIX = "#/components/schemas/"


def components(card: ModelCard, vocabulary: int) -> dict[str, Schema]:
    """All schemas by name; with what only this model knows: its name and its number of ids."""
    _, schemas = msgspec.json.schema_components(_TYPES, ref_template=f"{_PREFIX}{{name}}")
    _require(schemas["CompletionBody"], "model", "prompt")
    _require(schemas["ChatBody"], "model", "messages")
    schemas["ChatBody"]["properties"]["messages"]["minItems"] = 1
    for name in ("CompletionBody", "ChatBody", "TextBody", "MessagesBody", "IdsBody"):
        _name_the_model(schemas[name], card.name)
    for schema in (
        schemas["CompletionBody"]["properties"]["prompt"],
        schemas["IdsBody"]["properties"]["tokens"],
    ):
        _bound_ids(schema, vocabulary)
    answers = {
        "Error": _object({"error": ref("ErrorBody")}),
        "Completion": _answer(["text_completion"], "TextChoice"),
        "ChatCompletion": _answer(["chat.completion"], "MessageChoice"),
        "ChatCompletionChunk": _answer(["chat.completion.chunk"], "DeltaChoice"),
    }
    return schemas | answers


def ref(name: str) -> Schema:
    """A reference to one of them."""
    return {"$ref": f"{_PREFIX}{name}"}


def _object(properties: dict[str, Schema], optional: Sequence[str] = ()) -> Schema:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required}


def _answer(kinds: list[str], choice: str) -> Schema:
    properties: dict[str, Schema] = {
        "id": {"type": "string"},
        "object": {"enum": kinds},
        "created": {"type": "integer"},
        "model": {"type": "string"},
        "choices": {"type": "array", "items": ref(choice)},
        "usage": ref("UsageBody"),
    }
    return _object(properties, optional=["usage"])


def _require(schema: Schema, *names: str) -> None:
    """What the types leave optional, since its absence has its own words."""
    schema["required"] = sorted({*schema.get("required", ()), *names})
    for name in names:
        kinds = [kind for kind in schema["properties"][name]["anyOf"] if kind != {"type": "null"}]
        schema["properties"][name] = kinds[0] if len(kinds) == 1 else {"anyOf": kinds}


def _name_the_model(schema: Schema, name: str) -> None:
    is_required = "model" in schema.get("required", ())
    schema["properties"]["model"] = {"enum": [name] if is_required else [name, None]}


def _bound_ids(schema: Any, vocabulary: int) -> None:  # JSON
    """No id in here is beyond the vocabulary."""
    if isinstance(schema, dict):
        if schema.get("type") == "integer":
            schema["maximum"] = vocabulary - 1
        for part in schema.values():
            _bound_ids(part, vocabulary)
    elif isinstance(schema, list):
        for part in schema:
            _bound_ids(part, vocabulary)
