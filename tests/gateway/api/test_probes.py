import asyncio
import json

import pytest

from common.messages import Accepted, Submit
from gateway.api.probes import version
from tests.gateway.bench import COMPLETION, Bench, Client, FakeMesh, accept, say

PROBES = ["/live", "/health", "/ready", "/load", "/version", "/metrics", "/openapi.json"]


def test_every_probe_answers_get_and_head(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        for path in PROBES:
            status, _, headers = await client.get(path)
            assert status == 200, path
            head_status, head_body, head = await client.get(path, "HEAD")
            assert (head_status, head_body) == (200, ""), path
            assert head.get("Content-Type") == headers.get("Content-Type")
        assert (await client.get("/health"))[1] == ""
        assert json.loads((await client.get("/version"))[1]) == {"version": version()}

    bench(say("hello"), scenario)


def test_the_load_is_what_is_being_served(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        assert json.loads((await client.get("/load"))[1]) == {"server_load": 0}
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(client.post("/v1/completions", COMPLETION))
            await client.mesh.arrived.wait()
            assert json.loads((await client.get("/load"))[1]) == {"server_load": 1}
            client.mesh.tokens(client.mesh.submits[0], "hello")
            assert (await waiting)[0] == 200

    bench(accept, scenario)


@pytest.mark.parametrize("ttft", [None, 1000.0])
def test_a_request_that_gets_nowhere_shows_in_health_unless_that_was_predicted(
    bench: Bench, ttft: float | None
) -> None:
    def reply(mesh: FakeMesh, submit: Submit, ids: list[int]) -> None:
        mesh.send(Accepted(submit.request, submit.attempt, ttft))

    async def scenario(client: Client) -> None:
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(client.post("/v1/completions", COMPLETION))
            await client.mesh.until(lambda: len(client.mesh.facts.open) == 1)
            await asyncio.sleep(0.5)
            status, body, _ = await client.get("/health")
            if ttft is None:
                assert status == 503
                assert json.loads(body)["status"] == "stuck"
                assert "no token" in json.loads(body)["reason"]
            else:
                assert status == 200
            # Alive is another question.
            assert (await client.get("/live"))[0] == 200
            client.mesh.tokens(client.mesh.submits[0], "hello")
            assert (await waiting)[0] == 200
            assert (await client.get("/health"))[0] == 200

    bench(reply, scenario, health_timeout=0.3)


def test_a_mesh_that_falls_silent_shows_in_health_while_work_is_open(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(client.post("/v1/completions", COMPLETION))
            await client.mesh.arrived.wait()
            client.mesh.state = None
            status = 200
            while status == 200:
                status, body, _ = await client.get("/health")
                await asyncio.sleep(0.02)
            assert "was not heard" in json.loads(body)["reason"]
            client.mesh.tokens(client.mesh.submits[0], "hello")
            assert (await waiting)[0] == 200

    def silent(mesh: FakeMesh, submit: Submit, ids: list[int]) -> None:
        """The router takes nothing any more."""

    bench(silent, scenario, health_timeout=0.3)
