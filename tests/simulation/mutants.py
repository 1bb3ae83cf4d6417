"""Planted bugs: does the simulation find them? `python -m tests.simulation.mutants`.

Each mutant replaces one method of the services by one that is wrong, for as long as its context
lasts.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.messages import KvCommit, KvLayer, Skip
from common.pages import PAGE, Owner, PagePool, num_slots
from gateway.mesh.streams import Stream
from services.decode_worker.fence import Fence
from services.kv_transfer import receive_manager
from services.kv_transfer.service import Broker
from services.prefill_worker.transfer import Transfer
from services.prefill_worker.turns import Turns
from services.router.dispatch import Dispatch, Parcel
from services.router.levelling import Levelling
from services.router.membership import Membership
from tests.simulation.scenario import play


def _release_twice(self: Any, transfer: receive_manager.Transfer) -> bool:
    """A repeated Release frees its backend again."""
    if transfer in self.lent:
        self.idle.append(self.lent.pop(transfer).backend)
    elif transfer in self.released:
        self.idle.append(0)
    elif transfer not in self.waiting:
        return False
    self.waiting.pop(transfer, None)
    self.released.add(transfer)
    return True


def _any_turn(self: Turns[Any]) -> Any:
    """Turns are executed as they come, whatever is missing before them."""
    while self._running is None and self._waiting:
        turn = min(self._waiting)
        work = self._waiting.pop(turn)
        if work is not None:
            self._running = turn
            return work
        self.finished_through = turn
    return None


def _any_loan(self: Fence, message: KvLayer | KvCommit) -> None:
    """KV is taken under whatever loan."""


def _skip_once(self: Dispatch, name: str, turn: int, now: float) -> Parcel | None:
    """A lost Skip is not sent again."""
    parcel = self._parcels.get(name, {}).pop(turn, None)
    if parcel is None:
        return None
    run = parcel.message
    life = run.incarnation if isinstance(run, Skip) else run.members[run.rank].incarnation
    return Parcel(Skip(life, self._epoch, turn), None, now)


def _lose_silently(self: Membership, name: str, why: str, now: float) -> None:
    """Attempts that need a lost member are not ended."""
    member = self._books.registry.find(name)
    if member is not None:
        self._remove(member, departed=False)
        self._assign_brokers()


def _from_the_prompt(self: Stream) -> Any:
    """A new attempt forgets what was emitted."""
    return self.prompt[:]


def _old_generation(self: Broker, now: float) -> int:
    """A new broker counts its loans from the start."""
    return 0


def _free_twice(self: PagePool, owner: Owner) -> int:
    """Pages that were given back are given back again."""
    runs = self._owned.get(owner, [])
    for run in runs:
        self._insert(run)
    return num_slots(runs) * PAGE


def _keep_orphans(self: Levelling, *facts: object) -> None:
    """Nobody is told to let go of what is over."""


def _same_attempt(self: Stream) -> None:
    """A new attempt has the number of the one before."""
    self._ahead.clear()


def _hasty_take(take: Callable[..., list[int]]) -> Callable[..., list[int]]:
    def hasty(self: Transfer, now: float, window: int) -> list[int]:
        """KV is let go of before decode has acknowledged the last of it."""
        layers = take(self, now, window)
        self.is_through = self.is_through or self.num_layers in layers
        return layers

    return hasty


MUTANTS: Mapping[str, tuple[type, str, Callable[..., Any]]] = {
    "release twice": (receive_manager._Request, "release", _release_twice),
    "any turn": (Turns, "next", _any_turn),
    "any loan": (Fence, "check", _any_loan),
    "skip once": (Dispatch, "void", _skip_once),
    "lose silently": (Membership, "lose", _lose_silently),
    "from the prompt": (Stream, "ids", _from_the_prompt),
    "old generation": (Broker, "_generation", _old_generation),
    "free twice": (PagePool, "release", _free_twice),
    "keep orphans": (Levelling, "_orphans", _keep_orphans),
    "same attempt": (Stream, "restart", _same_attempt),
    "early release": (Transfer, "take", _hasty_take(Transfer.take)),
}


@contextmanager
def planted(name: str) -> Iterator[None]:
    """One bug, as long as the context lasts."""
    owner, method, wrong = MUTANTS[name]
    right = vars(owner)[method]
    setattr(owner, method, wrong)
    try:
        yield
    finally:
        setattr(owner, method, right)


def hunt(name: str, seeds: range) -> tuple[int, str] | None:
    """The first of the seeds that finds a bug, and what it finds; None when none does."""
    with planted(name):
        for seed in seeds:
            with tempfile.TemporaryDirectory() as path:
                result = play(Path(path), seed, is_hasty=True)
            if result.violations:
                return seed, result.violations[0]
    return None


def main(arguments: list[str] | None = None) -> int:
    """Hunt all mutants; 1 when more than one in ten is not found."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.mutants")
    parser.add_argument("--seeds", default="0..39", metavar="A..B", help="the last one included")
    parser.add_argument("--only", default="", metavar="NAME")
    given = parser.parse_args(arguments)
    first, _, last = given.seeds.partition("..")
    seeds, needed = range(int(first), int(last) + 1), []
    names = [given.only] if given.only else list(MUTANTS)
    for name in names:
        found = hunt(name, seeds)
        if found is None:
            sys.stdout.write(f"{name}: not found in {len(seeds)} seeds\n")
        else:
            needed.append(found[0] - seeds.start + 1)
            sys.stdout.write(f"{name}: {needed[-1]} seeds, {found[1][:200]}\n")
        sys.stdout.flush()
    mean = sum(needed) / max(1, len(needed))
    sys.stdout.write(f"{len(needed)} of {len(names)} found, {mean:.1f} seeds on average\n")
    return int(10 * len(needed) < 9 * len(names))


if __name__ == "__main__":
    sys.exit(main())
