import json

from common.events import Over
from gateway.window import tracing
from gateway.window.tracing import PIECE, Tracing
from tests.gateway.bench import Bench, Client, accept
from tests.gateway.chrome import check
from tests.gateway.happenings import mesh_state, said, story
from tests.gateway.test_control import get
from tests.gateway.window.test_watching import arrived
from tests.gateway.window.test_window import window


def test_the_last_seconds_come_as_one_valid_trace(bench: Bench) -> None:
    async def scenario(client: Client) -> None:
        await arrived(client, said(0, mesh_state(0.5), *story("r", 1.0)))
        status, document = await get(client, "/tetris/trace?seconds=900")
        records = check(document)
        assert status == 200
        assert len([r for r in records if "chunk" in r["name"]]) == 6
        for bad in ("0", "901", "x", "nan"):
            status, body = await get(client, f"/tetris/trace?seconds={bad}")
            assert (status, body["error"]["param"]) == (400, "seconds")
        assert (await client.get("/tetris/trace"))[0] == 404

    bench(accept, scenario)


def test_an_empty_history_is_an_empty_trace() -> None:
    seen, _ = window()
    assert json.loads(b"".join(Tracing(seen).pieces(60.0)))["traceEvents"] == []


def test_a_long_trace_is_made_in_pieces_of_what_is_there_by_then() -> None:
    seen, _ = window()
    for first in range(0, 4000, 500):
        events = [Over(float(first + i), "r", 1, "stop", 1) for i in range(500)]
        seen.receive(said(first, *events))
    pieces = Tracing(seen).pieces(60.0)
    first = [next(pieces), next(pieces)]
    seen.receive(said(4000, Over(9e3, "later", 1, "stop", 1)))
    assert first[1].count(b'"ph":"i"') == PIECE
    records = check(json.loads(b"".join([*first, *pieces])))
    assert sum(record["ph"] == "i" for record in records) == 4000


def test_what_is_forgotten_meanwhile_is_missing_and_nothing_else() -> None:
    seen, _ = window()
    for first in range(0, 4000, 500):
        events = [Over(float(first + i), "r", 1, "stop", 1) for i in range(500)]
        seen.receive(said(first, *events))
    pieces = Tracing(seen).pieces(60.0)
    first = [next(pieces) for _ in range(3)]
    seen.history.forget(1e9)
    document = json.loads(b"".join([*first, *pieces]))
    assert 0 < len(check(document)) < 4000


def test_traces_at_the_same_time_are_bounded(bench: Bench, monkeypatch) -> None:
    monkeypatch.setattr(tracing, "MAX_TRACES", 0)

    async def scenario(client: Client) -> None:
        status, body = await get(client, "/tetris/trace")
        assert (status, body["error"]["message"]) == (503, "Too many traces at once.")

    bench(accept, scenario)
