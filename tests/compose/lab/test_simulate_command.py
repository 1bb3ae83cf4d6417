import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from compose.cli import main

KEYS = [
    *("policy", "workload", "rate", "requests", "seed", "ttft_p50", "ttft_p99", "ttft_mean"),
    *("ttft_p99_longest_decile", "throughput_tokens_per_s", "chunks_histogram", "sp_histogram"),
]


def simulate(capsys, *arguments):
    status = main(["simulate", "--requests", "200", *arguments])
    return status, *capsys.readouterr()


def runs(capsys, *arguments):
    status, out, err = simulate(capsys, "--json", *arguments)
    assert (status, err) == (0, "")
    return [json.loads(line) for line in out.splitlines()]


def test_one_run_is_one_object_with_the_promised_keys(capsys):
    (one,) = runs(capsys, "--preset", "a100-llama3-8b", "--workload", "short", "--policy", "cdsp",
                  "--rate", "3", "--seed", "4")  # fmt: skip
    assert list(one) == KEYS
    assert [one[key] for key in KEYS[:5]] == ["cdsp", "short", 3.0, 200, 4]
    assert 0 < one["ttft_p50"] < one["ttft_p99"] <= one["ttft_p99_longest_decile"] * 1.5
    assert sum(one["chunks_histogram"].values()) == 100


def test_lists_make_a_sweep_of_all_combinations(capsys):
    found = runs(capsys, "--policy", "cdsp,fixed-sp:8", "--rate", "1:2:0.5", "--seed", "1,2",
                 "--workload", "short,long")  # fmt: skip
    assert len(found) == 2 * 3 * 2 * 2
    assert {one["rate"] for one in found} == {1.0, 1.5, 2.0}


def test_the_profiled_mapping_holds_unless_a_rate_is_fixed(capsys):
    base = ("--workload", "medium", "--rate", "3.5")
    (mapped,) = runs(capsys, *base)
    (fixed,) = runs(capsys, *base, "--improvement-rate", "0.0")
    assert mapped != fixed
    # Without any regulation groups are larger.
    assert fixed["sp_histogram"].get("16", 0) > mapped["sp_histogram"].get("16", 0)


def test_cluster_order_and_disturbances_are_options(capsys):
    base = ("--policy", "cdsp-priced", "--rate", "3")
    (plain,) = runs(capsys, *base)
    for extra in (
        ("--order", "arrival"), ("--nodes", "1"), ("--instances-per-node", "4"),
        ("--prediction-error", "0.2"), ("--burstiness", "2"), ("--sigma", "0.9"),
        ("--prefill-tokens", "40000", "--transfer-seconds", "0.0001"),
        ("--decode-tokens", "400000", "--token-seconds", "0.1"),
    ):  # fmt: skip
        assert runs(capsys, *base, *extra) != [plain], extra


def test_people_get_a_table_and_a_picture(capsys, tmp_path):
    path = tmp_path / "ttft.svg"
    status, out, _ = simulate(capsys, "--rate", "1,2", "--policy", "cdsp,cdsp-priced",
                              "--plot", str(path))  # fmt: skip
    assert status == 0
    assert out.splitlines()[0].split()[:3] == ["POLICY", "WORKLOAD", "RATE"]
    assert len(out.splitlines()) == 5
    assert path.read_text().count("CDSP, priced") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--policy", "best", "--rate", "1"), "--policy: expected one of cdsp, "),
        (("--policy", "fixed-sp:3", "--rate", "1"), "policy: the latency model knows the sizes"),
        (("--rate", "1", "--order", "slope:x"), "--order: expected arrival, slope:K or tail:X"),
        (("--rate", "1", "--improvement-rate", "1"), "--improvement-rate: "),
        (("--rate", "1", "--requests", "0"), "--requests: "),
        (("--rate", "1", "--workload", "nowhere.csv"), "no workload 'nowhere.csv'"),
        ((), "the workload medium needs a rate"),
        (("--rate", "1", "--preset", "nowhere"), "no preset 'nowhere'"),
        (("--rate", "1", "--requests", "1000001"), "--requests: "),
        (("--rate", "1", "--sigma", "0.001"), "--sigma: "),
        (("--rate", "1", "--decode-tokens", "1000"), "raise decode.kv_tokens"),
        (("--rate", "1", "--nodes", "1024", "--instances-per-node", "1024"), "--nodes, "),
        (("--rate", "1:1000:0.5", "--seed", "0:999:1"), "1999000 runs are too many"),
        (("--rate", "1", "--plot", "x.svg"), "--plot: a line needs at least two rates"),
    ],
)
def test_what_cannot_be_used_is_named(capsys, arguments, said):
    status, out, err = simulate(capsys, *arguments)
    assert status == 2
    assert said in err
    assert out == "" or "--plot" in arguments


@pytest.mark.parametrize("wrong", ["x", "1:2", "1:2:0", "0", "-1", "2:1e99:0.1", "1e300", "1e-300",
                                   "inf:1:1"])  # fmt: skip
def test_wrong_rates_are_refused(capsys, wrong):
    with pytest.raises(SystemExit) as ended:
        main(["simulate", "--rate", wrong])
    assert ended.value.code == 2
    assert "--rate" in capsys.readouterr().err


def test_rates_prints_a_mapping_and_a_body_for_update(capsys):
    base = ["rates", "--top", "0.5", "--requests", "150", "--seed", "1", "--workload", "long"]
    assert main(base) == 0
    assert capsys.readouterr().out.startswith('[cdsp.long]\n"0.5" = 0.')
    assert main([*base, "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert list(body) == ["improvement_rate_mapping"]
    assert main([*base, "--policy", "loongserve"]) == 2
    for top in ("nan", "inf", "0.1", "1e300"):
        assert main(["rates", "--top", top]) == 2
    assert main(["rates", "--requests", "-5"]) == 2


@pytest.mark.parametrize(
    "wrong",
    [("--seed", "inf"), ("--seed", "1e30"), ("--nodes", "-2"), ("--nodes", "0"),
     ("--workload", ","), ("--policy", ",")],
)  # fmt: skip
def test_other_wrong_options_are_refused(capsys, wrong):
    with pytest.raises(SystemExit) as ended:
        main(["simulate", "--rate", "1", *wrong])
    assert ended.value.code == 2
    assert wrong[0] in capsys.readouterr().err


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_end_from_outside_leaves_neither_processes_nor_traces(number, status):
    command = "import sys; from compose.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["simulate", "--rate", "2", "--requests", "50000", "--seed", "1,2"]
    with subprocess.Popen([sys.executable, "-c", command, *arguments],
                          stderr=subprocess.PIPE, start_new_session=True) as parent:  # fmt: skip
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
        deadline = time.monotonic() + 20
        while len(found := children.read_text().split()) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1.0)
        # As a terminal does, which interrupts all of them.
        (os.killpg if number == signal.SIGINT else os.kill)(parent.pid, number)
        _, said = parent.communicate(timeout=20)
    assert (len(found), parent.returncode, said) == (2, status, b"")
    assert not any(Path(f"/proc/{child}").exists() for child in found)
