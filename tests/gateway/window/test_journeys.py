from common.events import Planned
from common.messages import ChunkTimes, FirstToken, Joining, Times, Token
from common.metrics import Metrics
from gateway.doors.origin import CURRENT, Origin
from gateway.figures import Figures
from gateway.window.journeys import MAX_ENDED, Journeys
from tests.gateway.bench import DECODE
from tests.gateway.happenings import story

WALL = 1_700_000_000.0
BASE = "cmpl-" + "a" * 32


class Table:
    """Journeys, and what their figures say; moments are seconds after the wall clock's `WALL`."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.journeys = Journeys(Figures(self.metrics, "tiny"))

    def open(self, name: str = "r", arrival: float = 100.0, ids: float = 0.02) -> None:
        self.journeys.opened(name, 1000, arrival, arrival + ids, WALL + arrival + ids)

    def sample(self, name: str, labels: str = "") -> float:
        key = name + (f"{{{labels}}}" if labels else "")
        lines = self.metrics.render().decode().splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith(key + " "))

    def part(self, name: str, component: str) -> float:
        return self.sample(f"{name}_component_seconds_sum", f'component="{component}"')


def token(index: int, attempt: int = 1, name: str = "r") -> Token:
    return Token(name, attempt, index, 7)


def times(moment: float = 100.0) -> Times:
    at = WALL + moment
    chunk = ChunkTimes(at + 0.1, at + 0.2, at + 0.2, at + 0.7, 0.1)
    return Times(at + 0.04, at + 0.05, (chunk,), at + 0.7)


def first(attempt: int = 1, told: Times | None = None) -> FirstToken:
    return FirstToken(token(0, attempt), DECODE, told)


def joining(attempt: int = 1) -> Joining:
    return Joining("r", attempt, WALL + 101.0, WALL + 101.25)


def close(table: Table, count: int = 3, outcome: str = "length") -> None:
    table.journeys.closed("r", outcome, count, 103.0, 102.7)


def test_a_ttft_is_taken_apart_whichever_comes_first_of_token_and_times() -> None:
    for early in (True, False):
        table = Table()
        table.open()
        if early:
            table.journeys.began(first(told=times()))
        table.journeys.token(token(0), 100.75)
        table.journeys.began(first(told=times()))
        close(table, 1)
        names = ("tokenize", "admission", "plan", "queue", "balance", "prefill", "deliver")
        found = [round(table.part("tetris_ttft", name), 4) for name in names]
        assert found == [0.02, 0.02, 0.05, 0.11, 0.1, 0.4, 0.05]
        journey = table.journeys.get("r")
        assert (journey.ttft, round(journey.queued, 4)) == (0.75, 0.16)
        assert round(sum(journey.first_parts.seconds.values()), 6) == 0.75
        assert table.sample("tetris_unattributed_total", 'token="first"') == 0
        assert round(table.sample("tetris_ttft_component_seconds_count", 'component="plan"')) == 1


def test_a_second_token_is_taken_apart_as_well_and_the_rest_told_under_known_names() -> None:
    table = Table()
    table.open()
    table.journeys.token(token(0), 100.75)
    table.journeys.began(first(told=times()))
    table.journeys.token(token(1), 101.5)
    table.journeys.joined((joining(),))
    table.journeys.joined((joining(), Joining("unknown", 1, 0.0, 0.0)))
    close(table)
    found = {
        n: round(table.part("tetris_second_token", n), 4) for n in ("transfer", "admit", "step")
    }
    assert found == {"transfer": 0.3, "admit": 0.25, "step": 0.25}
    labels = 'engine="0",model_name="tiny"'
    wanted = {
        "request_queue_time": 0.16,
        "request_prefill_time": 0.55,
        "request_decode_time": 102.7 - 100.75,
        "request_inference_time": 0.55 + 102.7 - 100.75,
        "request_time_per_output_token": (102.7 - 100.75) / 2,
    }
    for name, seconds in wanted.items():
        assert round(table.sample(f"vllm:{name}_seconds_sum", labels), 4) == round(seconds, 4)
    assert table.sample("vllm:request_prompt_tokens_sum", labels) == 1000
    assert table.sample("vllm:request_generation_tokens_sum", labels) == 3


def test_what_got_lost_is_counted_and_not_guessed() -> None:
    table = Table()
    table.open()
    table.journeys.token(token(0), 100.75)
    table.journeys.token(token(1), 101.5)
    close(table)
    # Too late to be more than a late message.
    table.journeys.began(first(told=times()))
    assert table.journeys.get("r").first_parts is None
    for which in ("first", "second"):
        assert table.sample("tetris_unattributed_total", f'token="{which}"') == 1
    assert table.sample("tetris_ttft_component_seconds_count", 'component="plan"') == 0
    assert (
        table.sample("vllm:request_queue_time_seconds_count", 'engine="0",model_name="tiny"') == 0
    )


def test_times_of_another_attempt_say_nothing_of_this_one() -> None:
    table = Table()
    table.open()
    table.journeys.token(token(0, attempt=2), 100.75)
    table.journeys.began(first(attempt=1, told=times()))
    close(table, 1)
    assert table.journeys.get("r").first_parts is None
    assert table.sample("tetris_unattributed_total", 'token="first"') == 1


def test_contradicting_clocks_are_counted() -> None:
    table = Table()
    table.open()
    table.journeys.token(token(0), 100.75)
    table.journeys.began(first(told=times(99.9)))
    assert table.sample("tetris_clock_skew_total") == 1


def plan(at: float, attempt: int = 1) -> Planned:
    return story("r", WALL + at, attempt=attempt)[1]


def test_a_prediction_is_compared_with_what_came_of_it_once() -> None:
    for early in (True, False):
        table = Table()
        table.open()
        if early:
            table.journeys.planned(plan(100.05))
        table.journeys.token(token(0), 100.525)
        table.journeys.planned(plan(100.05))
        table.journeys.planned(plan(300.0, attempt=2))
        # From the arrival: planned 0.1 s later, for 0.95 s after that.
        assert round(table.journeys.get("r").predicted, 4) == 1.05
        assert table.sample("tetris_ttft_ratio_count") == 1
        assert round(table.sample("tetris_ttft_ratio_sum"), 3) == 0.5
        chosen = table.sample("tetris_predicted_ttft_seconds_sum", 'plan="chosen"')
        shadow = table.sample("tetris_predicted_ttft_seconds_sum", 'plan="shadow"')
        plans = 3 if early else 2
        assert (round(chosen, 2), round(shadow, 2)) == (round(plans * 0.95, 2), plans * 1.25)


def test_requests_are_found_under_every_name_that_a_client_may_use() -> None:
    table = Table()
    CURRENT.set(Origin("mine-1"))
    table.open(BASE + "-0")
    table.open(BASE + "-1")
    CURRENT.set(Origin("mine-2"))
    table.open("chatcmpl-" + "b" * 32)
    CURRENT.set(None)
    both = [BASE + "-0", BASE + "-1"]
    assert table.journeys.named(BASE) == both
    assert table.journeys.named("mine-1") == both
    assert table.journeys.named(BASE + "-1") == both[1:]
    for name in ("chatcmpl-" + "b" * 32, "chatcmpl-" + "b" * 32 + "-0", "mine-2"):
        assert table.journeys.named(name) == ["chatcmpl-" + "b" * 32]
    for name in ("mine", "", "cmpl-", BASE + "x", "r"):
        assert table.journeys.named(name) == []
    assert [journey.name for journey in table.journeys] == ["chatcmpl-" + "b" * 32, *reversed(both)]


def test_only_the_last_ended_requests_are_remembered() -> None:
    table = Table()
    CURRENT.set(Origin("same"))
    table.open("open")
    for number in range(MAX_ENDED + 3):
        table.open(f"r{number}")
        table.journeys.closed(f"r{number}", "abort", 0, 103.0, 103.0)
    CURRENT.set(None)
    assert table.journeys.get("r2") is None
    assert table.journeys.get("r3") is not None
    assert table.journeys.get("open") is not None
    assert len(table.journeys.named("same")) == MAX_ENDED + 1
