"""The manifest: what a bundle says about itself, as strict frozen types.

`parse_manifest` is the only way in, `encode_manifest` the only way out; both sides of the format
are this file. docs/bundle-format.md describes it for other readers.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Final, Literal

import msgspec

from edgetok import limits, names
from edgetok.bundle import kivi, think, zipcache
from edgetok.bundle.kivi import KiviShape
from edgetok.bundle.paths import require_safe_path
from edgetok.bundle.processor import IMAGE_FILE, PROMPT_FILE, TOKENIZER_FILE
from edgetok.bundle.strict import (
    Count,
    Positive,
    Struct,
    encode_strict,
    require_plain_json,
    shorten,
)
from edgetok.bundle.think import ThinkShape
from edgetok.bundle.zipcache import ZipShape
from edgetok.errors import BundleError
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
    and its tiles. `separators` are the rows that stand between tokens at the full budget.
    """

    height_px: Positive
    width_px: Positive
    grid: Annotated[list[Positive], msgspec.Meta(min_length=2, max_length=2)]
    full_tokens: Positive
    parts: Positive = 1
    separators: Count = 0


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


class _Header(msgspec.Struct, frozen=True):
    """What every version of the format has; enough to say who can read the rest."""

    format_version: int
    producer: str = "an unknown program"


def parse_manifest(data: bytes) -> Manifest:
    """Decode and check `manifest.json`.

    Raises:
        BundleError: naming the JSON path of what is malformed, or all contradictions at once.
    """
    require_plain_json(data, MANIFEST_FILE, limits.MANIFEST_BYTES)
    manifest = _decode(data)
    if found := list(_problems(manifest)):
        shown = "; ".join(found[:8]) + (f"; and {len(found) - 8} more" if len(found) > 8 else "")
        raise BundleError(f"{MANIFEST_FILE}: {shown}")
    return manifest


def encode_manifest(manifest: Manifest) -> bytes:
    """The bytes of `manifest.json`: the same for the same manifest, everywhere."""
    return encode_strict(manifest)


def digest_content(manifest: Manifest) -> str:
    """sha256 of the manifest without its controller, in hex: pins everything that answers."""
    content = msgspec.structs.replace(manifest, controller=None)
    return hashlib.sha256(encode_manifest(content)).hexdigest()


def _decode(data: bytes) -> Manifest:
    try:
        header = msgspec.json.decode(data, type=_Header)
        if header.format_version > FORMAT_VERSION:  # before the fields, which may be unknown here
            raise BundleError(
                f"{MANIFEST_FILE}: written by {shorten(header.producer)} in format "
                f"{header.format_version}; this edgetok reads up to {FORMAT_VERSION}; "
                f"upgrade edgetok"
            )
        return msgspec.json.decode(data, type=Manifest, strict=True)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise BundleError(f"{MANIFEST_FILE}: {shorten(str(error), 400)}") from error


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


def _problems(manifest: Manifest) -> Iterator[str]:
    """Everything about a well-formed manifest that contradicts itself."""
    yield from _ladder_problems(manifest)
    yield from _model_problems(manifest)
    yield from _file_problems(manifest)
    yield from _compaction_problems(manifest)
    yield from _ring_problems(manifest)
    yield from _exit_problems(manifest)
    yield from _reading_problems(manifest.kv)
    yield from _controller_problems(manifest)
    for stage in manifest.stages:
        yield from _tensor_problems(stage)
    for stage_name in shared_stages(manifest):
        yield from _serving_problems(manifest, "ort", stage_name)
    apart = {names.COMPACT, names.SEGMENT, names.EXITED}
    spelled = {s.stage for s in manifest.stages if s.flavour == "portable"} - apart
    for stage_name in sorted(spelled):
        yield from _serving_problems(manifest, "portable", stage_name)


def _ladder_problems(manifest: Manifest) -> Iterator[str]:
    budgets = [rung.budget for rung in manifest.ladder]
    if any(low >= high for low, high in pairwise(budgets)):
        yield f"$.ladder: budgets {budgets} are not ascending and unique"
    for index, rung in enumerate(manifest.ladder):
        at = f"$.ladder[{index}]"
        if rung.budget > manifest.vision.full_tokens:
            yield f"{at}.budget {rung.budget} exceeds the {manifest.vision.full_tokens} full tokens"
        if rung.cache_slots > max(manifest.kv.slots) and not manifest.kv.keep:
            yield f"{at}.cache_slots {rung.cache_slots} exceeds $.kv.slots {max(manifest.kv.slots)}"
        yield from _removed_problems(manifest.kv, rung, at)
        if rung.cache_slots <= rung.budget + rung.prompt_tokens:
            yield (
                f"{at}.cache_slots {rung.cache_slots} leaves no room for an answer after "
                f"{rung.budget} visual and {rung.prompt_tokens} prompt tokens"
            )


