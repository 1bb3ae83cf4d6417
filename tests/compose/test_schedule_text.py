import msgspec
import pytest

from common.errors import ConfigError
from common.schedule import Pricing, Report, Schedule, State, change_of, changed
from compose.schedule_text import change_in, schedule_text

SCHEDULE = Schedule(
    policy="fixed-sp:2",
    sp_size_candidates=(1, 2),
    improvement_rate_mapping={"0.5": 0.1, "2": 0.75},
    priced=Pricing(order="arrival", replan=False),
)


def test_a_schedule_is_one_line_for_each_key():
    text = schedule_text(Report(SCHEDULE, State(1.25, 0.1, 7, "2026-01-02T03:04:05.678+00:00")))
    assert text.splitlines() == [
        "policy=fixed-sp:2",
        "sp_size_candidates=[1,2]",
        "improvement_rate=0.1",
        "improvement_rate_mapping.0.5=0.1",
        "improvement_rate_mapping.2=0.75",
        "improvement_rate_update_period=30.0",
        "min_chunk=128",
        "priced.base=3.0",
        "priced.per_waiting=8.0",
        "priced.late_binding=true",
        "priced.replan=false",
        "priced.order=arrival",
        "# since 2026-01-02T03:04:05.678+00:00; load 1.25 requests/s; "
        "improvement rate in force 0.1",
    ]


def test_what_is_as_configured_and_not_counted_is_told_so():
    text = schedule_text(Report(Schedule(), State(None, 0.25, 0, None)))
    assert "improvement_rate_mapping={}\n" in text
    assert text.endswith("# as configured; load not counted yet; improvement rate in force 0.25")


@pytest.mark.parametrize("schedule", [SCHEDULE, Schedule()])
def test_what_is_shown_can_be_given_back(schedule: Schedule):
    lines = schedule_text(Report(schedule, State(None, 0.1, 0, None))).splitlines()[:-1]
    assert changed(Schedule(policy="loongserve"), change_of(change_in(lines))) == schedule


def test_words_are_a_change():
    words = ["policy=cdsp-priced", "priced.order=slope:3", "priced.base=1", "min_chunk=5", "a==b"]
    assert change_in(words) == {
        "policy": "cdsp-priced",
        "priced": {"order": "slope:3", "base": 1},
        "min_chunk": 5,
        "a": "=b",
    }
    assert change_in([]) == {}
    assert msgspec.json.encode(change_in(["improvement_rate_mapping.0.5=0.1"])) == (
        b'{"improvement_rate_mapping":{"0.5":0.1}}'
    )


@pytest.mark.parametrize("words", [["policy"], ["=1"], ["priced=1", "priced.base=2"], [""]])
def test_a_word_that_is_no_change_is_named(words: list[str]):
    with pytest.raises(ConfigError, match=r"KEY=VALUE|whole and in part"):
        change_in(words)
