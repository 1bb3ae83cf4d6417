from common.latency import Curve, LatencyModel
from compose.plan_text import LONGEST_GROUP, MOST_CHUNKINGS, names_text, plan_text
from services.router.explain import explain
from services.router.plan import Policy, PoolView, Reused
from services.router.planner import Planner
from services.router.prefix import shares

A100 = LatencyModel.load("a100-llama3-8b")
MODEL = LatencyModel({1: Curve(0, 1e-3, 0, 0), 2: Curve(0, 0.5e-3, 0, 0)})


def view_of(delays: list[float], per_node: int = 8) -> PoolView:
    names = tuple(f"p{index}" for index in range(len(delays)))
    nodes = tuple(f"n{index // per_node}" for index in range(len(delays)))
    return PoolView(names, nodes, tuple(delays))


def text_of(policy: Policy, length: int, delays: list[float], model: LatencyModel = MODEL) -> str:
    plan = Planner(policy).plan(length, view_of(delays), model)
    return plan_text(explain(plan, model), "tiny", [])


def test_a_plan_in_two_chunks_is_told_from_question_to_drawing() -> None:
    assert text_of(Policy((1, 2), 0.1, 1), 2000, [0.0, 0.5]).splitlines() == [
        "2000 tokens to compute on 2 prefill instances of 1 node, latency model tiny",
        "policy cdsp: a larger size has to save 10 % of TTFT",
        "SP candidates 1, 2; chunks before the last one of 1 tokens at least",
        "",
        "The whole prompt in one chunk",
        "  SP  DELAY   TTFT  VERDICT                     GROUP",
        "   1  0.000  2.000  accepted, the first one     p0",
        "   2  0.500  1.500  accepted, TTFT below 1.800  p0-p1",
        "",
        "Several chunks",
        "  SP   TOKENS       TTFT  VERDICT",
        "  1>2  500 + 1500  1.250  chosen",
        "",
        "The plan: first token after 1.250 s",
        "  CHUNK  TOKENS  HISTORY  SP  START  SECONDS  GROUP",
        "  A         500        0   1  0.000    0.500  p0",
        "  B        1500      500   2  0.500    0.750  p0-p1",
        "",
        "n0",
        "  p0 AAAAAAAAAAAAAAAAAAAAAAAAAABBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB",
        "  p1 ##########################BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB",
        "     |                         |                        |",
        "     0                         0.5                      1 s",
        "",
        "· idle, # earlier work, letters: chunks",
    ]


def test_what_was_not_taken_has_its_reason() -> None:
    text = text_of(Policy((1, 2), 0.3, 501), 2000, [0.0, 0.5])
    assert "   2  0.500  1.500  needs a TTFT below 1.400  p0-p1" in text
    text = text_of(Policy((1, 2), 0.2, 501), 2000, [0.0, 0.5])
    assert "  1>2  500     too short" in text
    text = text_of(Policy((1, 2), 0.0, 1), 2000, [0.5, 0.5])
    assert "Several chunks: no gap to fill: 1>2" in text


def test_a_price_has_columns_of_its_own() -> None:
    policy = Policy((1, 2), 0.0, 1, "cdsp-priced", price=1.0)
    lines = text_of(policy, 2000, [0.0, 0.5]).splitlines()
    assert "policy cdsp-priced: an instance for a second costs 1.000 s of TTFT" in lines
    start = lines.index(
        "The whole prompt in one chunk, and the fastest plan that ends with that size"
    )
    assert lines[start + 1 : start + 4] == [
        "  SP  DELAY   TTFT  FASTEST   COST  VERDICT                     GROUP",
        "   1  0.000  2.000    2.000  4.000  accepted, the first one     p0",
        "   2  0.500  1.500    1.250  3.250  accepted, cost below 4.000  p0-p1",
    ]


def test_policies_without_several_chunks_say_nothing_of_them() -> None:
    for policy in (
        Policy((1, 2), 0.0, 1, "single-chunk"),
        Policy((1, 2), 0.0, 1, "loongserve"),
        Policy((1,), 0.0, 1, "fixed-sp"),
    ):
        text = text_of(policy, 2000, [0.0, 0.5])
        assert "Several" not in text
        assert "before the last one" not in text
    assert "   1  0.000  2.000  free first   p0" in text
    assert "   1  0.500  2.500  not earlier  p1" in text


def test_what_is_reused_is_told() -> None:
    view, policy = view_of([0.0, 3.0, 0.0]), Policy((1, 2), 0.0, 1)
    tried = shares(Reused(1000, ("p0", "p1")), 2000, view, policy, MODEL)
    told = explain(tried[1].plan, MODEL)
    lines = plan_text(told, "tiny", tried).splitlines()
    assert lines[0].startswith("1500 tokens to compute on 3 prefill instances")
    assert lines[3] == "after 500 tokens that are there already, on p0"
    assert lines[5:10] == [
        "What of the prefix to reuse",
        "  TOKENS  HELD BY   TTFT",
        "       0  nobody   1.000",
        "     500  p0       0.750  chosen",
        "    1000  p0-p1    3.500",
    ]
    plan = Planner(policy).plan(10, view, MODEL, Reused(7))
    assert "after 7 tokens that are there already, read by any" in plan_text(
        explain(plan, MODEL), "tiny", []
    )


def test_of_very_many_chunkings_the_fastest_are_shown() -> None:
    delays = [round(0.9 ** (16 - index) * 4, 3) for index in range(16)]
    policy = Policy(tuple(range(1, 17)), 0.0, 128)
    sizes = {size: A100.curves[max(s for s in A100.sizes if s <= size)] for size in policy.sizes}
    model = LatencyModel(
        {size: curve._replace(a=curve.a + 0.001 * size) for size, curve in sizes.items()}
    )
    plan = Planner(policy).plan(100_000, view_of(delays), model)
    told = explain(plan, model)
    cut = {one for one in told.chunkings if len(one.sizes) > 1 and one.dropped != "no gap"}
    assert len(cut) > MOST_CHUNKINGS
    text = plan_text(told, "many", [])
    assert f"and {len(cut) - MOST_CHUNKINGS} more, none of them faster" in text
    assert text.count("  chosen") == 1


def test_names_are_ranges_and_never_too_long() -> None:
    view = view_of([0.0] * 64)
    assert names_text(("p3", "p0", "p1", "p5"), view) == "p0-p1 p3 p5"
    assert names_text((), view) == ""
    scattered = names_text(view.names[::2], view)
    assert len(scattered) == LONGEST_GROUP
    assert scattered.endswith("...")


def test_shared_rows_are_explained_where_there_are_any() -> None:
    assert "look the same" in text_of(Policy((1,), 0.0, 1), 10, [0.0] * 33)
    assert "look the same" not in text_of(Policy((1,), 0.0, 1), 10, [0.0] * 32)
