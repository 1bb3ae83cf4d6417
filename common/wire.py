"""Messages to frames and back: frame 0 is a msgpack header, raw buffers follow it untouched.

Whatever a peer sends, `decode` returns a valid message or raises `WireError`: limits are checked
before anything is unpacked, unpacking is bounded, and msgspec checks every field.
"""

from collections.abc import Sequence
from typing import Any, Generic, TypeVar, get_args

import msgpack
import msgspec

from common.errors import WireError
from common.messages import ControlMessage, LinkMessage

Frame = bytes | memoryview
Frames = tuple[Frame, ...]
M = TypeVar("M", bound=msgspec.Struct)

MAX_HEADER = 1 << 20
"""Bytes; the largest header that is read or written."""

_LIMITS = {
    "raw": False,
    "strict_map_key": True,
    "max_str_len": 8192,
    "max_bin_len": MAX_HEADER,
    "max_ext_len": 0,
    "max_array_len": 4096,
    "max_map_len": 64,
}


class Codec(Generic[M]):
    """Encodes and decodes the messages of one union; types are looked up once, here."""

    def __init__(self, union: Any, max_frame: int) -> None:
        """Learn the union's message types.

        Args:
            union: of tagged Structs, each with `num_frames`.
            max_frame: bytes of the largest raw frame that `decode` accepts.
        """
        self._max_frame = max_frame
        self._types: dict[str, type[M]] = {
            cls.__struct_config__.tag: cls for cls in get_args(union)
        }
        self._num_frames: dict[type[M], int] = {
            cls: cls.num_frames  # type: ignore[attr-defined]
            for cls in self._types.values()
        }

    def encode(self, message: M, frames: Sequence[Frame] = ()) -> list[Frame]:
        """The frames of a message; `WireError` for one that no receiver would take."""
        expected = self._num_frames.get(type(message))
        if expected is None:
            raise WireError("type", f"{type(message).__name__} is not of this codec")
        if len(frames) != expected:
            raise WireError("frames", f"{type(message).__name__} with {len(frames)} frames")
        header = msgpack.packb(msgspec.to_builtins(message, builtin_types=(bytes,)))
        if len(header) > MAX_HEADER:
            raise WireError("size", f"{type(message).__name__} header of {len(header)} bytes")
        return [header, *frames]

    def decode(self, frames: Sequence[Frame]) -> tuple[M, Frames]:
        """The message and its raw frames.

        Raises:
            WireError: for anything that `encode` could not have made; its `reason` is one of
                `frames`, `size`, `header`, `type`, `field`.
        """
        if not frames:
            raise WireError("frames", "no header")
        header = _unpack(frames[0])
        cls = self._type_of(header)
        raw = tuple(frames[1:])
        if len(raw) != self._num_frames[cls]:
            raise WireError("frames", f"{cls.__name__} with {len(raw)} frames")
        if any(memoryview(frame).nbytes > self._max_frame for frame in raw):
            raise WireError("size", f"{cls.__name__} with a frame over {self._max_frame} bytes")
        try:
            return msgspec.convert(header, cls, strict=True, builtin_types=(bytes,)), raw
        except msgspec.ValidationError as error:
            raise WireError("field", f"{cls.__name__}: {error}") from None

    def _type_of(self, header: dict[str, Any]) -> type[M]:
        tag = header.get("type")
        cls = self._types.get(tag) if isinstance(tag, str) else None
        if cls is None:
            raise WireError("type", "unknown message type")
        return cls


def _unpack(frame: Frame) -> dict[str, Any]:
    size = memoryview(frame).nbytes
    if size > MAX_HEADER:
        raise WireError("size", f"header of {size} bytes")
    try:
        header = msgpack.unpackb(frame, **_LIMITS)
    except (ValueError, msgpack.UnpackException) as error:
        raise WireError("header", f"not msgpack: {type(error).__name__}") from None
    if not isinstance(header, dict):
        raise WireError("header", "not a map")
    return header


CONTROL: Codec[ControlMessage] = Codec(ControlMessage, max_frame=64 << 20)
"""What `common.mesh` speaks; the socket's own limit follows the model's length."""

LINK: Codec[LinkMessage] = Codec(LinkMessage, max_frame=1 << 30)
"""What `common.links` speak."""
