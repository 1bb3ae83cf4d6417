import json
import math
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from loadgen.arrival import Arrival
from loadgen.traces import MAX_LINE, MAX_SPAN, MAX_TOKENS, TraceError, read_trace

CHECKOUT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("TETRIS_TRACES", CHECKOUT.parent / "shared/traces"))
HEADER = b"TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
AZURE = HEADER + (
    b"2023-11-16 23:59:59.9799600,4808,10\r\n"
    b"2023-11-17 00:00:00.0000001,3180,8\r\n"
    b"2023-11-17 00:00:02,110,27\r\n"
)


def mooncake(*requests: tuple[float, int, int]) -> bytes:
    names = ("timestamp", "input_length", "output_length")
    lines = [dict(zip(names, it, strict=True)) | {"hash_ids": [0, 1]} for it in requests]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


MOONCAKE = mooncake((27_000, 6758, 500), (27_000, 7322, 490), (30_500, 2290, 316), (31_000, 9, 1))


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return tmp_path / "trace"


def refusal(trace: Path, content: bytes) -> str:
    trace.write_bytes(content)
    with pytest.raises(TraceError) as caught:
        read_trace(trace)
    return str(caught.value).removeprefix(f"{trace}:")


def test_mooncake_lines_are_arrivals_from_zero_on(trace: Path) -> None:
    trace.write_bytes(MOONCAKE)
    assert read_trace(trace) == [
        Arrival(0.0, 6758, 500),
        Arrival(0.0, 7322, 490),
        Arrival(3.5, 2290, 316),
        Arrival(4.0, 9, 1),
    ]


def test_azure_lines_keep_their_100_ns(trace: Path) -> None:
    trace.write_bytes(AZURE)
    assert read_trace(trace) == [
        Arrival(0.0, 4808, 10),
        Arrival(0.0200401, 3180, 8),
        Arrival(2.02004, 110, 27),
    ]


def test_unix_line_ends_and_a_missing_last_one_do_not_matter(trace: Path) -> None:
    trace.write_bytes(AZURE)
    expected = read_trace(trace)
    trace.write_bytes(AZURE.replace(b"\r", b"").rstrip())
    assert read_trace(trace) == expected


def test_half_the_time_scale_is_twice_the_rate(trace: Path) -> None:
    trace.write_bytes(MOONCAKE)
    assert [it.at for it in read_trace(trace, time_scale=0.5)] == [0.0, 0.0, 1.75, 2.0]


def test_a_selection_starts_at_its_own_first_request(trace: Path) -> None:
    trace.write_bytes(MOONCAKE)
    taken = read_trace(trace, min_length=9, max_length=2290)
    assert taken == [Arrival(0.0, 2290, 316), Arrival(0.5, 9, 1)]


def test_a_limit_counts_fitting_requests_and_reads_no_further(trace: Path) -> None:
    trace.write_bytes(MOONCAKE + b"not read\n")
    assert [it.length for it in read_trace(trace, max_length=7000, limit=2)] == [6758, 2290]


@pytest.mark.parametrize("time_scale", [0.0, -1.0, math.nan, math.inf])
def test_a_time_scale_that_is_none_is_refused(trace: Path, time_scale: float) -> None:
    with pytest.raises(ValueError, match="time_scale must be finite and above zero"):
        read_trace(trace, time_scale=time_scale)


def test_a_limit_of_none_at_all_is_refused(trace: Path) -> None:
    with pytest.raises(ValueError, match="limit must be above zero"):
        read_trace(trace, limit=0)


def test_a_selection_without_requests_is_refused(trace: Path) -> None:
    trace.write_bytes(MOONCAKE)
    with pytest.raises(TraceError, match="no request has 8000 to 9000 prompt tokens"):
        read_trace(trace, min_length=8000, max_length=9000)


def test_a_file_that_is_not_there_is_refused(trace: Path) -> None:
    with pytest.raises(TraceError, match=f"cannot read {trace}: No such file"):
        read_trace(trace)


