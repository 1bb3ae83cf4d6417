import json

import msgspec
import pytest

from common.messages import (
    Ask,
    ClusterState,
    ControlMessage,
    Drain,
    Draining,
    InForce,
    Ledger,
    LedgerEntry,
    MemberStatus,
    Scheduled,
    Status,
    Update,
)
from common.schedule import Pricing, Schedule, changed
from gateway.mesh.questions import Question
from tests.gateway.bench import Bench, Client, accept

MEMBER = MemberStatus("prefill-0", "prefill-worker", "n", 1, "serving", 1, 0.1, 0, 64, 16, 1)
ENTRY = LedgerEntry("prefill-0", "prefill-worker", "r", 1, 16, 0.5, 60.0, True)


BEFORE = Schedule(improvement_rate=0.25, priced=Pricing(base=1.0))
NEWEST = 1_700_000_000_123_456_789


def answer(question: Question) -> ControlMessage:
    match question:
        case Ask(what="schedule"):
            return Scheduled(question.query, 5, InForce(0, BEFORE), 0.25)
        case Update(change=change) if change.min_chunk == 13:
            why = "policy: the latency model knows the sizes 1, 2"
            return Scheduled(question.query, 5, InForce(0, BEFORE), 0.25, None, why)
        case Update(change=change):
            current = InForce(NEWEST, changed(BEFORE, change))
            return Scheduled(question.query, 5, current, 0.5, 1.75)
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


async def order(
    client: Client, body: object, kind: str = "application/json", path: str = "/tetris/drain"
) -> tuple[int, dict]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": kind}
    async with client.session.post(client.control + path, data=data, headers=headers) as reply:
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
        assert (await order(client, {"name": "a" * 20_000}))[0] == 413
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
    monkeypatch.setattr("gateway.mesh.questions.BOUND", 0.3)

    async def scenario(client: Client) -> None:
        status, body = await get(client, "/tetris/status")
        assert (status, body["error"]["code"]) == (504, "timeout")
        assert len(client.mesh.questions) >= 3
        assert len({question.query for question in client.mesh.questions}) == 1

    bench(accept, scenario)


async def change(client: Client, body: object) -> tuple[int, dict]:
    return await order(client, body, path="/update")


