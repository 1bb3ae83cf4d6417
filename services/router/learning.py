"""Keeps the latency model true to what chunks take in fact. Pure.

For each SP size the last chunks are kept in cells of similar length and history, so that a run of
equal requests does not push out what is known of others. A refit takes from each cell the chunk
with the median ratio to the prior: one that was disturbed decides nothing. Where a size has not
been measured, the prior stands in, scaled by the median ratio of all that was measured of it, with
the weight of one cell in all. Sizes that have never been measured follow the nearest one that has.
When all recent chunks are off to one side, the device has become faster or slower, and what was
measured before is scaled as they are.
"""

from collections import deque
from dataclasses import dataclass, field
from itertools import chain
from statistics import median, median_low

from common.latency import Curve, LatencyModel, Sample, fit_curve
from services.router.measuring import Measured

KEPT = 8
"""Chunks of a cell."""
RECENT = 5
"""Chunks of a size that are asked whether things have changed."""
SEEN = 8
"""Chunks over which drift is told."""
ENOUGH = 3
"""Chunks that make a size measured, and a cell's median robust."""
FRESH = 8
"""New chunks of a size after which it is fitted again."""
OFF = 0.1
"""Median error of the recent chunks at which `ENOUGH` new ones suffice."""
CHANGED = 1.25
"""Factor by which recent chunks have to differ, all to one side, for a change of speed."""
THIN = 1.5
"""Factor by which a cell of fewer than `ENOUGH` chunks may differ from its size's median."""
GRID = tuple((history, 4**power) for power in range(2, 9) for history in (0, 4**power, 65536))
"""(history, length) at which the prior stands in for what was not measured."""


@dataclass(slots=True)
class _Size:
    cells: dict[tuple[int, int], deque[Sample]] = field(default_factory=dict)
    recent: deque[Sample] = field(default_factory=lambda: deque(maxlen=RECENT))
    ratios: deque[float] = field(default_factory=lambda: deque(maxlen=SEEN))
    fresh: int = 0

    def add(self, sample: Sample) -> None:
        """Keep a chunk."""
        self.recent.append(sample)
        self._keep(sample)
        self.fresh += 1

    def scale_past(self, factor: float, recent: list[Sample]) -> None:
        """What came before the recent chunks would now take `factor` times as long."""
        for cell in self.cells.values():
            for index, one in enumerate(cell):
                if one not in recent:
                    cell[index] = one._replace(seconds=factor * one.seconds)

    @property
    def samples(self) -> list[Sample]:
        """All that is kept."""
        return list(chain.from_iterable(self.cells.values()))

    def _keep(self, sample: Sample) -> None:
        self.cells.setdefault(_cell(sample.history, sample.length), deque(maxlen=KEPT)).append(
            sample
        )


class Learning:
    """The model in force, and what it has been learnt from.

    Args:
        prior: the model to begin with; its sizes are all there will be.
    """

    def __init__(self, prior: LatencyModel) -> None:
        self.model = prior
        self._prior = prior
        self._sizes: dict[int, _Size] = {}

    def take(self, measured: Measured) -> None:
        """Note a chunk, unless one member has held up the others: that says nothing of its size."""
        sample = measured.sample
        if sample.size not in self._prior.curves or not measured.is_even:
            return
        size = self._sizes.setdefault(sample.size, _Size())
        size.ratios.append(measured.ratio)
        size.add(sample)

    def drift(self) -> dict[int, float]:
        """Median of measured over predicted seconds of each measured size's last chunks."""
        return {number: median(size.ratios) for number, size in sorted(self._sizes.items())}

    @property
    def num_samples(self) -> dict[int, int]:
        """Chunks of each size that the next fit looks at."""
        return {number: len(size.samples) for number, size in sorted(self._sizes.items())}

    @property
    def is_due(self) -> bool:
        """Whether a refit would say something new."""
        return any(self._is_due(size) for size in self._sizes.values())

    def refit(self) -> LatencyModel:
        """The model of all that is known now, in force from here on."""
        scales = {}
        for number, size in self._sizes.items():
            self._follow_change(size)
            size.fresh = 0
            if len(size.samples) >= ENOUGH:
                scales[number] = median(map(self._prior.ratio, size.samples))
        if scales:
            self.model = LatencyModel(
                {number: self._curve(number, scales) for number in self._prior.sizes}
            )
        return self.model

    def settle(self) -> None:
        """Count the model in force as the prior from here on, as after a calibration."""
        self._prior = self.model

    def restart(self, prior: LatencyModel) -> None:
        """Begin again with another model in force."""
        self.model = self._prior = prior
        self._sizes.clear()

    def _is_due(self, size: _Size) -> bool:
        if size.fresh >= FRESH:
            return True
        error = median(map(self.model.ratio, size.recent)) - 1
        return size.fresh >= ENOUGH and abs(error) > OFF

    def _follow_change(self, size: _Size) -> None:
        """See whether the last chunks of different kinds are off, or all recent ones but one."""
        recent = list(size.recent)
        last = recent[-ENOUGH:]
        if len({_cell(one.history, one.length) for one in last}) == 1:
            last = []
        for chunks, spared in ((last, 0), (recent, 1)):
            past = [one for one in size.samples if one not in chunks]
            if len(chunks) < ENOUGH + 2 * spared or not past:
                continue
            # The model may be off for all of them alike.
            usual = median(map(self.model.ratio, past))
            factors = sorted(self.model.ratio(one) / usual for one in chunks)
            if factors[spared] > CHANGED or factors[-1 - spared] < 1 / CHANGED:
                size.scale_past(median(factors), chunks)
                return

    def _curve(self, number: int, scales: dict[int, float]) -> Curve:
        prior = self._prior.curves[number]
        if number not in scales:
            nearest = min(scales, key=lambda known: (abs(known - number), known))
            return prior.scaled(scales[nearest])
        return self._fitted(number, scales[number])

    def _fitted(self, number: int, scale: float) -> Curve:
        cells = self._sizes[number].cells
        rows = [self._typical(list(cell), scale) for cell in cells.values()]
        weights = [1.0] * len(rows)
        expected = [
            Sample(number, *place, scale * self._prior.predict(number, *place))
            for place in GRID
            if _cell(*place) not in cells
        ]
        rows += expected
        weights += [1 / len(expected)] * len(expected)
        return fit_curve(rows, weights)

    def _typical(self, cell: list[Sample], scale: float) -> Sample:
        """The chunk with the median ratio; as long as there are few, no farther off than others."""
        ratio = self._prior.ratio
        middle = median_low(map(ratio, cell))
        sample = next(one for one in cell if ratio(one) == middle)
        if len(cell) >= ENOUGH:
            return sample
        allowed = min(max(middle, scale / THIN), scale * THIN)
        return sample._replace(seconds=sample.seconds * allowed / middle)


def _cell(history: int, length: int) -> tuple[int, int]:
    """Lengths within a factor of two, histories within a factor of four."""
    return length.bit_length(), (history.bit_length() + 1) // 2