def test_an_empty_file_is_refused(trace: Path) -> None:
    assert refusal(trace, b"") == "1: the file is empty"


def test_a_header_alone_is_no_trace(trace: Path) -> None:
    assert "no request has" in refusal(trace, HEADER)


@pytest.mark.parametrize(
    "first", [b"\n", b"time,in,out\n", b"[]\n", b"TIMESTAMP,ContextTokens\n", b"\xff\xfe"]
)
def test_another_first_line_is_refused(trace: Path, first: bytes) -> None:
    assert refusal(trace, first).startswith("1: neither a JSON object nor the header TIMESTAMP,")


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b"",
        b"{",
        b"[1, 2]",
        b"\xff",
        b'{"timestamp": 1, "input_length": 1, "output_length": 1}',
        b'{"timestamp": 1, "input_length": 1, "output_length": 1, "hash_ids": 3}',
        b'{"timestamp": 1, "input_length": 1, "output_length": 1, "hash_ids": ["a"]}',
        b'{"timestamp": 1, "input_length": true, "output_length": 1, "hash_ids": []}',
        b'{"timestamp": 1, "input_length": 1.5, "output_length": 1, "hash_ids": []}',
        b'{"timestamp": NaN, "input_length": 1, "output_length": 1, "hash_ids": []}',
        b'{"x": ' + b"[" * 100_000,
        mooncake((-1, 1, 1)),
        mooncake((1e30, 1, 1)),
        mooncake((1, 0, 1)),
        mooncake((1, -1, 1)),
        mooncake((1, MAX_TOKENS + 1, 1)),
        mooncake((1, 10**400, 1)),
        mooncake((1, 1, 0)),
        mooncake((1, 1, MAX_TOKENS + 1)),
    ],
    ids=lambda line: line[:70].decode("latin1"),
)
def test_a_bad_mooncake_line_is_refused_with_its_number(trace: Path, line: bytes) -> None:
    reason = refusal(trace, mooncake((0, 5, 5)) + line.rstrip(b"\n") + b"\n" + mooncake((9, 5, 5)))
    assert reason.startswith("2: ")
    assert len(reason) < 200


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"2023-11-16 18:17:03.9799600,4808",
        b"2023-11-16 18:17:03.9799600,4808,10,1",
        b"2023-11-16T18:17:03.9799600,4808,10",
        b"2023-11-16 18:17:03.,4808,10",
        b"2023-11-16 18:17:03.9799600,-4808,10",
        b"2023-11-16 18:17:03.9799600,48.5,10",
        b"2023-11-16 18:17:03.9799600,0,10",
        b"2023-11-16 18:17:03.9799600,4808,0",
        b"2023-11-16 18:17:03.9799600,999999999,10",
        b"2023-11-16 18:17:03.9799600,99999999999999999999,10",
        b"2023-13-16 18:17:03.9799600,4808,10",
        b"2023-11-16 25:17:03.9799600,4808,10",
        b"0000-11-16 18:17:03.9799600,4808,10",
        "2023-11-16 18:17:03.9799600,\u0664,10".encode(),
        HEADER.rstrip(),
    ],
    ids=lambda line: line.decode(),
)
def test_a_bad_azure_line_is_refused_with_its_number(trace: Path, line: bytes) -> None:
    assert refusal(trace, AZURE + line + b"\r\n").startswith("5: ")


def test_a_request_that_comes_before_the_one_above_it_is_refused(trace: Path) -> None:
    content = mooncake((5, 1, 1), (7, 1, 1), (6, 1, 1))
    assert refusal(trace, content) == "3: comes before the request above it"


def test_the_order_counts_even_where_requests_are_left_out(trace: Path) -> None:
    trace.write_bytes(mooncake((5, 9, 1), (7, 1, 1), (6, 9, 1)))
    with pytest.raises(TraceError, match=":3: comes before"):
        read_trace(trace, min_length=5)