def _removed_problems(kv: KvCache, rung: Rung, at: str) -> Iterator[str]:
    if len(rung.removed) != kv.layers:
        yield f"{at}.removed has {len(rung.removed)} entries for {kv.layers} layers"
    if any(low > high for low, high in pairwise(rung.removed)):
        yield f"{at}.removed {rung.removed} falls: rows that are gone do not come back"
    layers = zip(rung.removed, kv.slots, strict=False)  # how many there are is checked elsewhere
    if not kv.keep and any(rung.cache_slots - gone > slots for gone, slots in layers):
        yield f"{at}.cache_slots {rung.cache_slots} less .removed exceeds $.kv.slots {kv.slots}"
    if max(rung.removed, default=0) > rung.budget:
        yield f"{at}.removed {rung.removed} is more than the {rung.budget} visual tokens"


def _model_problems(manifest: Manifest) -> Iterator[str]:
    vision, (rows, columns) = manifest.vision, manifest.vision.grid
    if rows * columns * vision.parts + vision.separators != vision.full_tokens:
        yield f"$.vision.grid {rows} x {columns} is not full_tokens {vision.full_tokens}"
    if len(manifest.kv.slots) != manifest.kv.layers:
        yield f"$.kv.slots has {len(manifest.kv.slots)} entries for {manifest.kv.layers} layers"
    if max(manifest.kv.slots) > limits.CACHE_SLOTS:
        yield f"$.kv.slots {max(manifest.kv.slots)} exceeds the limit of {limits.CACHE_SLOTS}"
    if max(manifest.vision.height_px, manifest.vision.width_px) > limits.IMAGE_SIDE_PIXELS:
        yield f"$.vision: an image side exceeds {limits.IMAGE_SIDE_PIXELS} pixels"
    ids = [*manifest.text.stop_ids, manifest.text.pad_id]
    if any(token >= manifest.text.vocabulary for token in ids):
        yield f"$.text: a stop or pad id is outside the vocabulary of {manifest.text.vocabulary}"


def _compaction_problems(manifest: Manifest) -> Iterator[str]:
    """A layer that is full keeps fewer rows than it has slots, and exactly one graph says which."""
    kv = manifest.kv
    if kv.policy in AT_PREFILL and manifest.prefill.method == "none":
        yield f"$.kv.policy {kv.policy} goes with a prefill that takes rows away, and none does"
    empties = kv.policy not in ("none", *AT_PREFILL) and not kv.reads
    if bool(kv.keep) != empties or len(kv.keep) not in (0, kv.layers):
        yield f"$.kv.keep has {len(kv.keep)} entries for {kv.layers} layers and policy {kv.policy}"
    elif any(keep >= slots for keep, slots in zip(kv.keep, kv.slots, strict=False)):
        yield f"$.kv.keep {kv.keep} frees no row of $.kv.slots {kv.slots}"
    graphs = [s for s in manifest.stages if s.stage == names.COMPACT]
    for flavour in sorted({s.flavour for s in graphs} | ({"ort"} if kv.keep else set())):
        layers = sorted(-1 if s.layer is None else s.layer for s in graphs if s.flavour == flavour)
        if layers != list(range(len(kv.keep))):
            yield f"$.stages: {flavour} graphs of compact empty layers {layers}, not each one once"
    apart = (names.COMPACT, names.SEGMENT, names.EXITED)
    if any(s.layer is not None for s in manifest.stages if s.stage not in apart):
        yield "$.stages: a graph that is not of compact, segment or exited has a layer"


def _exit_problems(manifest: Manifest) -> Iterator[str]:
    """Behind each exit a graph of each rung goes on with visual rows, and one without them."""
    exits, kv = manifest.prefill.exits, manifest.kv
    if any(low >= high for low, high in pairwise([*exits, kv.layers])):
        yield f"$.prefill.exits {exits} are not ascending layers below {kv.layers}"
    if exits and (manifest.prefill.method == "none" or kv.policy != "none" or kv.ring):
        yield f"$.prefill.exits {exits} go with a method, and with a cache that keeps every row"
    if exits and any(any(rung.removed) for rung in manifest.ladder):
        yield f"$.prefill.exits {exits} and constant .removed are two rules for the same rows"
    budgets = [rung.budget for rung in manifest.ladder]
    wanted = Counter(
        (stage, layer, bucket)
        for layer in exits
        for stage, bucket in [*((names.SEGMENT, k) for k in budgets), (names.EXITED, None)]
    )
    graphs = [s for s in manifest.stages if s.stage in (names.SEGMENT, names.EXITED)]
    for flavour in sorted({s.flavour for s in manifest.stages}):
        found = [(s.stage, s.layer, s.bucket) for s in graphs if s.flavour == flavour]
        if Counter(found) != wanted:
            yield f"$.stages: {flavour} graphs of segment and exited do not fit exits {exits}"


