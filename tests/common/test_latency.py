import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError
from common.latency import PRESETS, Curve, LatencyModel, Sample

LENGTHS = [4096 * 2**power for power in range(7)]
TABLE_I = {
    1: [0.28, 0.57, 1.29, 3.22, 9.05, 29.20],
    2: [0.16, 0.31, 0.69, 1.67, 4.61, 14.30, 50.07],
    4: [0.13, 0.20, 0.39, 0.92, 2.43, 7.32, 24.77],
    8: [0.21, 0.24, 0.31, 0.58, 1.37, 3.96, 12.81],
    16: [0.39, 0.43, 0.46, 0.53, 0.96, 2.31, 7.02],
}
ERRORS = {
    1: [-0.1, 0.3, -0.5, -0.1, 0.8, -0.4],
    2: [-0.3, 1.1, -1.0, -0.2, 0.1, 0.9, -0.7],
    4: [-2.1, 3.2, 1.3, -2.6, -1.7, 0.3, 1.4],
    8: [-2.8, 0.0, 5.9, -1.5, -3.6, -2.0, 3.3],
    16: [2.1, -4.0, -1.9, 6.3, -2.9, -2.8, 2.3],
}
"""Per cent, of the shipped fit."""
SAMPLES = [
    Sample(size, 0, length, seconds)
    for size, row in TABLE_I.items()
    for length, seconds in zip(LENGTHS, row, strict=False)
]
GOOD = "[sizes.1]\na = 0.1\nb = 1e-4\nc = 0\nd = 1e-9\n"


@pytest.mark.parametrize("size", TABLE_I)
def test_the_a100_preset_has_the_stated_error_in_every_cell_of_table_i(size):
    model = LatencyModel.load("a100-llama3-8b")
    errors = [100 * model.error(sample) for sample in SAMPLES if sample.size == size]
    assert errors == pytest.approx(ERRORS[size], abs=0.06)
    assert max(map(abs, errors)) < 6.4
    assert model.curves[size].c == pytest.approx(2 * model.curves[size].d)


def test_the_a100_preset_is_the_fit_of_table_i():
    fitted, shipped = LatencyModel.fit(SAMPLES), LatencyModel.load("a100-llama3-8b")
    assert fitted.sizes == shipped.sizes == (1, 2, 4, 8, 16)
    for size in fitted.sizes:
        assert fitted.curves[size] == pytest.approx(shipped.curves[size], rel=1e-6)


CPU_SAMPLES = [
    Sample(1, 0, 1500, 5.011),
    Sample(1, 0, 3000, 12.407),
    Sample(1, 3000, 3000, 19.567),
    Sample(2, 0, 3000, 6.266),
    Sample(2, 1000, 3000, 7.708),
    Sample(2, 3000, 3000, 10.518),
]
"""Some of what tests.bench.measure_latency printed when it wrote the preset."""


@pytest.mark.parametrize("sample", CPU_SAMPLES)
def test_the_cpu_preset_is_near_what_was_measured(sample: Sample):
    assert abs(LatencyModel.load("cpu-smollm2-135m").error(sample)) < 0.12


coefficients = st.tuples(
    st.floats(0, 1), st.floats(1e-9, 1e-3), st.floats(0, 1e-6), st.floats(0, 1e-6)
)


@given(coefficients, st.integers(0, 200_000), st.floats(-1, 100))
def test_solve_is_the_largest_length_within_the_budget(values, history, budget):
    model = LatencyModel({2: Curve(*values)})
    length = model.solve(2, history, budget)
    a, b, c, d = values

    def seconds(x):
        return a + x * (b + c * history + d * x)

    assert length >= 0
    if length:
        assert seconds(length) <= budget
    if length < 2**31 - 1:
        assert seconds(length + 1) > budget or budget <= a


def test_solve_without_slope_is_bounded_by_the_fixed_cost_alone():
    model = LatencyModel({1: Curve(0.5, 0, 0, 0)})
    assert model.solve(1, 0, 0.4) == 0
    assert model.solve(1, 0, 0.6) > 10**9


@given(coefficients)
def test_fit_finds_the_curve_that_made_the_samples(values):
    truth = LatencyModel({4: Curve(values[0] + 0.01, *values[1:])})
    samples = [
        Sample(4, history, length, truth.predict(4, history, length))
        for history in (0, 8_000, 64_000)
        for length in (512, 4_000, 16_000, 100_000)
    ]
    fitted = LatencyModel.fit(samples)
    assert all(abs(fitted.error(sample)) < 1e-5 for sample in samples)


def test_fit_keeps_coefficients_non_negative_when_noise_would_not():
    samples = [Sample(1, 0, length, 1.0 - length * 1e-6) for length in (100, 1000, 10_000)]
    assert min(LatencyModel.fit(samples).curves[1]) >= 0


@pytest.mark.parametrize("samples", [[], [Sample(1, 0, 10, 0.0)], [Sample(1, -1, 10, 1.0)]])
def test_fit_refuses_what_is_no_measurement(samples):
    with pytest.raises(ValueError):
        LatencyModel.fit(samples)


def test_a_dumped_model_loads_unchanged_and_leaves_no_other_file(tmp_path):
    model = LatencyModel.fit(SAMPLES)
    path = tmp_path / "deep" / "mine.toml"
    model.dump(path, "measured\nhere")
    assert LatencyModel.load(str(path)).curves == model.curves
    assert path.read_text().startswith("# measured\n# here\n")
    assert [entry.name for entry in path.parent.iterdir()] == ["mine.toml"]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("", "sizes"),
        ("[sizes]", "sizes"),
        ("other = 1\n" + GOOD, "other"),
        (GOOD.replace("sizes.1", "sizes.x"), "sizes.x"),
        (GOOD.replace("sizes.1", "sizes.0"), "sizes.0"),
        (GOOD.replace("b = 1e-4\n", ""), "sizes.1.b: missing"),
        (GOOD + "e = 1\n", "sizes.1.e: unknown"),
        (GOOD.replace("0.1", "-0.1"), "sizes.1.a"),
        (GOOD.replace("0.1", "inf"), "sizes.1.a"),
        (GOOD.replace("0.1", "'x'"), "sizes.1"),
        ("[sizes]\n1 = 2\n", "sizes.1"),
        ("not toml", "mine.toml"),
    ],
)
def test_a_wrong_file_is_named_with_its_key(tmp_path, text, key):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=key) as raised:
        LatencyModel.load(str(path))
    assert str(path) in str(raised.value)


def test_an_unknown_name_lists_the_presets():
    with pytest.raises(ConfigError, match="a100-llama3-8b"):
        LatencyModel.load("no-such-model")
    assert (PRESETS / "a100-llama3-8b.toml").exists()
