import pytest

from common.messages import Accepted, Ask, ControlMessage, Explained, FirstToken, Submit, Token
from gateway.mesh.questions import Question
from tests.gateway.bench import COMPLETION, DECODE, Bench, Client, FakeMesh, accept, say
from tests.gateway.happenings import mesh_state, said, story
from tests.gateway.test_control import get
from tests.gateway.window.test_watching import arrived

SECRET = "hello hello world"


def explain(question: Question) -> ControlMessage:
    assert isinstance(question, Ask)
    known = question.request is not None and not question.request.startswith("other")
    return Explained(question.query, b'{"candidates": [1, 2]}' if known else b"")


def test_an_own_request_is_found_by_every_name_and_explained(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        client.mesh.answer = explain
        given = {"x-request-id": "mine/1"}
        body = COMPLETION | {"prompt": SECRET}
        status, answer, headers = await client.post("/v1/completions", body, **given)
        assert (status, headers["x-request-id"]) == (200, "mine/1")
        name = client.mesh.submits[0].request
        await arrived(client, said(0, *story(name, 1.0), mesh_state(2.0)))
        for wanted in (answer["id"], name, answer["id"] + "-0", "mine%2F1"):
            status, found = await get(client, f"/tetris/requests/{wanted}")
            assert (status, found["id"], found["request_id"]) == (200, name, "mine/1")
            assert found["outcome"] == "length"
            assert found["ttft"]["measured"] > 0
            assert found["prompt_tokens"] == len(client.mesh.tokenizer._tokenizer.encode(SECRET))
            assert found["attempts"][0]["plan"]["chunks"][1]["measured"]["seconds"] > 0
            assert found["explanation"] == {"candidates": [1, 2]}
        async with client.session.get(f"{client.control}/tetris/requests/{name}") as raw:
            assert "hello" not in await raw.text()
        # And nothing of this is to be had at the public door.
        assert (await client.get(f"/tetris/requests/{name}"))[0] == 404

    bench(say("hello", "length"), scenario)


def test_an_id_that_we_gave_is_found_as_well(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        client.mesh.answer = explain
        _, answer, headers = await client.post("/v1/completions", COMPLETION)
        status, found = await get(client, f"/tetris/requests/{headers['x-request-id']}")
        assert (status, found["id"]) == (200, answer["id"])
        _, answer, _ = await client.post("/v1/completions", COMPLETION)
        status, found = await get(client, f"/tetris/requests/{answer['id']}")
        assert found["request_id"] != headers["x-request-id"]

    bench(say("hello", "length"), scenario)


def test_other_gateways_requests_are_known_from_events_and_perhaps_not_to_the_router(
    bench: Bench,
) -> None:
    async def scenario(client: Client) -> None:
        client.mesh.answer = explain
        choices = [f"cmpl-{'c' * 32}-{i}" for i in range(2)]
        told = [*story("other", 1.0), *story(choices[0], 2.0), *story(choices[1], 3.0)]
        await arrived(client, said(0, *told, mesh_state(4.0)))
        status, found = await get(client, "/tetris/requests/other")
        assert (status, found["outcome"], found["request_id"]) == (200, "length", None)
        assert found["explanation_absent"] == "The router does not remember this request."
        assert "explanation" not in found
        status, found = await get(client, f"/tetris/requests/cmpl-{'c' * 32}")
        assert [choice["id"] for choice in found["choices"]] == choices
        assert {choice["explanation_absent"] for choice in found["choices"]} == {
            "Ask for one of the choices."
        }
        status, found = await get(client, "/tetris/requests?limit=2")
        assert [brief["id"] for brief in found["requests"]] == choices[::-1]

    bench(accept, scenario)


def test_a_router_that_does_not_answer_or_answers_nonsense_takes_nothing_else_away(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.mesh.questions.BOUND", 0.2)

    async def scenario(client: Client) -> None:
        await arrived(client, said(0, *story("r", 1.0), mesh_state(4.0)))
        status, found = await get(client, "/tetris/requests/r")
        assert (status, found["explanation_absent"]) == (200, "The router does not answer.")
        client.mesh.answer = lambda question: Explained(question.query, b"{")
        status, found = await get(client, "/tetris/requests/r")
        assert (status, found["explanation_absent"]) == (200, "The explanation is no JSON.")

    bench(accept, scenario)


def test_unknown_requests_and_wrong_limits_are_json_errors(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        for unknown in ("nothing", "a%2Fb", "cmpl-00", "%00", "x" * 3000):
            status, body = await get(client, f"/tetris/requests/{unknown}")
            assert (status, body["error"]["code"]) == (404, "request_not_found")
            assert len(body["error"]["message"]) < 200
        for limit in ("0", "501", "x", "-1"):
            status, body = await get(client, f"/tetris/requests?limit={limit}")
            assert (status, body["error"]["param"]) == (400, "limit")
        assert await get(client, "/tetris/requests") == (200, {"requests": []})
        assert client.mesh.questions == []

    bench(accept, scenario)


def hang(mesh: FakeMesh, submit: Submit, ids: list[int]) -> None:
    mesh.send(Accepted(submit.request, submit.attempt))
    mesh.send(FirstToken(Token(submit.request, 1, 0, ids[0]), DECODE))


def test_open_requests_are_listed_too(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        body = COMPLETION | {"stream": True}
        async with client.session.post(client.url + "/v1/completions", json=body) as answer:
            await answer.content.readline()
            status, found = await get(client, "/tetris/requests")
            (brief,) = found["requests"]
            assert (status, brief["outcome"]) == (200, "open")
            assert brief["ttft"]["measured"] > 0
            assert brief["ttft"]["components"] is None

    bench(hang, scenario)
