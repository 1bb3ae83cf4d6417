from loadgen.client import Outcome
from loadgen.report import make_report, progress


def outcome(first: float, gap: float, count: int) -> Outcome:
    arrivals = [first + gap * i for i in range(count)]
    return Outcome(0.0, 0.001, arrivals, arrivals[-1], 10, count, "")


def test_figures_are_those_of_the_completed_requests() -> None:
    failed = Outcome(0.0, 0.002, [9.0], 9.0, error="lost")
    outcomes = [outcome(0.1, 0.01, 5), outcome(0.3, 0.03, 5), failed]
    report = make_report(outcomes, duration=2.0)
    assert (report["completed"], report["failed"]) == (2, 1)
    assert (report["output_throughput"], report["request_throughput"]) == (5.0, 1.0)
    assert round(report["mean_ttft_ms"], 6) == 200
    assert round(report["p99_ttft_ms"], 6) == 298
    assert round(report["mean_itl_ms"], 6) == round(report["mean_tpot_ms"], 6) == 20
    assert round(report["median_e2el_ms"], 6) == 280
    assert report["max_send_delay_ms"] == 2.0


def test_a_run_without_answers_has_figures_too() -> None:
    assert make_report([], duration=1.0)["p99_ttft_ms"] == 0.0


def test_progress_counts_what_has_ended() -> None:
    outcomes = [outcome(0.5, 0.1, 2), Outcome(0.0, 0.0)]
    assert progress(outcomes, 1, 9) == "1/9 done, 1 running, TTFT P50 0.50 s"