def test_more_than_a_year_is_refused(trace: Path) -> None:
    content = HEADER + b"2023-11-16 18:17:03,1,1\n2025-11-16 18:17:03,1,1\n"
    assert refusal(trace, content) == "3: comes more than a year after the first request"
    assert refusal(trace, mooncake((0, 1, 1), (1000 * MAX_SPAN + 1, 1, 1))).startswith("2: ")


def test_a_line_without_end_is_not_read_to_its_end(trace: Path) -> None:
    with trace.open("wb") as file:
        file.write(MOONCAKE + b"{")
        file.truncate(2**32)  # a hole: takes no room on the disk
    with pytest.raises(TraceError, match=f":5: longer than {MAX_LINE} bytes"):
        read_trace(trace)


def line_of_some_trace() -> st.SearchStrategy[bytes]:
    numbers = st.one_of(st.integers(), st.floats(), st.none(), st.booleans(), st.text(max_size=3))
    keys = st.sampled_from(["timestamp", "input_length", "output_length", "hash_ids", "x"])
    objects = st.dictionaries(keys, st.one_of(numbers, st.lists(numbers, max_size=3)))
    times = st.datetimes().map(lambda time: time.isoformat(" "))
    rows = st.tuples(times, st.integers(-9, 9), st.integers(-9, 9))
    return st.one_of(
        objects.map(lambda it: json.dumps(it).encode()),
        rows.map(lambda it: ",".join(map(str, it)).encode()),
        st.integers(0, 10**9).map(lambda ms: mooncake((ms, 1, 1)).rstrip()),
        st.binary(max_size=40),
    )


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from([b"", HEADER, MOONCAKE]),
    st.one_of(st.binary(max_size=200), st.lists(line_of_some_trace()).map(b"\n".join)),
)
@example(MOONCAKE, b'{"x":' + b"[" * 50_000 + b"]" * 50_000 + b"}")
@example(MOONCAKE, b'{"timestamp":1,"input_length":1,"output_length":1,"hash_ids":["\xff"]}')
def test_arbitrary_bytes_are_arrivals_or_a_trace_error(
    tmp_path_factory: pytest.TempPathFactory, begin: bytes, rest: bytes
) -> None:
    trace = tmp_path_factory.getbasetemp() / "arbitrary"
    trace.write_bytes(begin + rest)
    try:
        arrivals = read_trace(trace)
    except TraceError as error:
        assert str(trace) in str(error)
    else:
        assert arrivals == sorted(arrivals, key=lambda it: it.at)
        assert arrivals[0].at == 0
        assert all(it.length >= 1 and it.output >= 1 for it in arrivals)


@pytest.fixture
def shared() -> Iterator[Path]:
    if not SHARED.is_dir():
        pytest.skip(f"no public traces in {SHARED}; TETRIS_TRACES names their directory")
    yield SHARED


def mean_length(arrivals: list[Arrival]) -> int:
    return round(sum(it.length for it in arrivals) / len(arrivals))


def test_the_mooncake_conversations_have_their_published_figures(shared: Path) -> None:
    trace = shared / "mooncake/conversation_trace.jsonl"
    arrivals = read_trace(trace)
    lengths = [it.length for it in arrivals]
    assert (len(arrivals), round(arrivals[-1].at)) == (12_031, 3_537)
    assert (min(lengths), mean_length(arrivals), max(lengths)) == (891, 12_035, 126_195)
    assert round(sum(it.output for it in arrivals) / len(arrivals)) == 343
    long = read_trace(trace, min_length=4096)
    assert (len(long), mean_length(long)) == (7_929, 17_342)


@pytest.mark.parametrize(
    ("name", "count", "mean", "longest"),
    [("code", 8_819, 2_048, 7_437), ("conv", 19_366, 1_155, 14_050)],
)
def test_the_azure_traces_have_their_published_figures(
    shared: Path, name: str, count: int, mean: int, longest: int
) -> None:
    arrivals = read_trace(shared / f"azure2023/AzureLLMInferenceTrace_{name}.csv")
    assert (len(arrivals), mean_length(arrivals)) == (count, mean)
    assert max(it.length for it in arrivals) == longest
