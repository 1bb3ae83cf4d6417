"""How long a chunk takes: T_s(history, length) for every SP size s.

One quadratic per size, `a + b·length + c·history·length + d·length²` seconds, fitted offline to
measurements and kept in a TOML file. Planner, simulator and emulated engines read the same model.

Source:
    Specification, section 6.
"""

import math
import os
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.errors import ConfigError

PRESETS = Path(__file__).resolve().parent.parent / "compose" / "latency"
"""Where models that are known by name alone lie."""

_MAX_LENGTH = 2**31 - 1
_SHORTEST = 1e-9
"""Seconds that a ratio divides by, at least."""


class Curve(NamedTuple):
    """The four coefficients of one SP size; seconds, and seconds per token (squared)."""

    a: float
    b: float
    c: float
    d: float

    def scaled(self, factor: float) -> "Curve":
        """The curve that takes `factor` times as long."""
        return Curve(*(factor * value for value in self))


class Sample(NamedTuple):
    """One measured chunk; `seconds` > 0."""

    size: int
    history: int
    length: int
    seconds: float


class LatencyModel:
    """Predicted prefill seconds per SP size."""

    def __init__(self, curves: Mapping[int, Curve]) -> None:
        self.curves = dict(sorted(curves.items()))
        self.sizes = tuple(self.curves)

    def predict(self, size: int, history: int, length: int) -> float:
        """Seconds that a group of `size` takes for `length` tokens after `history`."""
        return predict(self.curves[size], history, length)

    def solve(self, size: int, history: int, budget: float) -> int:
        """The most tokens that a group of `size` computes within `budget` seconds; 0 when none."""
        return solve(self.curves[size], history, budget)

    def fastest(self, length: int) -> float:
        """Seconds of a whole prompt on an empty cluster, with the size that suits it best."""
        return min(predict(curve, 0, length) for curve in self.curves.values())

    def error(self, sample: Sample) -> float:
        """Relative error of the prediction for one measurement."""
        return self.predict(sample.size, sample.history, sample.length) / sample.seconds - 1

    def ratio(self, sample: Sample) -> float:
        """Measured over predicted seconds."""
        predicted = self.predict(sample.size, sample.history, sample.length)
        return sample.seconds / max(predicted, _SHORTEST)

    def scaled(self, factor: float) -> "LatencyModel":
        """The model of a device that takes `factor` times as long."""
        return LatencyModel({size: curve.scaled(factor) for size, curve in self.curves.items()})

    @classmethod
    def fit(cls, samples: Iterable[Sample]) -> "LatencyModel":
        """Relative least squares with coefficients >= 0, one curve per size.

        Without any history in a size's samples its c is 2·d: attending to history costs twice
        the causal half.

        Raises:
            ValueError: no samples, or one that is not positive.
        """
        by_size: dict[int, list[Sample]] = {}
        for sample in samples:
            if sample.seconds <= 0 or sample.length <= 0 or sample.history < 0:
                raise ValueError(f"not a measurement: {sample}")
            by_size.setdefault(sample.size, []).append(sample)
        if not by_size:
            raise ValueError("no samples to fit")
        return cls({size: fit_curve(rows) for size, rows in by_size.items()})

    @classmethod
    def load(cls, name: str) -> "LatencyModel":
        """Read a model by its name among the presets, or by its path.

        Raises:
            ConfigError: no such file, or a key in it that is missing, unknown or out of range.
        """
        path = Path(name) if name.endswith(".toml") else PRESETS / f"{name}.toml"
        try:
            table = tomllib.loads(path.read_text())
        except FileNotFoundError:
            known = ", ".join(sorted(entry.stem for entry in PRESETS.glob("*.toml")))
            raise ConfigError(f"{path}: no such latency model; presets: {known}") from None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{path}: {error}") from error
        return cls(dict(_curves(path, table)))

    def dump(self, path: Path, comment: str = "") -> None:
        """Write the model atomically; every line of `comment` heads the file."""
        lines = [f"# {line}".rstrip() for line in comment.splitlines()]
        for size, curve in self.curves.items():
            lines += ["", f"[sizes.{size}]"]
            lines += [f"{key} = {value!r}" for key, value in curve._asdict().items()]
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            file.write("\n".join(lines).lstrip("\n") + "\n")
        os.chmod(file.name, 0o644)
        os.replace(file.name, path)


