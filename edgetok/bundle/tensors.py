"""Where the bytes of a graph's tensors lie: inline and small, or inside a listed file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from onnx import TensorProto

from edgetok import limits
from edgetok.bundle.manifest import File
from edgetok.bundle.strict import shorten

# Types whose size in bytes is known; strings, complex numbers and new types are not among them.
_BITS: dict[int, int] = {
    TensorProto.FLOAT: 32,
    TensorProto.DOUBLE: 64,
    TensorProto.FLOAT16: 16,
    TensorProto.BFLOAT16: 16,
    TensorProto.FLOAT8E4M3FN: 8,
    TensorProto.FLOAT8E5M2: 8,
    TensorProto.BOOL: 8,
    TensorProto.INT8: 8,
    TensorProto.UINT8: 8,
    TensorProto.INT16: 16,
    TensorProto.UINT16: 16,
    TensorProto.INT32: 32,
    TensorProto.UINT32: 32,
    TensorProto.INT64: 64,
    TensorProto.UINT64: 64,
    TensorProto.INT4: 4,
    TensorProto.UINT4: 4,
}
_MAX_DIGITS = 19  # of 2^63; longer digit strings are not worth converting


@dataclass(frozen=True, slots=True, order=True)
class Extent:
    """A tensor's place in a file of the bundle."""

    location: str
    offset: int
    length: int


def tensor_problems(tensor: TensorProto, files: Mapping[str, File]) -> Iterator[str]:
    """Why a tensor is not admitted; nothing if it is."""
    name = shorten(tensor.name) or "(unnamed)"
    expected_bytes = _expected_bytes(tensor)
    if expected_bytes is None:
        shape = shorten(str(list(tensor.dims[: limits.GRAPH_TENSOR_RANK + 1])))
        yield f"tensor {name}: type {tensor.data_type} with shape {shape} is beyond the limits"
    elif tensor.HasField("segment"):
        yield f"tensor {name}: is split into segments"
    elif tensor.data_location == TensorProto.EXTERNAL:
        yield from (
            f"tensor {name}: {p}" for p in _external_problems(tensor, expected_bytes, files)
        )
    else:
        yield from (f"tensor {name}: {p}" for p in _inline_problems(tensor, expected_bytes))


def extent(tensor: TensorProto) -> Extent | str:
    """Where an external tensor says it lies, or what is wrong with how it says so."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    if len(entries) != len(tensor.external_data) or set(entries) != {
        "location",
        "offset",
        "length",
    }:
        keys = [entry.key for entry in tensor.external_data]
        return f"external data has keys {shorten(str(keys))}, not location, offset and length once"
    if not all(isinstance(value, str) for value in entries.values()):
        return "external data is described by text that is not UTF-8"
    numbers = (entries["offset"], entries["length"])
    if not all(n.isascii() and n.isdigit() and len(n) <= _MAX_DIGITS for n in numbers):
        return f"offset and length {shorten(str(numbers))} are no whole numbers below 2^63"
    return Extent(entries["location"], int(numbers[0]), int(numbers[1]))


def overlap_problems(extents: Iterable[Extent]) -> Iterator[str]:
    """Tensors may share an extent (tied weights), but never a part of one."""
    distinct = sorted(set(extents))
    for low, high in pairwise(e for e in distinct if e.length):
        if low.location == high.location and low.offset + low.length > high.offset:
            yield f"{low.location}: extents at {low.offset} and {high.offset} overlap"


def _expected_bytes(tensor: TensorProto) -> int | None:
    """Bytes that type and shape need; None if either is beyond the format."""
    bits = _BITS.get(tensor.data_type)
    shape = tuple(tensor.dims) if len(tensor.dims) <= limits.GRAPH_TENSOR_RANK else (-1,)
    if bits is None or min(shape, default=0) < 0:
        return None
    elements = math.prod(shape)
    return (elements * bits + 7) // 8 if elements <= limits.GRAPH_TENSOR_ELEMENTS else None


def _external_problems(
    tensor: TensorProto, expected_bytes: int, files: Mapping[str, File]
) -> Iterator[str]:
    place = extent(tensor)
    if isinstance(place, str):
        yield place
        return
    if _inline_bytes(tensor):
        yield "has both inline and external data"
    if place.location not in files:  # keys of `files` are safe paths, so this one is
        yield f"external data in `{shorten(place.location)}`, which the manifest does not list"
        return
    if place.length != expected_bytes:
        yield f"{place.length} bytes of external data, but type and shape need {expected_bytes}"
    if place.offset % limits.WEIGHTS_ALIGNMENT_BYTES:
        yield f"offset {place.offset} is no multiple of {limits.WEIGHTS_ALIGNMENT_BYTES}"
    file_bytes = files[place.location].bytes
    if place.offset + place.length > file_bytes:
        yield (
            f"bytes {place.offset} to {place.offset + place.length} lie outside "
            f"{place.location} of {file_bytes} bytes"
        )


def _inline_problems(tensor: TensorProto, expected_bytes: int) -> Iterator[str]:
    if tensor.external_data:
        yield "names external data without being external"
    if _inline_bytes(tensor) > limits.GRAPH_INLINE_TENSOR_BYTES:
        yield (
            f"{_inline_bytes(tensor)} bytes inline; more than "
            f"{limits.GRAPH_INLINE_TENSOR_BYTES} belong into the weights file"
        )
    if tensor.HasField("raw_data") and len(tensor.raw_data) != expected_bytes:
        yield f"{len(tensor.raw_data)} raw bytes, but type and shape need {expected_bytes}"


def _inline_bytes(tensor: TensorProto) -> int:
    """An upper bound of what the inline fields decode to: each varint is 1 to 10 bytes."""
    typed = len(tensor.int32_data) + len(tensor.float_data)
    wide = len(tensor.int64_data) + len(tensor.uint64_data) + len(tensor.double_data)
    return len(tensor.raw_data) + 4 * typed + 8 * wide + sum(map(len, tensor.string_data))
