import math
from typing import get_args

import msgpack
import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import inspect

from common.errors import WireError
from common.messages import (
    MAX_PAST,
    PROTOCOL,
    Cancel,
    ControlMessage,
    Explained,
    Hello,
    KvAck,
    LinkMessage,
    ModelCard,
    Peer,
    Refused,
    Submit,
    Token,
    TokenBatch,
)
from common.wire import CONTROL, LINK, MAX_HEADER, Codec
from tests.services.prefill_worker.plans import plan, run_chunk

CODEC_OF = {
    cls: codec
    for codec, union in ((CONTROL, ControlMessage), (LINK, LinkMessage))
    for cls in get_args(union)
}
REASONS = {"frames", "size", "header", "type", "field"}


def values_of(info: inspect.Type) -> st.SearchStrategy:
    """A strategy that respects the bounds of a field, built from what msgspec knows of it."""
    match info:
        case inspect.StructType(cls=cls, fields=fields):
            return st.builds(cls, **{field.name: values_of(field.type) for field in fields})
        case inspect.UnionType(types=types):
            return st.one_of([values_of(each) for each in types])
        case inspect.VarTupleType(item_type=item, min_length=low):
            return st.lists(values_of(item), min_size=low or 0, max_size=4).map(tuple)
        case inspect.TupleType(item_types=items):
            return st.tuples(*map(values_of, items))
        case inspect.DictType(key_type=key, value_type=value):
            # Its keys are loads: none may be there under two names.
            pairs = st.tuples(values_of(key), values_of(value))
            return st.lists(pairs, max_size=4, unique_by=lambda pair: float(pair[0])).map(dict)
    return scalars_of(info)


def scalars_of(info: inspect.Type) -> st.SearchStrategy:
    match info:
        case inspect.IntType(ge=low, le=high):
            return st.integers(low, high)
        case inspect.FloatType(gt=above, ge=low, lt=below, le=high):
            lowest, highest = above if low is None else low, below if high is None else high
            return st.floats(lowest, highest, exclude_min=low is None, exclude_max=high is None)
        case inspect.BytesType(min_length=low, max_length=high):
            return st.binary(min_size=low or 0, max_size=min(high, 40))
        case inspect.StrType(pattern=None, min_length=low, max_length=high):
            return st.text(
                st.characters(exclude_categories=["Cs"]), min_size=low or 0, max_size=min(high, 40)
            )
        case inspect.StrType(pattern=pattern, max_length=high):
            return st.from_regex(pattern, fullmatch=True).filter(
                lambda text: len(text) <= high and not text.endswith("\n")
            )
    return constants_of(info)


def constants_of(info: inspect.Type) -> st.SearchStrategy:
    match info:
        case inspect.LiteralType(values=values):
            return st.sampled_from(values)
        case inspect.BoolType():
            return st.booleans()
        case inspect.NoneType():
            return st.none()
        case inspect.CustomType(cls=msgspec.UnsetType):
            return st.just(msgspec.UNSET)
    raise AssertionError(info)


STRATEGY_OF = {cls: values_of(inspect.type_info(cls)) for cls in CODEC_OF}


def cancel(**changes: object) -> bytes:
    return msgpack.packb({"type": "Cancel", "request": "r", "attempt": 1} | changes)


@pytest.mark.parametrize("cls", CODEC_OF, ids=lambda cls: cls.__name__)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_every_message_comes_back_as_it_was_sent(cls, data):
    message = data.draw(STRATEGY_OF[cls])
    raw = tuple(
        data.draw(
            st.lists(st.binary(max_size=64), min_size=cls.num_frames, max_size=cls.num_frames)
        )
    )
    assert CODEC_OF[cls].decode(CODEC_OF[cls].encode(message, raw)) == (message, raw)


def test_header_is_plain_msgpack_with_a_type_and_raw_frames_are_not_copied():
    raw = memoryview(b"\1\2\3\4")
    message = Cancel("r", 2)
    assert CONTROL.encode(message) == [
        msgpack.packb({"type": "Cancel", "request": "r", "attempt": 2})
    ]
    assert LINK.encode(KvAck("r", 1, 0, 0, 3, 9))[0].startswith(b"\x87\xa4type\xa5KvAck")
    submit = _submit()
    assert CONTROL.encode(submit, [raw])[1] is raw
    assert CONTROL.decode(CONTROL.encode(submit, [raw]))[1][0] is raw