def predict(curve: Curve, history: int, length: int) -> float:
    """Seconds for `length` tokens after `history`."""
    a, b, c, d = curve
    return a + length * (b + c * history + d * length)


def solve(curve: Curve, history: int, budget: float) -> int:
    """The most tokens after `history` that take at most `budget` seconds; 0 when none."""
    a, b, c, d = curve
    room, slope = budget - a, b + c * history
    if room <= 0:
        return 0
    if slope <= 0 and d <= 0:
        return _MAX_LENGTH
    # The stable form of the quadratic's root; it holds for d = 0 as well.
    root = 2 * room / (slope + math.sqrt(slope * slope + 4 * d * room))
    length = min(int(root), _MAX_LENGTH)
    # The root is rounded: step to the exact boundary.
    while length > 0 and a + length * (slope + d * length) > budget:
        length -= 1
    while length < _MAX_LENGTH and a + (length + 1) * (slope + d * (length + 1)) <= budget:
        length += 1
    return length


def _curves(path: Path, table: dict[str, object]) -> Iterator[tuple[int, Curve]]:
    """The curves of a file, or a ConfigError that names the first wrong key."""
    unknown = sorted(set(table) - {"sizes"})
    if unknown:
        raise ConfigError(f"{path}: {unknown[0]}: unknown key")
    sizes = table.get("sizes")
    if not isinstance(sizes, dict) or not sizes:
        raise ConfigError(f"{path}: sizes: missing; one table [sizes.<SP size>] for each size")
    for key, values in sizes.items():
        if not (key.isdecimal() and 1 <= int(key) <= 1024):
            raise ConfigError(f"{path}: sizes.{key}: an SP size is an integer from 1 to 1024")
        if not isinstance(values, dict):
            raise ConfigError(f"{path}: sizes.{key}: must be a table with a, b, c, d")
        yield int(key), _curve(path, f"sizes.{key}", values)


def _curve(path: Path, where: str, values: dict[str, object]) -> Curve:
    for key in (*values, *Curve._fields):
        if key not in Curve._fields:
            raise ConfigError(f"{path}: {where}.{key}: unknown key")
        if key not in values:
            raise ConfigError(f"{path}: {where}.{key}: missing")
    try:
        curve = Curve(**msgspec.convert(values, dict[str, float]))
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {where}: {error}") from error
    for key, value in curve._asdict().items():
        if not 0 <= value < math.inf:
            raise ConfigError(f"{path}: {where}.{key}: must be a finite number >= 0")
    return curve


def fit_curve(rows: Sequence[Sample], weights: Sequence[float] | None = None) -> Curve:
    """Relative least squares with coefficients >= 0 over samples of one size.

    Args:
        rows: at least one, all positive.
        weights: of each row's squared error; 1 when absent.
    """
    history = np.array([row.history for row in rows], dtype=np.float64)
    length = np.array([row.length for row in rows], dtype=np.float64)
    seconds = np.array([row.seconds for row in rows], dtype=np.float64)
    terms = [np.ones_like(length), length, history * length, length * length]
    if not history.any():
        terms.pop(2)
    factors = np.ones_like(seconds) if weights is None else np.sqrt(weights)
    found = _non_negative(np.stack(terms, axis=1) * (factors / seconds)[:, None], factors)
    if len(found) == 3:
        a, b, d = found
        return Curve(a, b, 2 * d, d)
    return Curve(*found)


def _non_negative(matrix: NDArray[np.float64], goal: NDArray[np.float64]) -> list[float]:
    """The x >= 0 that brings `matrix @ x` closest to `goal`; every set of terms is tried."""
    scale = np.linalg.norm(matrix, axis=0)
    scaled = matrix / scale
    columns = matrix.shape[1]
    best, best_error = np.zeros(columns), math.inf
    for count in range(1, columns + 1):
        for active in map(list, combinations(range(columns), count)):
            found = np.linalg.lstsq(scaled[:, active], goal, rcond=None)[0]
            error = float(np.sum((scaled[:, active] @ found - goal) ** 2))
            if (found >= 0).all() and error < best_error:
                best, best_error = np.zeros(columns), error
                best[active] = found
    return [float(value) for value in best / scale]
