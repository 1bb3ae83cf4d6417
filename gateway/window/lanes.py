"""Processes and threads of a trace: who gets which numbers, and which thread is free."""

from dataclasses import dataclass, field

SHORTEST = 1.0
"""Microseconds of a slice, at least."""


@dataclass(slots=True)
class Row:
    """A thread of the trace; slices on it follow one another."""

    pid: int
    tid: int
    end: float = 0.0
    """Of its last slice, microseconds."""

    def place(self, start: float, end: float) -> tuple[float, float]:
        """Where a slice goes that should be from `start` to `end`, behind all others."""
        start = max(start, self.end)
        self.end = max(end, start + SHORTEST)
        return start, self.end


@dataclass(slots=True)
class Lanes:
    """All rows of one trace. With each come the records that name what is new."""

    _pids: dict[str, int] = field(default_factory=dict)
    _rows: dict[tuple[str, str], list[Row]] = field(default_factory=dict)
    _num_rows: int = 0

    def process(self, node: str) -> tuple[Row, list[dict[str, object]]]:
        """A machine, without any thread of it."""
        fresh: list[dict[str, object]] = []
        if node not in self._pids:
            self._pids[node] = len(self._pids) + 1
            fresh.append(_name("process_name", Row(self._pids[node], 0), node))
        return Row(self._pids[node], 0), fresh

    def row(self, node: str, name: str) -> tuple[Row, list[dict[str, object]]]:
        """The one thread of this name."""
        rows = self._rows.get((node, name))
        return (rows[0], []) if rows else self._add(node, name, name)

    def free_row(self, node: str, name: str, start: float) -> tuple[Row, list[dict[str, object]]]:
        """A thread of this name on which nothing happens from `start` on."""
        rows = self._rows.get((node, name), [])
        for row in rows:
            if row.end <= start:
                return row, []
        return self._add(node, name, f"{name} #{len(rows) + 1}")

    def _add(self, node: str, name: str, shown: str) -> tuple[Row, list[dict[str, object]]]:
        process, fresh = self.process(node)
        self._num_rows += 1
        row = Row(process.pid, self._num_rows)
        self._rows.setdefault((node, name), []).append(row)
        return row, [*fresh, _name("thread_name", row, shown)]


def _name(kind: str, row: Row, name: str) -> dict[str, object]:
    return {"ph": "M", "pid": row.pid, "tid": row.tid, "name": kind, "args": {"name": name}}
