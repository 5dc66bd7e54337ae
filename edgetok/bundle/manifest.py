"""The manifest: what a bundle says about itself, as strict frozen types.

`parse.parse_manifest` is the only way in, `encode_manifest` the only way out.
docs/bundle-format.md describes the format for other readers.
"""

from __future__ import annotations

import hashlib
from math import prod
from typing import Annotated, Final, Literal

import msgspec

from edgetok import names
from edgetok.bundle.strict import (
    Count,
    Positive,
    Struct,
    encode_strict,
)
from edgetok.rules import Controller

FORMAT_VERSION: Final = 1
MANIFEST_FILE = "manifest.json"

Path = Annotated[str, msgspec.Meta(max_length=240)]  # checked further by paths.require_safe_path
Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.+-]{1,120}\Z")]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Dtype = Literal["float32", "float16", "int8", "uint8", "int32", "int64", "bool"]
Weights = Literal["fp32", "int8", "int4"]
Flavour = Literal["ort", "portable"]

_DTYPE_BYTES = {"float16": 2, "int8": 1, "uint8": 1, "int64": 8, "bool": 1}  # 4 of the others


class Tensor(Struct, frozen=True):
    """One graph input or output; every dimension is a constant."""

    name: Name
    dtype: Dtype
    shape: Annotated[list[Annotated[int, msgspec.Meta(ge=0, le=2**33)]], msgspec.Meta(max_length=8)]

    @property
    def bytes(self) -> int:
        """What its elements take in memory."""
        return _DTYPE_BYTES.get(self.dtype, 4) * prod(self.shape)


class Stage(Struct, frozen=True):
    """One graph. `budget` is that of the rung it serves, or null when all rungs share it.

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
        "unpack",
        "compact",
        "encode",
        "describe",
    ]
    budget: Positive | None
    flavour: Flavour
    file: Path
    inputs: list[Tensor]
    outputs: list[Tensor]
    layer: Count | None = None


class RungSpec(Struct, frozen=True):
    """A rung as the file spells it."""

    budget: Positive
    prompt_tokens: Positive
    cache_slots: Positive
    removed: list[Count]  # per layer: rows of a prompt that its cache does not hold
    shift: int = 0  # from a row's number after the image to its rotary position


class Prefill(Struct, frozen=True):
    """What prefill takes away between layers: a method's name, or `none`; see `RungSpec.removed`.

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
    kv: Name  # how the rows of the cache are stored: what they take is what graphs list


class KvCache(Struct, frozen=True):
    """The cache that all rungs share. Its buffers are the `past_*` inputs of the decode graph.

    Args:
        slots: rows that each layer can hold.
        policy: which rows stay, or which ones a step reads; `none` where all do.
        positions: which rotary position a row has: `kept` is its place in the prompt as given,
            `renumbered` its place among the rows that its layer held when it was written.
        keep: rows that a `compact` graph leaves of a layer that is full; empty where there is none.
        ring: last rows of `slots` that are held apart, in the `past_ring_*` buffers; 0 for none.
        filing: what the host does with a ring that is full. It runs `flush`, and writes what that
            makes as the next group of rows (`groups`), or after the rows that `past_filled` counts
            in each tier (`tiers`). With `none`, graphs do all themselves.
        reuse: what of the cache another prompt may begin with: any number of its first rows
            (`rewind`), all of them or none (`append`), or `nothing`.
        extends: whether an `extend` graph puts several rows after those that are held.
    """

    layers: Positive
    kv_heads: Positive
    head_dim: Positive
    slots: Annotated[list[Positive], msgspec.Meta(min_length=1, max_length=1024)]
    policy: Name
    positions: Literal["kept", "renumbered"]
    reuse: Literal["rewind", "append", "nothing"]
    extends: bool
    filing: Literal["none", "groups", "tiers"] = "none"
    ring: Count = 0
    keep: Annotated[list[Positive], msgspec.Meta(max_length=1024)] = msgspec.field(
        default_factory=list
    )