@settings(deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=4))
@example([b"\x90" * 100_000])
@example([b"\x91" * 5000 + b"\x90"])
@example([b"\xdd\xff\xff\xff\xff"])
@example([b"\xdf\xff\xff\xff\xff"])
@example([b"\xdb\xff\xff\xff\xff"])
@example([b"\xc7\x00\x05"])
@example([b"\xd6\xff\x00\x00\x00\x00"])
@example([msgpack.packb({"type": ["Cancel"]})])
@example([msgpack.packb({"type": "Cancel", "request": b"", "attempt": 1})])
@example([msgpack.packb({1: 2})])
@example([b"\x81\xa4type\xc1"])
@example([b"\x81\xa4type\xa1\xff"])
def test_garbage_is_refused_with_a_known_reason(frames):
    for codec in (CONTROL, LINK):
        with pytest.raises(WireError) as caught:
            codec.decode(frames)
        assert caught.value.reason in REASONS


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_damaged_message_is_refused_or_still_valid(data):
    cls = data.draw(st.sampled_from(sorted(CODEC_OF, key=lambda cls: cls.__name__)))
    codec = CODEC_OF[cls]
    header, *raw = codec.encode(data.draw(STRATEGY_OF[cls]), [b"raw"] * cls.num_frames)
    damaged = bytearray(header)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        message, _ = codec.decode([bytes(damaged), *raw])
    except WireError as error:
        assert error.reason in REASONS
    else:
        codec.decode(codec.encode(message, raw))


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([], "frames"),
        ([cancel(), b""], "frames"),
        ([msgpack.packb({"type": "Submit"})], "frames"),
        ([b"\xc0" * (MAX_HEADER + 1)], "size"),
        ([b""], "header"),
        ([msgpack.packb([1])], "header"),
        ([cancel() + b"\0"], "header"),
        ([cancel(request="x" * 9000)], "header"),
        ([msgpack.packb({})], "type"),
        ([cancel(type="KvAck")], "type"),
        ([cancel(type="Nonsense")], "type"),
        ([cancel(attempt=0)], "field"),
        ([cancel(attempt="1")], "field"),
        ([cancel(attempt=True)], "field"),
        ([cancel(attempt=1.0)], "field"),
        ([cancel(request="")], "field"),
        ([cancel(request="x" * 129)], "field"),
        ([cancel(more=1)], "field"),
        ([msgpack.packb({"type": "Cancel", "request": "r"})], "field"),
    ],
)
def test_each_kind_of_fault_has_its_reason(frames, reason):
    with pytest.raises(WireError) as caught:
        CONTROL.decode(frames)
    assert caught.value.reason == reason


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -1.0])
def test_numbers_that_are_none_are_refused(seconds):
    header = {"type": "Accepted", "request": "r", "attempt": 1, "predicted_ttft": seconds}
    with pytest.raises(WireError, match="field"):
        CONTROL.decode([msgpack.packb(header)])


def test_a_raw_frame_over_the_limit_is_refused_by_its_bytes_not_its_items():
    codec: Codec[ControlMessage] = Codec(ControlMessage, max_frame=15)
    frames = codec.encode(_submit(), [memoryview(bytes(16)).cast("i")])
    with pytest.raises(WireError, match="size"):
        codec.decode(frames)


def test_what_no_receiver_would_take_is_not_encoded():
    with pytest.raises(WireError, match="frames"):
        CONTROL.encode(Cancel("r", 1), [b""])
    with pytest.raises(WireError, match="type"):
        LINK.encode(Cancel("r", 1))
    tokens = tuple(Token("r" * 120, 1, index, 7) for index in range(10_000))
    with pytest.raises(WireError, match="size"):
        CONTROL.encode(TokenBatch("decode", tokens))


def test_the_longest_text_fits_in_the_widest_letters():
    refused = Refused(1, "\U0001f600" * 2048)
    assert CONTROL.decode(CONTROL.encode(refused)) == (refused, ())


def test_bytes_in_a_header_travel_as_they_are_up_to_their_bound():
    told = Explained(1, bytes(range(256)) * 2048)
    header = CONTROL.encode(told)
    assert len(header[0]) < len(told.explanation) + 100
    assert CONTROL.decode(header) == (told, ())
    with pytest.raises(WireError, match="field"):
        CONTROL.decode(CONTROL.encode(Explained(1, told.explanation + b"x")))


@pytest.mark.parametrize("size", [1, 9000, MAX_PAST])
def test_bytes_travel_as_they_are_up_to_their_limit(size):
    run = run_chunk(plan((8, 2)), 0, 0, past=bytes(size))
    assert CONTROL.decode(CONTROL.encode(run, [b""])) == (run, (b"",))
    assert len(CONTROL.encode(run, [b""])[0]) < size + 2000


def test_bytes_over_their_limit_or_in_place_of_text_are_refused():
    run = run_chunk(plan((8, 2)), 0, 0, past=bytes(MAX_PAST + 1))
    for frames in (
        CONTROL.encode(run, [b""]),
        [cancel(request=b"r")],
        [cancel(request=bytes(9000))],
    ):
        with pytest.raises(WireError, match="field"):
            CONTROL.decode(frames)
    header = msgspec.to_builtins(run_chunk(plan((8, 2)), 0, 0)) | {"past": "AAAA"}
    with pytest.raises(WireError, match="field"):
        CONTROL.decode([msgpack.packb(header), b""])


def test_an_error_never_quotes_what_the_peer_sent():
    hello = Hello("gateway", Peer("g", 1, "tcp://h:1"), "n", PROTOCOL, ModelCard("m", "f", 1))
    header = msgspec.to_builtins(hello) | {"node": "a secret prompt"}
    with pytest.raises(WireError) as caught:
        CONTROL.decode([msgpack.packb(header)])
    assert "secret" not in str(caught.value)
    assert CONTROL.decode(CONTROL.encode(Refused(1, "no")))[0] == Refused(1, "no")


def _submit() -> Submit:
    header = {
        "request": "r",
        "attempt": 1,
        "reply": {"name": "g", "incarnation": 1, "inbox": "tcp://h:1"},
        "num_tokens": 1,
        "num_emitted": 0,
        "sampling": {},
        "ending": {"max_tokens": 1},
        "type": "Submit",
    }
    return msgspec.convert(header, Submit)
