"""The manifest: what a bundle says about itself, as strict frozen types.

`parse.parse_manifest` is the only way in, `encode_manifest` the only way out.
docs/bundle-format.md describes the format for other readers.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final, Literal

import msgspec

from edgetok import names
from edgetok.bundle import kivi, think, zipcache
from edgetok.bundle.kivi import KiviShape
from edgetok.bundle.strict import (
    Count,
    Positive,
    Struct,
    encode_strict,
)
from edgetok.bundle.think import ThinkShape
from edgetok.bundle.zipcache import ZipShape
from edgetok.rules import Controller

FORMAT_VERSION: Final = 1
MANIFEST_FILE = "manifest.json"

Path = Annotated[str, msgspec.Meta(max_length=240)]  # checked further by paths.require_safe_path
Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.+-]{1,120}$")]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
Dtype = Literal["float32", "float16", "int8", "uint8", "int32", "int64", "bool"]
Weights = Literal["fp32", "int8", "int4"]
KvPrecision = Literal["fp32", "int8", "int4", "kivi", "kivi4", "zipcache", "think"]
Flavour = Literal["ort", "portable"]

AT_PREFILL = ("mustdrop",)  # policies that choose behind the prompt alone: no layer is emptied


class Tensor(Struct, frozen=True):
    """One graph input or output; every dimension is a constant."""

    name: Name
    dtype: Dtype
    shape: Annotated[list[Annotated[int, msgspec.Meta(ge=0, le=2**33)]], msgspec.Meta(max_length=8)]


class Stage(Struct, frozen=True):
    """One graph. `bucket` is the budget it serves, or null when all buckets share it.

    `layer` is the decoder layer whose cache a `compact` graph empties, or with which a graph of a
    prefill in segments begins (`segment`, `exited`), and null elsewhere.
    """

    stage: Literal[
        "tower",
        "compress",
        "embed",
        "prefill",
        "segment",
        "exited",
        "extend",
        "decode",
        "flush",
        "compact",
        "encode",
        "describe",
    ]
    bucket: Positive | None
    flavour: Flavour
    file: Path
    inputs: list[Tensor]
    outputs: list[Tensor]
    layer: Count | None = None


class Rung(Struct, frozen=True):
    """A bucket as the file spells it."""

    budget: Positive
    prompt_tokens: Positive
    cache_slots: Positive
    removed: list[Count]  # per layer: rows of a prompt that its cache does not hold
    shift: int = 0  # from a row's number behind the picture to its rotary position


class Prefill(Struct, frozen=True):
    """What prefill takes away between layers: a method's name, or `none`; see `Rung.removed`.

    With `exits`, prefill is in segments: before each of these layers a signal may have all visual
    rows leave, and `removed` is of a prompt where none does.
    """

    method: Name
    ratio: Annotated[float, msgspec.Meta(gt=0, le=1)]
    exits: Annotated[list[Positive], msgspec.Meta(max_length=1024)] = msgspec.field(
        default_factory=list
    )


class Precision(Struct, frozen=True):
    weights: Weights
    kv: KvPrecision


class KvCache(Struct, frozen=True):
    """The cache every bucket shares: per layer a pair of [1, kv_heads, slots, head_dim].

    `positions` says which rotary position a row has: `kept` is its place in the prompt as given,
    `renumbered` its place among the rows that its layer held when it was written.

    With a policy, a layer that is full keeps `keep` rows, a prompt that is longer than its slots
    too, and the rest is free again; `planes` names what a buffer [planes, kv_heads, slots] beside
    each pair remembers of a row. Without one, both lists are empty, and so they are with a policy
    of `AT_PREFILL`, which has the prefill graph give rows up behind the prompt.

    Of a KIVI cache or ZipCache, the last `ring` rows of `slots` are float32, and each full ring is
    packed into few bits (`bundle.kivi`, `bundle.zipcache`); `ring` is 0 elsewhere. Of a ThinK cache
    the keys of the last `ring` rows are whole, those of the others have `key_channels` of their
    channels (`bundle.think`), which is 0 elsewhere.

    With `tidaldecode` no row goes: of a decode step, layers in `selects` and those in front of them
    attend to all rows, the others to the newest and the `reads` rows per head that the last layer
    in `selects` attended to most. `reads` is 0 elsewhere.

    Beside these layers a decoder may have `convolutions`, layers that read a row and the
    `kernel - 1` rows before it, and remember those in a buffer [1, hidden, kernel - 1]. No row of
    theirs can be taken back. Both are 0 elsewhere.
    """

    layers: Positive
    kv_heads: Positive
    head_dim: Positive
    slots: Annotated[list[Positive], msgspec.Meta(min_length=1, max_length=1024)]
    policy: Name
    positions: Literal["kept", "renumbered"]
    keep: Annotated[list[Positive], msgspec.Meta(max_length=1024)] = msgspec.field(
        default_factory=list
    )
    planes: Annotated[list[Name], msgspec.Meta(max_length=16)] = msgspec.field(default_factory=list)
    ring: Count = 0
    key_channels: Count = 0
    reads: Count = 0
    selects: Annotated[list[Count], msgspec.Meta(max_length=1024)] = msgspec.field(
        default_factory=list
    )
    convolutions: Annotated[int, msgspec.Meta(ge=0, le=1024)] = 0
    kernel: Annotated[int, msgspec.Meta(ge=0, le=64)] = 0


SeesAhead = Literal["nothing", "image", "prompt"]


class Text(Struct, frozen=True):
    """What generation needs to know of the language model.

    `sees_ahead` says which rows of a prompt see later ones: none, those of the picture, or all of
    the prompt. `axes` are those of rotary positions: with three, visual rows have the place of
    their token in the picture. `deep` are the layers behind which something is added to visual
    rows. Such rows come of `prefill` alone.
    """

    hidden: Positive
    vocabulary: Positive
    max_positions: Positive
    stop_ids: list[Count]
    pad_id: Count
    sees_ahead: SeesAhead = "nothing"
    axes: Literal[1, 3] = 1
    deep: Count = 0


class Vision(Struct, frozen=True):
    """What preprocessing and compression need to know of the tower.

    `parts` are the pictures that the tower looks at, each of `grid` tokens: one, or a thumbnail
    and its tiles. `separators` are the rows that stand between tokens at the full budget. A prompt
    has `pictures` of them, which the tower looks at one after another.
    """

    height_px: Positive
    width_px: Positive
    grid: Annotated[list[Positive], msgspec.Meta(min_length=2, max_length=2)]
    full_tokens: Positive
    parts: Positive = 1
    separators: Count = 0
    pictures: Positive = 1


class File(Struct, frozen=True):
    bytes: Count
    sha256: Sha256


class Manifest(Struct, frozen=True):
    """Everything a runtime needs to open the bundle; see docs/bundle-format.md."""

    format_version: Literal[1]
    producer: Annotated[str, msgspec.Meta(max_length=120)]
    family: Name
    method: Name
    seed: Count  # of the `random` method; 0 elsewhere
    ladder: Annotated[list[Rung], msgspec.Meta(min_length=1, max_length=64)]
    precision: Precision
    prefill: Prefill
    kv: KvCache
    text: Text
    vision: Vision
    stages: Annotated[list[Stage], msgspec.Meta(min_length=1, max_length=2048)]
    files: dict[Path, File]
    controller: Controller | None = None  # what `edgetok calibrate` adds


def encode_manifest(manifest: Manifest) -> bytes:
    """The bytes of `manifest.json`: the same for the same manifest, everywhere."""
    return encode_strict(manifest)


def digest_content(manifest: Manifest) -> str:
    """sha256 of the manifest without its controller, in hex: pins everything that answers."""
    content = msgspec.structs.replace(manifest, controller=None)
    return hashlib.sha256(encode_manifest(content)).hexdigest()


def shared_stages(manifest: Manifest) -> tuple[str, ...]:
    """The stages of which every rung finds a graph."""
    if not manifest.kv.keep and not manifest.kv.ring:
        return names.STAGES
    # A policy looks at each row as it comes, and a ring takes one at a time.
    stages = tuple(name for name in names.STAGES if name != names.EXTEND)
    return (*stages, names.FLUSH) if manifest.precision.kv in PACKED else stages


RingShape = KiviShape | ZipShape | ThinkShape
PACKED = (*kivi.BITS, zipcache.NAME)  # whose full rings a graph packs


def ring_shape(manifest: Manifest) -> RingShape | None:
    """The constants of a KIVI cache, ZipCache or ThinK cache; None where there is another one."""
    kv = manifest.kv
    if not kv.ring:
        return None
    sizes = kv.layers, kv.kv_heads, kv.head_dim, max(kv.slots)
    if manifest.precision.kv == zipcache.NAME:
        prompt = max(rung.budget + rung.prompt_tokens for rung in manifest.ladder)
        return ZipShape(*sizes, prompt, kv.ring)
    if manifest.precision.kv == think.NAME:
        return ThinkShape(*sizes, kv.key_channels, kv.ring)
    return KiviShape(*sizes, kv.ring, kivi.BITS[manifest.precision.kv])
