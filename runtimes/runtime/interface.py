"""What each graph of a bundle must take and give, so that a runtime may rely on it.

Buffers of the KV cache are not among it: `bundle.buffers` checks those, for all graphs together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edgetok import names
from edgetok.bundle.buffers import is_buffer, layers_of
from edgetok.bundle.manifest import Manifest, Stage, Tensor, count_rows
from edgetok.errors import BundleError
from edgetok.ladder import Rung

SIGNAL_PREFIX = "signal_"

Shape = list[int]
_Place = tuple[str, Shape | None]  # dtype and shape; None: any shape
Interface = dict[str, _Place]  # by name


def has_tower_per_rung(manifest: Manifest) -> bool:
    """Whether the method acts inside the tower, so that each rung encodes an image for itself."""
    return any(s.stage == "tower" and s.budget is not None for s in manifest.stages)


def reads_prompt(manifest: Manifest) -> bool:
    """Whether the method looks at the question, so that an image's tokens depend on it."""
    compress = (s for s in manifest.stages if s.stage == "compress" and s.flavour == "ort")
    return any(t.name in names.OF_PROMPT for stage in compress for t in stage.inputs)


@dataclass(frozen=True)
class Served:
    """A graph, a rung that it serves, and the graphs of this rung that run before it."""

    manifest: Manifest
    stage: Stage
    rung: Rung
    tower: Stage
    compress: Stage

    def lists(self, name: str) -> bool:
        """Whether the graph has an input of this name."""
        return any(tensor.name == name for tensor in self.stage.inputs)

    @property
    def rows(self) -> int:
        """Of a prefill graph: those of the rung's prompts, unless a longer graph has them."""
        of, budgets = (self.stage.stage, self.stage.flavour), (None, self.rung.budget)
        alike = (s for s in self.manifest.stages if (s.stage, s.flavour) == of)
        longest = max(count_rows(s) for s in alike if s.budget in budgets)
        own = count_rows(self.stage)
        return own if own < longest else self.rung.prefill_tokens

    @property
    def in_segments(self) -> bool:
        return bool(self.manifest.prefill.exits)


def require_interface(served: Served) -> None:
    """Check that a graph fits the manifest and what runs before it.

    Raises:
        BundleError: naming all missing or misfit inputs and outputs.
    """
    stage = served.stage
    inputs, outputs = _EXPECTED[stage.stage](served)
    problems = [
        *_misfits("input", stage.inputs, inputs),
        *_misfits("output", stage.outputs, outputs),
        *_unfed(stage, inputs),
    ]
    if problems:
        raise BundleError(f"{stage.file}: {'; '.join(problems[:8])}; export again")


def _tower(at: Served) -> tuple[Interface, Interface]:
    vision = at.manifest.vision
    pixels = [vision.parts, 3, vision.height_px, vision.width_px]
    signals = (t.name for t in at.stage.outputs if t.name.startswith(SIGNAL_PREFIX))
    features: Interface = {names.FEATURES: ("float32", None)}
    return {names.PIXELS: ("float32", pixels)}, features | {n: ("float32", [1]) for n in signals}


def _compress(at: Served) -> tuple[Interface, Interface]:
    """It reads what the tower wrote of all images and the request, and nothing else."""
    text, pictures, budget = at.manifest.text, at.manifest.vision.pictures, at.rung.budget
    offered: Interface = {
        t.name: (t.dtype, [pictures * t.shape[0], *t.shape[1:]])
        for t in at.tower.outputs
        if t.shape
    }
    offered[names.PICTURE_WEIGHTS] = ("float32", [pictures])
    offered[names.TEXT_EMBEDS] = ("float32", [at.rung.prompt_tokens, text.hidden])
    offered[names.TEXT_MASK] = ("float32", [at.rung.prompt_tokens])
    made: Interface = {
        names.VISUAL_TOKENS: ("float32", [budget, text.hidden]),
        names.KEPT: ("int64", [budget]),
        names.SIZES: ("float32", [budget]),
    }
    wanted = {t.name: offered[t.name] for t in at.stage.inputs if t.name in offered}
    return wanted, made | _deep(at.stage, at)


def _embed(at: Served) -> tuple[Interface, Interface]:
    rows = at.rung.prompt_tokens
    embeds: Interface = {names.TEXT_EMBEDS: ("float32", [rows, at.manifest.text.hidden])}
    return {names.TOKEN_IDS: ("int64", [rows])}, embeds


