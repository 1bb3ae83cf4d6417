"""Whether a trace is one that Perfetto opens: Chrome's Trace Event Format, as far as we use it."""

from collections import defaultdict

FIELDS = {
    "X": {"pid", "tid", "name", "ts", "dur", "args"},
    "i": {"pid", "tid", "name", "ts", "s", "args"},
    "C": {"pid", "tid", "name", "ts", "args"},
    "M": {"pid", "tid", "name", "args"},
    "s": {"pid", "tid", "name", "ts", "cat", "id"},
    "f": {"pid", "tid", "name", "ts", "cat", "id", "bp"},
}


def check(document: dict) -> list[dict]:
    """The records, after they have been found right."""
    records = document["traceEvents"]
    for record in records:
        assert set(record) == FIELDS[record["ph"]] | {"ph"}, record
        assert type(record["pid"]) is type(record["tid"]) is int
        assert isinstance(record["name"], str)
        if record["ph"] != "M":
            assert record["ts"] >= 0
    _names(records)
    _slices(records)
    _flows(records)
    _counters(records)
    return records


def _names(records: list[dict]) -> None:
    """Every process and thread has a name, once, and before it is used."""
    named = set()
    for record in records:
        row = record["pid"], record["tid"]
        if record["ph"] == "M":
            key = (record["name"], *row)
            assert record["name"] in ("process_name", "thread_name")
            assert key not in named
            assert record["args"]["name"]
            named.add(key)
            continue
        assert ("process_name", record["pid"], 0) in named
        assert record["ph"] == "C" or ("thread_name", *row) in named, record


def _rows(records: list[dict]) -> dict[tuple[int, int], list[dict]]:
    rows = defaultdict(list)
    for record in records:
        if record["ph"] == "X":
            rows[record["pid"], record["tid"]].append(record)
    return rows


def _slices(records: list[dict]) -> None:
    """Slices of a thread lie inside of one another or apart, never across."""
    for slices in _rows(records).values():
        open_until: list[float] = []
        for piece in sorted(slices, key=lambda s: (s["ts"], -s["dur"])):
            assert piece["dur"] > 0
            while open_until and open_until[-1] <= piece["ts"] + 1e-3:
                open_until.pop()
            end = piece["ts"] + piece["dur"]
            assert not open_until or end <= open_until[-1] + 1e-3, piece
            open_until.append(end)


def _flows(records: list[dict]) -> None:
    """Each arrow has one beginning and one end, not before it, and both lie in slices."""
    rows = _rows(records)
    ends: dict[str, dict[str, dict]] = defaultdict(dict)
    for record in records:
        if record["ph"] in "sf":
            assert record["ph"] not in ends[record["id"]], record
            ends[record["id"]][record["ph"]] = record
            around = rows[record["pid"], record["tid"]]
            assert any(s["ts"] <= record["ts"] <= s["ts"] + s["dur"] for s in around), record
    for pair in ends.values():
        assert set(pair) == {"s", "f"}
        assert pair["s"]["ts"] <= pair["f"]["ts"]
        assert pair["f"]["bp"] == "e"


def _counters(records: list[dict]) -> None:
    for record in records:
        if record["ph"] == "C":
            assert record["args"]
            assert all(isinstance(v, int | float) for v in record["args"].values())
