"""The manifest: what a bundle says about itself, as strict frozen types.

`parse_manifest` is the only way in, `encode_manifest` the only way out; both sides of the format
are this file. docs/bundle-format.md describes it for other readers.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

FORMAT_VERSION = 1

Path = Annotated[str, msgspec.Meta(max_length=240)]  # checked further by paths.require_safe_path
Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.+-]{1,120}$")]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
Positive = Annotated[int, msgspec.Meta(ge=1, le=2**40)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Dtype = Literal["float32", "float16", "int8", "uint8", "int32", "int64", "bool"]
Weights = Literal["fp32", "int8", "int4"]
KvPrecision = Literal["fp32", "int8"]


class Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every part of the manifest: immutable, and nothing unknown passes."""


class Tensor(Struct):
    """One graph input or output; every dimension is a constant."""

    name: Name
    dtype: Dtype
    shape: Annotated[list[Annotated[int, msgspec.Meta(ge=0, le=2**33)]], msgspec.Meta(max_length=8)]


class Stage(Struct):
    """One graph. `bucket` is the budget it serves, or null when all buckets share it."""

    stage: Literal["tower", "compress", "embed", "prefill", "decode"]
    bucket: Positive | None
    flavour: Literal["ort", "portable"]
    file: Path
    inputs: list[Tensor]
    outputs: list[Tensor]


class Rung(Struct):
    """A bucket as the file spells it."""

    budget: Positive
    prompt_tokens: Positive
    cache_slots: Positive


class Precision(Struct):
    weights: Weights
    kv: KvPrecision


class KvCache(Struct):
    """The cache every bucket shares: `layers` pairs of [1, kv_heads, slots, head_dim]."""

    layers: Positive
    kv_heads: Positive
    head_dim: Positive
    slots: Positive
    policy: Literal["none"]


class Text(Struct):
    """What generation needs to know of the language model."""

    hidden: Positive
    vocabulary: Positive
    max_positions: Positive
    stop_ids: list[Count]
    pad_id: Count


class Vision(Struct):
    """What preprocessing and compression need to know of the tower."""

    height_px: Positive
    width_px: Positive
    grid: Annotated[list[Positive], msgspec.Meta(min_length=2, max_length=2)]
    full_tokens: Positive


class File(Struct):
    bytes: Count
    sha256: Sha256


class Manifest(Struct):
    """Everything a runtime needs to open the bundle; see docs/bundle-format.md."""

    format_version: Literal[1]
    producer: Annotated[str, msgspec.Meta(max_length=120)]
    family: Name
    method: Name
    seed: Count  # of the `random` method; 0 elsewhere
    ladder: Annotated[list[Rung], msgspec.Meta(min_length=1, max_length=64)]
    precision: Precision
    kv: KvCache
    text: Text
    vision: Vision
    stages: Annotated[list[Stage], msgspec.Meta(min_length=1, max_length=2048)]
    files: dict[Path, File]