class Text(Struct, frozen=True):
    """What generation needs to know of the language model."""

    hidden: Positive
    vocabulary: Positive
    max_positions: Positive
    stop_ids: list[Count]
    pad_id: Count


class Generation(Struct, frozen=True):
    """What the checkpoint asks of generation, computed as transformers' logits processors do.

    Args:
        repetition_penalty: of every id of the prompt and the answer so far; 1 for none.
        no_repeat_ngram_size: no sequence of so many ids comes twice; 0 for any.
        min_length: no stop token before prompt and answer have so many ids.
        min_new_tokens: no stop token among so many first ones.
        suppress_ids, begin_suppress_ids: never generated; never generated first.
        top_k, top_p: where tokens are drawn, among how many and within what probability.
        image_id: what stands in the prompt for each visual token; None where nothing does.
    """

    repetition_penalty: Annotated[float, msgspec.Meta(gt=0, le=1e6)] = 1.0
    no_repeat_ngram_size: Count = 0
    min_length: Count = 0
    min_new_tokens: Count = 0
    suppress_ids: list[Count] = msgspec.field(default_factory=list)
    begin_suppress_ids: list[Count] = msgspec.field(default_factory=list)
    top_k: Count = 0
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    image_id: Count | None = None


class Vision(Struct, frozen=True):
    """What preprocessing and compression need to know of the tower.

    `parts` are the images that the tower looks at, each of `grid` tokens: one, or a thumbnail
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
    ladder: Annotated[list[RungSpec], msgspec.Meta(min_length=1, max_length=64)]
    precision: Precision
    prefill: Prefill
    kv: KvCache
    text: Text
    vision: Vision
    stages: Annotated[list[Stage], msgspec.Meta(min_length=1, max_length=2048)]
    files: dict[Path, File]
    generation: Generation | None = None  # None: greedy, and nothing is held back
    controller: Controller | None = None  # what `edgetok calibrate` adds


def encode_manifest(manifest: Manifest) -> bytes:
    """The bytes of `manifest.json`: the same for the same manifest, everywhere."""
    return encode_strict(manifest)


def digest_content(manifest: Manifest) -> str:
    """sha256 of the manifest without its controller, in hex: pins everything that answers."""
    content = msgspec.to_builtins(msgspec.structs.replace(manifest, controller=None))
    if content["generation"] is None:  # so that bundles from before there was one keep their digest
        del content["generation"]
    return hashlib.sha256(encode_strict(content)).hexdigest()


def count_rows(stage: Stage) -> int:
    """Rows of the prompt or chunk that a graph takes at most, by its own shapes; else 0.

    They tell the graphs apart that a rung has of one stage.
    """
    of_rows = (names.INPUT_EMBEDS, names.CHUNK_EMBEDS)
    shapes = (t.shape for t in stage.inputs if t.name in of_rows)
    return next((shape[1] for shape in shapes if len(shape) == 3), 0)


def list_shorter(manifest: Manifest) -> dict[int, tuple[int, ...]]:
    """For each rung, by its budget, fewer text tokens for which it has `ort` graphs, ascending."""
    found = {}
    for rung in manifest.ladder:
        own = (s for s in manifest.stages if (s.stage, s.flavour) == ("prefill", "ort"))
        tokens = {count_rows(s) - rung.budget for s in own if s.budget in (None, rung.budget)}
        found[rung.budget] = tuple(sorted(t for t in tokens if 0 < t < rung.prompt_tokens))
    return found


def shared_stages(manifest: Manifest) -> tuple[str, ...]:
    """The stages of which every rung finds a graph."""
    stages = tuple(n for n in names.STAGES if n != names.EXTEND or manifest.kv.extends)
    return stages if manifest.kv.filing == "none" else (*stages, names.FLUSH)
