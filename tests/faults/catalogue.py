"""All rows of the fault suite, and those that need what a process on this machine cannot have."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.faults import (
    rows_both,
    rows_clients,
    rows_control,
    rows_decode,
    rows_load,
    rows_peers,
    rows_prefill,
    rows_silence,
    rows_update,
)
from tests.faults.trial import Trial

GREEDY, SEEDED = None, 1234
"""Seeds of a row's sampling."""


@dataclass(frozen=True)
class Shape:
    """A mesh to run rows on."""

    prefill: int
    decode: int
    preset: str = "faults.toml"


WIDE, NARROW, TINY = Shape(3, 2), Shape(2, 1), Shape(1, 1, "tiny.toml")


@dataclass(frozen=True)
class Row:
    """One row of the table: a fault in a phase.

    `spoils` says that the mesh is not as it was afterwards, and has to be another one.
    """

    name: str
    run: Callable[[Trial], None]
    shape: Shape = WIDE
    seeds: tuple[int | None, ...] = (GREEDY, SEEDED)
    spoils: bool = False

    @property
    def title(self) -> str:
        """The first line of the row's own description, without its number."""
        return str(self.run.__doc__).splitlines()[0].partition(": ")[2] or str(self.run.__doc__)


ONCE = (GREEDY,)
ROWS = (
    Row("F1", rows_prefill.dies_while_chunks_are_queued),
    Row("F2", rows_prefill.dies_in_a_ring),
    Row("F3", rows_prefill.dies_with_history),
    Row("F4", rows_prefill.dies_while_balancing),
    Row("F5", rows_prefill.dies_while_sending),
    Row("F5-first", rows_prefill.dies_before_the_first_token, seeds=(SEEDED,)),
    Row("F6", rows_decode.dies_while_receiving),
    Row("F7", rows_prefill.falls_silent_after_the_grant, seeds=ONCE),
    Row("F8", rows_decode.dies_before_admission),
    Row("F9", rows_decode.dies_in_a_stream),
    Row("F9-end", rows_decode.dies_with_its_end_untold, seeds=ONCE),
    Row("F10", rows_decode.all_die, seeds=(SEEDED,)),
    Row("F11-plan", rows_control.router_dies_planning, seeds=ONCE),
    Row("F11-issue", rows_control.router_dies_half_way, seeds=(SEEDED,)),
    Row("F11-end", rows_control.router_dies_closing, seeds=ONCE),
    Row("F11", rows_control.router_dies_while_streams_run),
    Row("F12", rows_control.gateway_dies, seeds=ONCE),
    Row("F13", rows_silence.worker_stops_shortly),
    Row("F14-prefill", rows_silence.prefill_is_a_zombie, seeds=ONCE),
    Row("F14-decode", rows_silence.decode_is_a_zombie, seeds=(SEEDED,)),
    Row("F15", rows_silence.router_stops, seeds=ONCE),
    Row("F16-prefill", rows_silence.prefill_loop_hangs, seeds=ONCE),
    Row("F16-decode", rows_silence.decode_loop_hangs, seeds=(SEEDED,)),
    Row("F17-sleep", rows_prefill.is_slow_in_every_layer, seeds=ONCE),
    Row("F17-limp", rows_prefill.runs_every_other_moment, seeds=ONCE),
    Row("F21+F22", rows_peers.gets_nonsense, seeds=ONCE),
    Row("F23", rows_clients.reads_nothing, seeds=ONCE),
    Row("F24-queued", rows_clients.leaves_queued, seeds=ONCE),
    Row("F24-chunk", rows_clients.leaves_in_a_chunk, seeds=ONCE),
    Row("F24-balance", rows_clients.leaves_while_balancing, seeds=ONCE),
    Row("F24-transfer", rows_clients.leaves_in_the_transfer, seeds=ONCE),
    Row("F24-decode", rows_clients.leaves_in_decode, seeds=ONCE),
    Row("F29", rows_silence.all_stop, seeds=ONCE),
    Row("F30", rows_load.is_overloaded, seeds=ONCE),
    Row("F31", rows_load.restarts_one_by_one, seeds=(SEEDED,)),
    Row("F32", rows_peers.meets_other_versions, seeds=ONCE),
    Row("F33", rows_update.changes_while_it_plans, seeds=ONCE),
    Row("F33-router", rows_update.router_dies_updating, seeds=(SEEDED,)),
    Row("F34-both", rows_both.decode_dies_while_prefill_recovers, seeds=(SEEDED,)),
    Row("F34-router", rows_both.router_dies_while_a_stream_recovers, seeds=ONCE),
    Row("F34-broker", rows_both.broker_and_sender_die, seeds=(SEEDED,)),
    Row("F35-ask", rows_control.broker_dies_at_a_handshake, seeds=ONCE),
    Row("F35-grant", rows_control.broker_dies_granting, seeds=(SEEDED,)),
    Row("F35-flow", rows_control.broker_dies_while_kv_flows, seeds=ONCE),
    Row("F35-idle", rows_control.broker_dies_idle, seeds=ONCE),
    Row("F9-only", rows_decode.dies_in_a_stream, NARROW),
    Row("F10-only", rows_decode.all_die, NARROW, ONCE),
    Row("scale", rows_load.grows_and_shrinks, NARROW, ONCE, spoils=True),
    Row("F25", rows_load.decode_has_little_kv, TINY, (SEEDED,)),
)

ELSEWHERE = {
    "F18": "a partition between two processes of one machine needs a network namespace: "
    "tests/simulation cuts the same links",
    "F19": "as F18",
    "F20": "ZeroMQ on the loopback loses nothing: tests/simulation loses, doubles and delays",
    "F26": "a full disk or memory budget needs mounts or limits of the whole container",
    "F27": "as F26",
    "F28": "an OOM kill is a SIGKILL: F2 and F9",
}
"""Rows of the design that are not run here, and why."""


def chosen(names: str) -> list[Row]:
    """The rows of those names, between commas; `F9` takes `F9-end` with it, `=F9` does not."""
    if not names:
        return list(ROWS)
    return [row for row in ROWS if any(_is(row.name, one.strip()) for one in names.split(","))]


def _is(name: str, wanted: str) -> bool:
    if wanted.startswith("="):
        return name == wanted[1:]
    return name == wanted or name.startswith((f"{wanted}-", f"{wanted}+"))