def _ring_problems(manifest: Manifest) -> Iterator[str]:
    """The last rows are in a ring where the cache has one; all layers hold as many."""
    kv = manifest.kv
    bits = (kivi.BITS | {zipcache.NAME: 2, think.NAME: 32}).get(manifest.precision.kv)
    if (manifest.precision.kv == think.NAME) != (1 <= kv.key_channels <= kv.head_dim):
        yield (
            f"$.kv.key_channels {kv.key_channels} of {kv.head_dim} does not go with a cache of "
            f"{manifest.precision.kv}"
        )
    if bool(kv.ring) != (bits is not None):
        yield f"$.kv.ring {kv.ring} does not go with a cache of {manifest.precision.kv}"
    elif bits is not None:
        if kv.keep or len(set(kv.slots)) > 1:
            yield f"$.kv.slots {kv.slots} and .keep {kv.keep}: a ring takes all rows alike"
        if kv.ring > max(kv.slots):
            yield f"$.kv.ring {kv.ring} exceeds $.kv.slots {max(kv.slots)}"
        if kv.head_dim * bits % 8:
            yield f"$.kv.head_dim {kv.head_dim} fills no whole bytes at {bits} bits"


def _reading_problems(kv: KvCache) -> Iterator[str]:
    """A step reads fewer rows in layers that lie behind one that chooses, of a plain cache."""
    if not kv.reads and not kv.selects:
        return
    if not kv.reads or not kv.selects or kv.policy == "none":
        yield f"$.kv.reads {kv.reads}, .selects {kv.selects} and policy {kv.policy} do not agree"
    if any(low >= high for low, high in pairwise(kv.selects)) or max(kv.selects, default=0) >= (
        kv.layers - 1
    ):
        yield f"$.kv.selects {kv.selects} does not rise in front of the last of {kv.layers} layers"
    if kv.reads > min(kv.slots):
        yield f"$.kv.reads {kv.reads} exceeds $.kv.slots {min(kv.slots)}"
    if kv.ring or len(set(kv.slots)) > 1:
        yield f"$.kv.slots {kv.slots} and .ring {kv.ring}: layers that share rows hold the same"


def _controller_problems(manifest: Manifest) -> Iterator[str]:
    """A certificate speaks of one bundle only, and of rungs that it has."""
    controller = manifest.controller
    if controller is None:
        return
    budgets = [rule.budget for rule in controller.rules] + [controller.full]
    if any(low >= high for low, high in pairwise(budgets)):
        yield f"$.controller: budgets {budgets} are not ascending and unique"
    if unknown := set(budgets) - {rung.budget for rung in manifest.ladder}:
        yield f"$.controller: {sorted(unknown)} are no rungs of $.ladder"
    for rule in controller.rules:
        for scorer in (rule.enter, rule.accept):
            ids = [token for token, _ in scorer.tokens]
            if any(low >= high for low, high in pairwise(ids)):
                yield f"$.controller: tokens of rung {rule.budget} are not ascending and unique"
    if controller.certificate.bundle_sha256 != digest_content(manifest):
        yield (
            "$.controller.certificate was issued for another bundle than this one; "
            "run `edgetok calibrate` on this bundle"
        )


def _file_problems(manifest: Manifest) -> Iterator[str]:
    for path in manifest.files:
        try:
            require_safe_path(path)
        except BundleError as error:
            yield f"$.files: {error}"
    if MANIFEST_FILE in manifest.files:
        yield f"$.files lists {MANIFEST_FILE}, which cannot hold its own hash"
    if len(manifest.files) > limits.BUNDLE_FILES:
        yield f"$.files: {len(manifest.files)} files, more than {limits.BUNDLE_FILES}"
    if sum(file.bytes for file in manifest.files.values()) > limits.BUNDLE_BYTES:
        yield f"$.files: more than {limits.BUNDLE_BYTES} bytes together"
    for path in (IMAGE_FILE, PROMPT_FILE, TOKENIZER_FILE):
        if path not in manifest.files:
            yield f"$.files does not list {path}"
    for index, stage in enumerate(manifest.stages):
        if stage.file not in manifest.files:
            yield f"$.stages[{index}].file `{shorten(stage.file)}` is not listed in $.files"


def _tensor_problems(stage: Stage) -> Iterator[str]:
    for tensors in (stage.inputs, stage.outputs):
        counts = Counter(tensor.name for tensor in tensors)
        for name in (name for name, count in counts.items() if count > 1):
            yield f"{stage.stage} of bucket {stage.bucket}: tensor {name} is listed twice"


def _serving_problems(manifest: Manifest, flavour: str, stage_name: str) -> Iterator[str]:
    """Each rung must find exactly one graph: one of its own, or one that all rungs share."""
    buckets = [
        stage.bucket
        for stage in manifest.stages
        if stage.flavour == flavour and stage.stage == stage_name
    ]
    budgets = {rung.budget for rung in manifest.ladder}
    for budget in sorted(budgets):
        graphs = buckets.count(budget) + buckets.count(None)
        if graphs != 1:
            yield f"$.stages: rung {budget} has {graphs} {flavour} graphs of {stage_name}, not 1"
    for bucket in sorted({b for b in buckets if b is not None} - budgets):
        yield f"$.stages: {stage_name} serves bucket {bucket}, which is no rung of $.ladder"
