"""What a well-formed manifest may still say that cannot be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from itertools import pairwise

from edgetok import limits, names
from edgetok.bundle.manifest import (
    MANIFEST_FILE,
    File,
    KvCache,
    Manifest,
    RungSpec,
    Stage,
    count_rows,
    digest_content,
    shared_stages,
)
from edgetok.bundle.paths import require_safe_path
from edgetok.bundle.processor import IMAGE_FILE, PROMPT_FILE, TOKENIZER_FILE
from edgetok.bundle.strict import shorten
from edgetok.errors import BundleError


def find_contradictions(manifest: Manifest) -> Iterator[str]:
    """Everything in a well-formed manifest that contradicts itself, each in a sentence."""
    yield from _ladder_problems(manifest)
    yield from _model_problems(manifest)
    needed = (IMAGE_FILE, PROMPT_FILE, TOKENIZER_FILE)
    yield from file_problems(manifest.files, manifest.stages, needed)
    yield from _compaction_problems(manifest)
    yield from _ring_problems(manifest)
    yield from _exit_problems(manifest)
    yield from _unpack_problems(manifest)
    yield from _controller_problems(manifest)
    for stage in manifest.stages:
        yield from tensor_problems(stage)
        if stage.stage in (names.ENCODE, names.DESCRIBE):
            yield f"$.stages: {stage.stage} belongs to bundles of encoders"
    budgets = {rung.budget for rung in manifest.ladder}
    for stage_name in shared_stages(manifest):
        yield from serving_problems(manifest.stages, budgets, "ort", stage_name)
        yield from _length_problems(manifest, "ort", stage_name)
    apart = {names.COMPACT, names.SEGMENT, names.EXITED}
    spelled = {s.stage for s in manifest.stages if s.flavour == "portable"} - apart
    for stage_name in sorted(spelled):
        yield from serving_problems(manifest.stages, budgets, "portable", stage_name)
        yield from _length_problems(manifest, "portable", stage_name)


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


def _removed_problems(kv: KvCache, rung: RungSpec, at: str) -> Iterator[str]:
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
    tokens = rows * columns * vision.parts * vision.pictures
    if tokens + vision.separators != vision.full_tokens:
        yield f"$.vision.grid {rows} x {columns} is not full_tokens {vision.full_tokens}"
    if len(manifest.kv.slots) != manifest.kv.layers:
        yield f"$.kv.slots has {len(manifest.kv.slots)} entries for {manifest.kv.layers} layers"
    if max(manifest.kv.slots) > limits.CACHE_SLOTS:
        yield f"$.kv.slots {max(manifest.kv.slots)} exceeds the limit of {limits.CACHE_SLOTS}"
    if max(manifest.vision.height_px, manifest.vision.width_px) > limits.IMAGE_SIDE_PIXELS:
        yield f"$.vision: an image side exceeds {limits.IMAGE_SIDE_PIXELS} pixels"
    if vision.pictures > limits.PICTURES:
        yield f"$.vision.pictures {vision.pictures} exceeds the limit of {limits.PICTURES}"
    ids = [*manifest.text.stop_ids, manifest.text.pad_id]
    if any(token >= manifest.text.vocabulary for token in ids):
        yield f"$.text: a stop or pad id is outside the vocabulary of {manifest.text.vocabulary}"


def _compaction_problems(manifest: Manifest) -> Iterator[str]:
    """A layer that is full keeps fewer rows than it has slots, and exactly one graph says which."""
    kv = manifest.kv
    if len(kv.keep) not in (0, kv.layers):
        yield f"$.kv.keep has {len(kv.keep)} entries for {kv.layers} layers"
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
    """After each exit a graph of each rung goes on with visual rows, and one without them."""
    exits, kv = manifest.prefill.exits, manifest.kv
    if any(low >= high for low, high in pairwise([*exits, kv.layers])):
        yield f"$.prefill.exits {exits} are not ascending layers below {kv.layers}"
    if exits and (manifest.prefill.method == "none" or kv.keep or kv.ring):
        yield f"$.prefill.exits {exits} go with a method, and with a cache that keeps every row"
    if exits and any(any(rung.removed) for rung in manifest.ladder):
        yield f"$.prefill.exits {exits} and constant .removed are two rules for the same rows"
    budgets = [rung.budget for rung in manifest.ladder]
    wanted = Counter(
        (stage, layer, budget)
        for layer in exits
        for stage, budget in [*((names.SEGMENT, k) for k in budgets), (names.EXITED, None)]
    )
    graphs = [s for s in manifest.stages if s.stage in (names.SEGMENT, names.EXITED)]
    for flavour in sorted({s.flavour for s in manifest.stages}):
        found = [(s.stage, s.layer, s.budget) for s in graphs if s.flavour == flavour]
        if Counter(found) != wanted:
            yield f"$.stages: {flavour} graphs of segment and exited do not fit exits {exits}"


def _unpack_problems(manifest: Manifest) -> Iterator[str]:
    """Weights that graphs read as inputs are made by one graph of their flavour."""
    for flavour in sorted({s.flavour for s in manifest.stages}):
        own = [s for s in manifest.stages if s.flavour == flavour]
        makers = [s for s in own if s.stage == names.UNPACK]
        if len(makers) > 1 or any(s.budget is not None or s.inputs for s in makers):
            yield f"$.stages: {flavour} has {len(makers)} graphs of unpack, not one without inputs"
        made = {t.name: t for s in makers for t in s.outputs}
        for tensor in made.values():
            if not tensor.name.startswith(names.UNPACKED) or tensor.dtype != "int8":
                yield f"$.stages: unpack makes {tensor.name} of {tensor.dtype}, no int8 weight"
        read = [t for s in own for t in s.inputs if t.name.startswith(names.UNPACKED)]
        for name in sorted({t.name for t in read if made.get(t.name) != t}):
            yield f"$.stages: no {flavour} graph of unpack makes {name} as it is read"


def _ring_problems(manifest: Manifest) -> Iterator[str]:
    """The last rows are in a ring where the cache has one; all layers hold as many."""
    kv = manifest.kv
    if kv.filing != "none" and not kv.ring:
        yield f"$.kv.filing {kv.filing} goes with a ring, and $.kv.ring is 0"
    if kv.ring and (kv.keep or len(set(kv.slots)) > 1):
        yield f"$.kv.slots {kv.slots} and .keep {kv.keep}: a ring takes all rows alike"
    if kv.ring > max(kv.slots):
        yield f"$.kv.ring {kv.ring} exceeds $.kv.slots {max(kv.slots)}"
    if kv.reuse == "rewind" and (kv.ring or kv.keep or manifest.prefill.method != "none"):
        yield "$.kv.reuse rewind: rows that were packed, given up or taken away do not come back"


def _length_problems(manifest: Manifest, flavour: str, stage_name: str) -> Iterator[str]:
    """Graphs of one stage that serve a rung are alike but for their rows."""
    own = [s for s in manifest.stages if (s.stage, s.flavour) == (stage_name, flavour)]
    for rung in manifest.ladder if stage_name in names.OF_ROWS else ():
        graphs = [stage for stage in own if stage.budget in (None, rung.budget)]
        if len(graphs) < 2:
            continue
        at = f"$.stages: {len(graphs)} {flavour} graphs of {stage_name} of rung {rung.budget}"
        rows = sorted(map(count_rows, graphs))
        if len(graphs) > limits.PROMPT_GRAPHS:
            yield f"{at}, more than {limits.PROMPT_GRAPHS}"
        if any(low >= high for low, high in pairwise(rows)):
            yield f"{at} take at most {rows} rows, not each another number"
        if len({frozenset(t.name for t in stage.inputs) for stage in graphs}) > 1:
            yield f"{at} read other inputs"
        if stage_name == "prefill" and rows[0] <= rung.budget:
            yield f"{at}: {rows[0]} rows hold no text beside {rung.budget} visual tokens"
        if stage_name == "prefill" and rows[-1] != rung.budget + rung.prompt_tokens:
            wanted = f"{rung.budget} visual and {rung.prompt_tokens} prompt tokens"
            yield f"{at}: the longest has {rows[-1]} rows, not {wanted}"
        if stage_name == "prefill" and manifest.prefill.exits:
            yield f"{at}: a prefill in segments has one length"


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
    thumbnail = controller.thumbnail
    if thumbnail is not None and len(thumbnail.weights) != 2 * thumbnail.cells**2:
        yield (
            f"$.controller.thumbnail: {len(thumbnail.weights)} weights for {thumbnail.cells} cells "
            f"a side, which need {2 * thumbnail.cells**2}"
        )
    if controller.certificate.bundle_sha256 != digest_content(manifest):
        yield (
            "$.controller.certificate was issued for another bundle than this one; "
            "run `edgetok calibrate` on this bundle"
        )


def file_problems(
    files: Mapping[str, File], stages: Sequence[Stage], needed: Iterable[str]
) -> Iterator[str]:
    """Files that cannot be, and those that are missing."""
    for path in files:
        try:
            require_safe_path(path)
        except BundleError as error:
            yield f"$.files: {error}"
    if MANIFEST_FILE in files:
        yield f"$.files lists {MANIFEST_FILE}, which cannot hold its own hash"
    if len(files) > limits.BUNDLE_FILES:
        yield f"$.files: {len(files)} files, more than {limits.BUNDLE_FILES}"
    if sum(file.bytes for file in files.values()) > limits.BUNDLE_BYTES:
        yield f"$.files: more than {limits.BUNDLE_BYTES} bytes together"
    for path in needed:
        if path not in files:
            yield f"$.files does not list {path}"
    for index, stage in enumerate(stages):
        if stage.file not in files:
            yield f"$.stages[{index}].file `{shorten(stage.file)}` is not listed in $.files"


def tensor_problems(stage: Stage) -> Iterator[str]:
    """Tensors of a graph that are listed twice."""
    for tensors in (stage.inputs, stage.outputs):
        counts = Counter(tensor.name for tensor in tensors)
        for name in (name for name, count in counts.items() if count > 1):
            yield f"{stage.stage} of rung {stage.budget}: tensor {name} is listed twice"


def serving_problems(
    stages: Sequence[Stage], budgets: Set[int], flavour: str, stage_name: str
) -> Iterator[str]:
    """Each rung must find exactly one graph: one of its own, or one that all rungs share.

    Of prompts and chunks it may find several, of other lengths.
    """
    served = [
        stage.budget for stage in stages if stage.flavour == flavour and stage.stage == stage_name
    ]
    for budget in sorted(budgets):
        graphs = served.count(budget) + served.count(None)
        if graphs != 1 and not (graphs and stage_name in names.OF_ROWS):  # see _length_problems
            yield f"$.stages: rung {budget} has {graphs} {flavour} graphs of {stage_name}, not 1"
    for budget in sorted({b for b in served if b is not None} - budgets):
        yield f"$.stages: {stage_name} serves rung {budget}, which is none of $.ladder"
