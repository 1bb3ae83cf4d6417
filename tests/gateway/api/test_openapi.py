import json
from pathlib import Path

import msgspec
import pytest

from common import keys
from gateway.api.openapi import REASONS
from gateway.errors import error_type
from tests.gateway.bench import Bench, Client, say

SERVED = {
    *("/v1/completions", "/v1/chat/completions", "/v1/models", "/v1/models/{id}"),
    *("/tokenize", "/detokenize", "/openapi.json"),
    *("/live", "/health", "/ready", "/load", "/version", "/metrics"),
}


async def document(client: Client) -> dict:
    status, body, headers = await client.get("/openapi.json")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    return json.loads(body)


def references(node: object) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if "$ref" in node else set()
        return own.union(*map(references, node.values()))
    return set().union(*map(references, node)) if isinstance(node, list) else set()


def test_it_describes_every_route_and_no_other(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        described = await document(client)
        for path, operations in described["paths"].items():
            (method,) = operations
            url = client.url + path.replace("{id}", "tiny")
            async with client.session.request("OPTIONS", url) as refused:
                allowed = set(refused.headers["Allow"].split(","))
            assert allowed - {"HEAD"} == {method.upper()}, path
        assert set(described["paths"]) == SERVED

    bench(say("hello"), scenario)


def test_its_references_lead_somewhere_and_its_schemas_are_the_types(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        described = await document(client)
        known = described["components"]["schemas"]
        for reference in references(described):
            assert reference.removeprefix("#/components/schemas/") in known
        completion = known["CompletionBody"]
        assert completion["required"] == ["model", "prompt"]
        assert completion["properties"]["model"] == {"enum": ["tiny"]}
        assert completion["properties"]["top_p"]["anyOf"][0] == {
            "type": "number",
            "exclusiveMinimum": 0,
            "maximum": 1,
        }
        size = client.mesh.tokenizer.size
        ids = known["IdsBody"]["properties"]["tokens"]["items"]
        assert ids == {"type": "integer", "minimum": 0, "maximum": size - 1}

    bench(say("hello"), scenario)


def test_refusals_are_described_with_their_statuses(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        described = await document(client)
        for path in ("/v1/completions", "/v1/chat/completions"):
            answers = described["paths"][path]["post"]["responses"]
            statuses = {"200", *map(str, REASONS)}
            assert set(answers) == statuses
            assert set(answers["200"]["content"]) == {"application/json", "text/event-stream"}
            for status in statuses - {"200"}:
                content = answers[status]["content"]["application/json"]
                assert content == {"schema": {"$ref": "#/components/schemas/Error"}}
        assert set(described["paths"]["/health"]["get"]["responses"]) == {"200", "503"}

    bench(say("hello"), scenario)
    assert all(error_type(status) for status in REASONS)


@pytest.mark.parametrize("has_keys", [False, True])
def test_a_key_is_asked_for_where_it_is_needed(
    bench: Bench, tmp_path: Path, has_keys: bool
) -> None:
    async def scenario(client: Client) -> None:
        described = await document(client)
        for path, operations in described["paths"].items():
            for operation in operations.values():
                is_guarded = path.startswith(("/v1", "/tokenize", "/detokenize"))
                assert ("security" in operation) == (has_keys and is_guarded), path
                if "security" in operation:
                    assert {"401", "429"} <= set(operation["responses"])

    file = tmp_path / "keys"
    file.write_text(keys.line("a", "secret"))
    bench(say("hello"), scenario, **({"keys": str(file)} if has_keys else {}))


def test_it_is_plain_json_of_a_moderate_size(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        _, body, _ = await client.get("/openapi.json")
        assert msgspec.json.decode(body.encode())["openapi"] == "3.1.0"
        assert len(body) < 100_000

    bench(say("hello"), scenario)
