import json

import pytest

from common.messages import (
    Ask,
    ClusterState,
    ControlMessage,
    Drain,
    Draining,
    Ledger,
    LedgerEntry,
    MemberStatus,
    Status,
)
from tests.gateway.bench import Bench, Client, accept

MEMBER = MemberStatus("prefill-0", "prefill-worker", "n", 1, "serving", 1, 0.1, 0, 64, 16, 1)
ENTRY = LedgerEntry("prefill-0", "prefill-worker", "r", 1, 16, 0.5, 60.0, True)


def answer(question: Ask | Drain) -> ControlMessage:
    match question:
        case Ask(what="status"):
            return Status(question.query, 5, 1, 2, "cdsp", (MEMBER,))
        case Ask():
            return Ledger(question.query, (ENTRY,), 1)
        case Drain(name="decode-0"):
            return Draining(question.query)
    return Draining(question.query, f"there is no member {question.name}")


async def get(client: Client, path: str) -> tuple[int, dict]:
    async with client.session.get(client.control + path) as reply:
        assert reply.content_type == "application/json"
        assert "Access-Control-Allow-Origin" not in reply.headers
        return reply.status, await reply.json()


async def order(client: Client, body: object, kind: str = "application/json") -> tuple[int, dict]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": kind}
    async with client.session.post(
        client.control + "/tetris/drain", data=data, headers=headers
    ) as reply:
        return reply.status, await reply.json()


def test_operators_see_members_and_what_they_hold_also_before_the_mesh_is_ready(
    bench: Bench,
) -> None:
    async def scenario(client: Client) -> None:
        client.mesh.answer = answer
        client.mesh.state = ClusterState(5, 0, 0, 0, 0)
        status = 200
        while status == 200:
            status, *_ = await client.get("/ready")
        status, body = await get(client, "/tetris/status")
        assert (status, body["policy"], body["epoch"]) == (200, "cdsp", 5)
        assert body["members"][0]["name"] == "prefill-0"
        status, body = await get(client, "/tetris/ledger")
        assert (status, body["num_entries"], body["entries"][0]["request"]) == (200, 1, "r")

    bench(accept, scenario)


def test_an_order_to_leave_is_taken_or_refused_with_the_routers_reason(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        client.mesh.answer = answer
        assert await order(client, {"name": "decode-0"}) == (202, {"draining": "decode-0"})
        status, body = await order(client, {"name": "decode-9"})
        assert (status, body["error"]["message"]) == (404, "there is no member decode-9")

    bench(accept, scenario)


def test_bad_orders_and_unknown_paths_are_json_errors(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        for bad in (
            {},
            {"name": 3},
            {"name": ""},
            {"name": "a b"},
            {"name": "a", "x": 1},
            [],
            b"{",
        ):
            status, body = await order(client, bad)
            assert (status, body["error"]["param"]) == (400, "name"), bad
        assert (await order(client, b"\xff"))[0] == 400
        assert (await order(client, {"name": "decode-0"}, "text/plain"))[0] == 415
        assert (await order(client, {"name": "a" * 5000}))[0] == 413
        for path in ("/tetris/nothing", "/v1/models", "/"):
            status, body = await get(client, path)
            assert (status, body["error"]["code"]) == (404, 404)
        assert (await get(client, "/tetris/drain"))[0] == 405
        assert client.mesh.questions == []
        # And nothing of this is to be had at the public door.
        assert (await client.get("/tetris/status"))[0] == 404

    bench(accept, scenario)


def test_a_router_that_does_not_answer_is_asked_again_and_then_given_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.questions.BOUND", 0.3)

    async def scenario(client: Client) -> None:
        status, body = await get(client, "/tetris/status")
        assert (status, body["error"]["code"]) == (504, "timeout")
        assert len(client.mesh.questions) >= 3
        assert len({question.query for question in client.mesh.questions}) == 1

    bench(accept, scenario)
