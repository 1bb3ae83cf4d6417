"""Keeps the latency model true: finds one measured before, calibrates, learns, and keeps it.

The model in force is immutable and changes in `tick` alone, never while plans are made; a plan
keeps the predictions that it was made with. Nothing waits for a calibration: its prompts run only
while nothing else is in the mesh, and the first real request ends the one that runs.
"""

from common.config import RouterConfig
from common.latency import LatencyModel
from common.messages import ChunkDone, Role
from common.pages import PAGE
from services.router.books import Books
from services.router.calibration import Calibration, Order
from services.router.latency_store import LatencyStore, key_of
from services.router.learning import Learning
from services.router.orders import Orders
from services.router.scheduler import Scheduler, sizes_of

SWAP = 2.0
"""Seconds between two models in force, at least."""
KEEP = 60.0
"""Seconds between two writings of what was learnt, at least."""
NEEDED: tuple[Role, ...] = ("prefill-worker", "decode-worker", "kv-transfer")
"""Without one of each no prompt runs."""
SPARE = 4 * PAGE
"""Slots of an instance that a prompt leaves alone."""
PROBE_SECONDS = 0.2
"""What a slow instance is tried with, had it its usual speed."""


class Tuning:
    """Of one router life."""

    def __init__(
        self,
        config: RouterConfig,
        books: Books,
        scheduler: Scheduler,
        orders: Orders,
        store: LatencyStore,
    ) -> None:
        self._config = config
        self._books = books
        self._scheduler = scheduler
        self._orders = orders
        self._store = store
        self._prior = scheduler.model
        self.learning = Learning(scheduler.model)
        self._num_single = 0
        self._key: str | None = None
        self._comment = ""
        self._calibration: Calibration | None = None
        self._is_known = False
        self._origin = "as given"
        self._swapped = self._kept = float("-inf")
        self._saved = scheduler.model

    def done(self, done: ChunkDone, now: float) -> None:
        """A member has computed its part of a chunk."""
        measured = self._books.measuring.take(done)
        if measured is None:
            return
        speeds = self._books.speeds
        if self._config.learn:
            speeds.take(measured, self.learning.model, now)
        if speeds.slow.isdisjoint(measured.computes):
            self.learning.take(measured)
        if self._calibration is not None and measured.owner == self._orders.running:
            self._calibration.take(measured.sample)

    def make_way(self, now: float) -> None:
        """A real request has come: end what the router has ordered, for now."""
        if self._orders.running is None:
            return
        seconds = self._orders.elapsed(now)
        self._orders.stop(now)
        if self._calibration is not None:
            self._calibration.over(seconds, is_interrupted=True)

    def tick(self, now: float) -> None:
        """See what is due: a kept model, a better one, the next prompt, a writing."""
        self._recall()
        if self._config.learn and self.learning.is_due and now - self._swapped >= SWAP:
            self._use(self.learning.refit(), now)
        if self._orders.running is not None:
            self._follow(now)
        elif self._is_wanted(now):
            self._calibrate(now)
        elif self._config.learn:
            self._probe(now)
        if self._is_known and now - self._kept >= KEEP and self.learning.model is not self._saved:
            self._keep(now)

    def text(self) -> str:
        """How well the model is known, how far chunks are off it, and which instances are slow."""
        speeds, parts = self._books.speeds, [self._origin]
        if self._calibration is not None:
            parts = [f"calibrating, {self._calibration.progress}"]
        drift = [f"SP {size} {ratio:.2f}" for size, ratio in self.learning.drift().items()]
        parts += [f"measured/predicted {', '.join(drift)}"] if drift else []
        slow = [f"{name} {speeds.factor(name):.1f} times" for name in sorted(speeds.slow)]
        parts += [f"left out as slow: {', '.join(slow)}"] if slow else []
        return "; ".join(parts)[:2048]

    def _recall(self) -> None:
        """Begin with what an earlier router has measured on such instances, if it did."""
        first = next(iter(self._books.registry.of("prefill-worker")), None)
        if self._key is not None or first is None or not self._config.calibrate_seconds:
            return
        hello = first.hello
        self._key = key_of(hello, self._prior)
        dtype = hello.layout.dtype if hello.layout is not None else "unknown"
        self._comment = f"Prefill seconds of {hello.model.name} in {dtype} on {hello.device}."
        found = self._store.load(self._key, self._prior.sizes)
        if found is None:
            self._origin = "as given, not calibrated yet"
            return
        self.learning.restart(found)
        self._scheduler.learn(found)
        self._saved, self._is_known, self._origin = found, True, "measured in an earlier life"

    def _is_wanted(self, now: float) -> bool:
        """Whether a prompt can be ordered: the mesh is complete and nothing is in it."""
        books = self._books
        if self._key is None or self._is_known or books.registry.is_growing(now):
            return False
        return all(map(books.registry.serving, NEEDED)) and books.quiescent()

    def _calibrate(self, now: float) -> None:
        names = self._serving()
        if self._calibration is None:
            schedule, known = sizes_of(self._scheduler.schedule), self._prior.curves
            sizes = [size for size in schedule if size in known and size <= len(names)]
            if not sizes:
                return
            self._calibration = Calibration(self._config.calibrate_seconds, sizes)
        order = self._calibration.next(self._scheduler.model, self._room)
        if order is None or self._calibration.is_over:
            self._finish(self._calibration, now)
        elif not self._orders.start(order, self._turn(order, names), now):
            self._calibration.skip()

    def _turn(self, order: Order, names: list[str]) -> frozenset[str]:
        """Who may run it: prompts for one instance go round, so that each gets some."""
        if order.size > 1:
            return frozenset(names)
        self._num_single += 1
        return frozenset([names[self._num_single % len(names)]])

    def _room(self, size: int) -> int:
        """The longest prompt that an empty mesh can take on so many instances; 1 more is emitted.

        Some pages are left for rounding.
        """
        registry, placement = self._books.registry, self._books.placement
        totals = self._books.memory.totals()
        least = min((totals[name] for name in self._serving()), default=0)
        decode = placement.largest({one.name for one in registry.serving("decode-worker")})
        limit = registry.max_model_len or 1
        return min(limit - 1, decode - SPARE, size * (least - SPARE))

    def _follow(self, now: float) -> None:
        """See whether the prompt is over, or takes all the time that there is."""
        seconds, calibration = self._orders.elapsed(now), self._calibration
        left = self._config.calibrate_seconds
        left -= calibration.spent if calibration is not None else 0.0
        if self._orders.is_over():
            self._orders.settle()
        elif seconds >= max(left, PROBE_SECONDS):
            self._orders.stop(now)
        else:
            return
        if calibration is not None:
            calibration.over(seconds, is_interrupted=False)

    def _finish(self, calibration: Calibration, now: float) -> None:
        self._calibration, self._is_known = None, True
        self._use(self.learning.refit(), now)
        self.learning.settle()
        self._origin = f"calibrated in {calibration.spent:.1f} s"
        chunks = sum(self.learning.num_samples.values())
        self._store.tell("calibrated", seconds=round(calibration.spent, 2), chunks=chunks)
        self._keep(now)

    def _probe(self, now: float) -> None:
        """Try a slow instance that has nothing to do: it may have recovered."""
        books, serving = self._books, self._serving()
        for name in books.speeds.due(now):
            if name in serving and not books.pool.planned(name):
                length = self._scheduler.model.solve(1, 0, PROBE_SECONDS)
                order = Order(1, (max(2, min(length, self._room(1))),))
                books.speeds.tried(name, now)
                if self._orders.start(order, frozenset([name]), now):
                    return

    def _use(self, model: LatencyModel, now: float) -> None:
        self._swapped = now
        self._scheduler.learn(model)
        self._books.speeds.judge(model)

    def _keep(self, now: float) -> None:
        if self._key is None:
            return
        self._kept, self._saved = now, self.learning.model
        self._store.save(self._key, self._saved, f"{self._comment}\nThe model is {self._origin}.")

    def _serving(self) -> list[str]:
        return [member.name for member in self._books.registry.serving("prefill-worker")]