def test_the_schedule_in_force_is_told_and_changed_as_a_whole(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        client.mesh.answer = answer
        state = {"load": None, "improvement_rate": 0.25, "version": 0, "changed": None}
        whole = {"schedule": msgspec.to_builtins(BEFORE), "state": state}
        status, body = await get(client, "/update")
        assert (status, body) == (200, json.loads(json.dumps(whole)))
        # As the paper writes it.
        wanted = {
            "improvement_rate_mapping": {"0.5": 0.1, "2": 1e-1},
            "sp_size_candidates": [1, 2],
            "improvement_rate_update_period": 10,
            "priced": {"order": "slope:1.5"},
        }
        status, body = await change(client, wanted)
        assert status == 200
        assert body["schedule"] == {
            **json.loads(json.dumps(msgspec.to_builtins(BEFORE))),
            **wanted,
            "priced": {**msgspec.to_builtins(BEFORE.priced), "order": "slope:1.5"},
        }
        assert body["state"] == {
            "load": 1.75,
            "improvement_rate": 0.5,
            "version": NEWEST,
            "changed": "2023-11-14T22:13:20.123+00:00",
        }

    bench(accept, scenario)


REFUSALS = (
    ({"policy": "best"}, "policy"),
    ({"policy": "cdsp\n"}, "policy"),
    ({"policy": 1}, "policy"),
    ({"policy": None}, "policy"),
    ({"polcy": "cdsp"}, "polcy"),
    ({"x" * 9000: 1}, "x" * 128),
    ({"sp_size_candidates": []}, "sp_size_candidates"),
    ({"sp_size_candidates": "1"}, "sp_size_candidates"),
    ({"sp_size_candidates": [1, 0]}, "sp_size_candidates[1]"),
    ({"sp_size_candidates": [1, 2.5]}, "sp_size_candidates[1]"),
    ({"sp_size_candidates": [1] * 65}, "sp_size_candidates"),
    ({"improvement_rate": 1}, "improvement_rate"),
    ({"improvement_rate": -0.1}, "improvement_rate"),
    ({"improvement_rate": "0.1"}, "improvement_rate"),
    ({"improvement_rate_mapping": {"0.5": 2}}, "improvement_rate_mapping.0.5"),
    ({"improvement_rate_mapping": {"0.5": None}}, "improvement_rate_mapping.0.5"),
    ({"improvement_rate_mapping": {"fast": 0.1}}, "improvement_rate_mapping.fast"),
    ({"improvement_rate_mapping": {"1": 0.1, "1.0": 0.1}}, "improvement_rate_mapping.1.0"),
    ({"improvement_rate_mapping": []}, "improvement_rate_mapping"),
    ({"improvement_rate_update_period": 0}, "improvement_rate_update_period"),
    ({"improvement_rate_update_period": 1e9}, "improvement_rate_update_period"),
    ({"min_chunk": 0}, "min_chunk"),
    ({"min_chunk": True}, "min_chunk"),
    ({"min_chunk": 2**70}, "min_chunk"),
    ({"priced": 3}, "priced"),
    ({"priced": {"order": "slope:"}}, "priced.order"),
    ({"priced": {"base": -1}}, "priced.base"),
    ({"priced": {"replan": 1}}, "priced.replan"),
    ({"priced": {"bse": 1}}, "priced.bse"),
    ([], None),
    (None, None),
    (b"", None),
    (b"{", None),
    (b"[" * 9000, None),
    (b'{"policy": "\\ud800"}', None),
    (b'{"min_chunk": NaN}', None),
    (b'{"min_chunk": 1, "min_chunk": 2}', "min_chunk"),
    (b'{"improvement_rate_mapping": {"1": 0.1, "1": 0.2}}', "1"),
    (b"\xff", None),
)


def test_a_wrong_value_is_named_and_never_reaches_the_router(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        for bad, key in REFUSALS:
            status, body = await change(client, bad)
            error = body["error"]
            assert (status, error["param"], error["code"]) == (400, key, 400), bad
            assert error["type"] == "BadRequestError"
            assert key is None or key in error["message"]
            assert len(error["message"]) < 600
        assert (await order(client, {"min_chunk": 1}, "text/plain", "/update"))[0] == 415
        assert (await change(client, {"policy": "x" * 20_000}))[0] == 413
        assert client.mesh.questions == []
        # And nothing of this is to be had at the public door.
        assert (await client.get("/update"))[0] == 404

    bench(accept, scenario)


def test_what_the_router_alone_can_judge_is_named_as_well(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        client.mesh.answer = answer
        status, body = await change(client, {"min_chunk": 13})
        assert (status, body["error"]["param"]) == (400, "policy")
        assert body["error"]["message"] == "policy: the latency model knows the sizes 1, 2"

    bench(accept, scenario)


def test_an_update_that_was_answered_is_told_to_a_router_that_does_not_know_it(
    bench: Bench,
) -> None:
    async def scenario(client: Client) -> None:
        mesh = client.mesh
        mesh.answer = answer
        await change(client, {"min_chunk": 5})
        # The fake router says with every heartbeat that it knows of none.
        await mesh.until(lambda: mesh.facts.newer is not None)
        assert (mesh.facts.schedule, mesh.facts.newer.version) == (NEWEST, NEWEST)
        assert mesh.facts.newer.schedule.min_chunk == 5
        mesh.state = ClusterState(5, 1, 1, 1, 0, schedule=NEWEST)
        await mesh.until(lambda: mesh.facts.newer is None)
        assert mesh.facts.schedule == NEWEST

    bench(accept, scenario)