def _prefill(at: Served) -> tuple[Interface, Interface]:
    if at.in_segments:
        return _segment(at)
    optional: Interface = {
        names.VISUAL_START: ("int64", [1]),
        names.VISUAL_KEPT: ("int64", [at.rung.budget]),
        **_deep(at.compress, at),
    }
    rows = [1, at.rows, at.manifest.text.hidden]
    return {
        names.INPUT_EMBEDS: ("float32", rows),
        names.LAST_ROW: ("int64", [1]),
        **_lengths(at),
        **{name: place for name, place in optional.items() if at.lists(name)},
    }, _logits(at)


def _deep(compress: Stage, at: Served) -> Interface:
    """What compress gives out to be added after the first layers: whole rows; nothing, mostly."""
    hidden, budget = at.manifest.text.hidden, at.rung.budget
    shape = next((t.shape for t in compress.outputs if t.name == names.VISUAL_DEEP), None)
    if shape is None:
        return {}
    layers = max(1, shape[-1] // hidden if shape else 0)
    return {names.VISUAL_DEEP: ("float32", [budget, layers * hidden])}


def _segment(at: Served) -> tuple[Interface, Interface]:
    """A graph of a prefill in segments: rows before its layers, and those after them."""
    text, rung = at.manifest.text, at.rung
    layers = layers_of(at.manifest, at.stage)
    first, stop = layers.start, layers.stop
    is_last, exited = stop == at.manifest.kv.layers, at.stage.stage == names.EXITED
    rows: _Place = ("float32", [1, rung.prefill_tokens, text.hidden])
    of_text: _Place = ("float32", [1, rung.prompt_tokens, text.hidden])
    last: Interface = {names.LAST_ROW: ("int64", [1])}
    inputs, outputs = _lengths(at), Interface({names.text_rows_before(stop): of_text})
    if exited:
        inputs[names.text_rows_before(first)] = of_text
        inputs[names.TEXT_POSITIONS] = ("int64", [rung.prompt_tokens])
        inputs |= last if is_last else {}
    else:
        inputs |= {names.rows_before(first) if first else names.INPUT_EMBEDS: rows, **last}
        inputs |= {} if is_last else {names.VISUAL_START: ("int64", [1])}
        outputs |= {names.rows_before(stop): rows, names.EXIT_SIGNAL: ("float32", [1])}
    return inputs, _logits(at) if is_last else outputs


def _extend(at: Served) -> tuple[Interface, Interface]:
    """A chunk has any number of rows that fits into every layer."""
    kv, hidden = at.manifest.kv, at.manifest.text.hidden
    shapes = [t.shape for t in at.stage.inputs if t.name == names.CHUNK_EMBEDS]
    listed = shapes[0][1] if shapes and len(shapes[0]) == 3 else 1
    rows = max(1, min(listed, *kv.slots))
    return {
        names.CHUNK_EMBEDS: ("float32", [1, rows, hidden]),
        names.CHUNK_POSITIONS: ("int64", [kv.layers, rows]),
        **_lengths(at),
    }, _logits(at)


def _decode(at: Served) -> tuple[Interface, Interface]:
    return {
        names.TOKEN_ID: ("int64", [1, 1]),
        names.POSITIONS: ("int64", [at.manifest.kv.layers, 1]),
        **_lengths(at),
    }, _logits(at)


def _of_cache_alone(_: Served) -> tuple[Interface, Interface]:
    return {}, {}


def _lengths(at: Served) -> Interface:
    return {names.PAST_LENGTHS: ("int32", [at.manifest.kv.layers])}


def _logits(at: Served) -> Interface:
    return {names.LOGITS: ("float32", [1, at.manifest.text.vocabulary])}


_EXPECTED: dict[str, Callable[[Served], tuple[Interface, Interface]]] = {
    "tower": _tower,
    "compress": _compress,
    "embed": _embed,
    "prefill": _prefill,
    names.SEGMENT: _segment,
    names.EXITED: _segment,
    names.EXTEND: _extend,
    "decode": _decode,
    names.FLUSH: _of_cache_alone,
    names.COMPACT: _of_cache_alone,
}


def _misfits(side: str, tensors: list[Tensor], expected: Interface) -> Iterator[str]:
    actual = {tensor.name: tensor for tensor in tensors}
    for name, (dtype, shape) in expected.items():
        tensor = actual.get(name)
        if tensor is None:
            yield f"{side} {name} is missing"
        elif tensor.dtype != dtype or (shape is not None and tensor.shape != shape):
            wanted = "any shape" if shape is None else str(shape)
            yield f"{side} {name} is {tensor.dtype} {tensor.shape}, not {dtype} {wanted}"


def _unfed(stage: Stage, expected: Interface) -> Iterator[str]:
    for tensor in stage.inputs:
        is_fed = is_buffer(tensor) or tensor.name.startswith(names.UNPACKED)
        if tensor.name not in expected and not is_fed:
            yield f"input {tensor.name} is one that nothing feeds"
