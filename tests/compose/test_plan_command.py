import json
from pathlib import Path
from typing import Any

import pytest

from compose.cli import main
from tests.services.router.test_worked_examples import TABLE, K

FIT = "a100-llama3-8b"
HALF_BUSY = "0*8,0.31*8"


def answer(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    """What `tetris plan --json` says."""
    assert main(["plan", *argv, "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def failure(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """What `tetris plan` refuses with."""
    assert main(["plan", "--length", "1000", *argv]) == 2
    return capsys.readouterr().err


@pytest.fixture
def table(tmp_path: Path) -> str:
    """A preset whose latency model has Table I's cells."""
    TABLE.dump(tmp_path / "table.toml")
    preset = tmp_path / "preset.toml"
    preset.write_text(
        f'[model]\npath = "emulated"\nname = "table"\n[router]\nlatency = "{tmp_path}/table.toml"\n'
    )
    return str(preset)


def ends(one: dict[str, Any]) -> str:
    """Each member busy until the end of a plan, the others until 1 s, as --delays."""
    group = one["chunks"][-1]["group"]
    delays = [one["ttft"] if f"p{index}" in group else 1.0 for index in range(16)]
    return ",".join(map(repr, delays))


@pytest.mark.parametrize(
    ("preset", "size", "first", "second"),
    [
        # Source: Table I; 1 + 0.53, then 0.31 more; with SP=8 each 1 + 0.58 and 1 + 0.31.
        ("table", 16, 1.53, 1.84),
        ("table", 8, 1.58, 1.31),
        # Source: its fit.
        (FIT, 16, 1.5635, 1.8917),
        (FIT, 8, 1.5710, 1.3283),
    ],
)
def test_32k_and_then_16k_on_instances_that_are_busy_for_a_second(
    capsys: pytest.CaptureFixture[str],
    table: str,
    preset: str,
    size: int,
    first: float,
    second: float,
) -> None:
    preset = table if preset == "table" else preset
    argv = ["--preset", preset, "--policy", f"fixed-sp:{size}"]
    large = answer(capsys, *argv, "--length", str(32 * K), "--delays", "1")
    assert large["ttft"] == pytest.approx(first, abs=5e-5)
    argv = ["--preset", preset, "--policy", "fixed-sp:8"]
    small = answer(capsys, *argv, "--length", str(16 * K), "--delays", ends(large))
    assert small["ttft"] == pytest.approx(second, abs=5e-5)


def test_128k_on_a_half_busy_cluster_by_table_i(
    capsys: pytest.CaptureFixture[str], table: str
) -> None:
    # Source: Table I; SP=16 after 0.31 s takes 2.31 s, SP=8 now 3.96 s.
    argv = ["--preset", table, "--length", str(128 * K), "--delays", HALF_BUSY, "--sizes", "8,16"]
    single = answer(capsys, *argv, "--policy", "single-chunk")
    assert [round(one["ttft"], 4) for one in single["candidates"]] == [3.96, 2.62]
    plan = answer(capsys, *argv)
    assert [len(chunk["group"]) for chunk in plan["chunks"]] == [8, 16]
    assert plan["ttft"] < 2.62


def test_128k_on_a_half_busy_cluster_by_the_fit(capsys: pytest.CaptureFixture[str]) -> None:
    # Source: the fit, at improvement rates below 0.341.
    argv = ["--preset", FIT, "--length", str(128 * K), "--delays", HALF_BUSY]
    plan = answer(capsys, *argv)
    assert plan["policy"]["rate"] == 0.1
    assert abs(plan["ttft"] - 2.50) < 0.005
    first, second = plan["chunks"]
    assert first["group"] == [f"p{index}" for index in range(8)]
    assert first["start"] == 0.0
    assert first["seconds"] == pytest.approx(0.31, abs=1e-4)
    assert second["group"] == [f"p{index}" for index in range(16)]
    assert second["start"] + second["seconds"] == pytest.approx(plan["ttft"])
    assert first["length"] + second["length"] == 128 * K
    assert [round(one["ttft"], 2) for one in plan["candidates"][-2:]] == [3.88, 2.56]
    assert [one["sizes"] for one in plan["chunkings"] if one["chosen"]] == [[8, 16]]
    late = answer(capsys, *argv, "--improvement-rate", "0.35")
    assert [len(chunk["group"]) for chunk in late["chunks"]] == [8]


def test_history_and_prefixes_are_not_computed_again(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--preset", FIT, "--length", "20000"]
    plain = answer(capsys, *argv)
    later = answer(capsys, *argv, "--history", "100000")
    assert later["chunks"][0]["history"] == 100_000
    assert later["ttft"] > plain["ttft"]
    held = answer(capsys, *argv, "--prefix", "10000@4,5")
    assert held["reused"] == {"tokens": 10_000, "members": ["p4", "p5"]}
    assert held["chunks"][0]["history"] == 10_000
    assert held["chunks"][0]["group"][:2] == ["p4", "p5"]
    assert held["ttft"] < plain["ttft"]
    assert [one["reused"]["tokens"] for one in held["shares"]] == [0, 5000, 10_000]


def test_those_who_wait_raise_the_price(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--preset", FIT, "--length", "60000", "--policy", "cdsp-priced"]
    alone = answer(capsys, *argv)
    crowded = answer(capsys, *argv, "--waiting", "50")
    # Three for the cluster and eight for each who waits, over its instances.
    assert alone["policy"]["price"] == 3.0 / 16
    assert crowded["policy"]["price"] == (3.0 + 8.0 * 50) / 16
    assert len(crowded["chunks"][-1]["group"]) < len(alone["chunks"][-1]["group"])


def test_the_cluster_is_the_presets_or_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--preset", FIT, "--length", "200000", "--delays", "0.5*3,0.25"]
    plan = answer(capsys, *argv, "--nodes", "2", "--instances-per-node", "2", "--min-chunk", "7")
    assert [one["size"] for one in plan["candidates"]] == [1, 2, 4]
    assert plan["candidates"][0]["group"] == ["p3"]
    assert plan["policy"]["min_chunk"] == 7
    assert failure(capsys, *argv[:2], "--delays", "0,0") == (
        "tetris: --delays: 2 numbers for 16 prefill instances\n"
    )


@pytest.mark.parametrize("preset", ["cpu", "cpu-smollm2-135m"])
def test_a_latency_model_is_as_good_as_a_preset(
    capsys: pytest.CaptureFixture[str], preset: str
) -> None:
    assert main(["plan", "--preset", preset, "--length", "1000"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("1000 tokens to compute on 16 prefill instances of 2 nodes, latency")
    assert "latency model cpu-smollm2-135m" in out
    assert "The plan: first token after" in out


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["--preset", "nope"], "no preset 'nope'"),
        (["--preset", FIT, "--delays", "0,soon"], "entry 2: 'soon'"),
        (["--preset", FIT, "--policy", "best"], "--policy: "),
        (["--preset", FIT, "--improvement-rate", "1"], "--improvement-rate: "),
        (["--preset", FIT, "--sizes", "3"], "the latency model knows the sizes 1, 2, 4, 8, 16"),
        (["--preset", FIT, "--policy", "fixed-sp:32"], "the latency model knows"),
        (["--preset", FIT, "--nodes", "1", "--sizes", "16"], "fits 8 prefill instances"),
        (["--preset", FIT, "--prefix", "5@16"], "there are 16 instances, counted from 0"),
    ],
)
def test_what_cannot_be_planned_is_refused_with_the_reason(
    capsys: pytest.CaptureFixture[str], argv: list[str], reason: str
) -> None:
    text = failure(capsys, *argv)
    assert text.startswith("tetris: ")
    assert reason in text
