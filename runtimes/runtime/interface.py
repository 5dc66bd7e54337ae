"""What each graph of a bundle must take and give, so that a runtime may rely on it."""

from __future__ import annotations

from collections.abc import Iterator

from edgetok import names
from edgetok.bundle.manifest import Manifest, Stage, Tensor, ring_shape
from edgetok.errors import BundleError
from edgetok.ladder import Bucket

SIGNAL_PREFIX = "signal_"

Shape = list[int]
_Place = tuple[str, Shape | None]  # dtype and shape; None: any shape
Interface = dict[str, _Place]  # by name


def has_tower_per_rung(manifest: Manifest) -> bool:
    """Whether the method acts inside the tower, so that each rung encodes an image for itself."""
    return any(s.stage == "tower" and s.bucket is not None for s in manifest.stages)


def reduces_at_prefill(manifest: Manifest) -> bool:
    """Whether prefill graphs ask where the visual rows begin."""
    return manifest.prefill.method != "none"


def reads_prompt(manifest: Manifest) -> bool:
    """Whether the method looks at the question, so that an image's tokens depend on it."""
    compress = (s for s in manifest.stages if s.stage == "compress" and s.flavour == "ort")
    return any(t.name in names.OF_PROMPT for stage in compress for t in stage.inputs)


def require_interface(manifest: Manifest, stage: Stage, bucket: Bucket, tower: Stage) -> None:
    """Check that a graph that serves `bucket` fits the manifest and the tower.

    Raises:
        BundleError: naming all missing or misfit inputs and outputs.
    """
    in_segments = stage.stage == "prefill" and bool(manifest.prefill.exits)
    if in_segments or stage.stage in (names.SEGMENT, names.EXITED):
        inputs, outputs = _segment(manifest, stage, bucket)
    else:
        inputs, outputs = _expected(manifest, stage, bucket, tower)
    problems = [
        *_misfits("input", stage.inputs, inputs),
        *_misfits("output", stage.outputs, outputs),
        *_unfed(stage, inputs),
    ]
    if problems:
        raise BundleError(f"{stage.file}: {'; '.join(problems[:8])}; export again")


def _expected(
    manifest: Manifest, stage: Stage, bucket: Bucket, tower: Stage
) -> tuple[Interface, Interface]:
    text, vision = manifest.text, manifest.vision
    past, present = _cache(manifest, stage.flavour)
    logits: Interface = {names.LOGITS: ("float32", [1, text.vocabulary])}
    match stage.stage:
        case "tower":
            pixels = [vision.parts, 3, vision.height_px, vision.width_px]
            signals: Interface = {
                t.name: ("float32", [1]) for t in stage.outputs if t.name.startswith(SIGNAL_PREFIX)
            }
            features: Interface = {names.FEATURES: ("float32", None)}
            return {names.PIXELS: ("float32", pixels)}, features | signals
        case "compress":
            # It reads what the tower wrote of all pictures and the request, and nothing else.
            offered: Interface = {
                t.name: (t.dtype, [vision.pictures * t.shape[0], *t.shape[1:]])
                for t in tower.outputs
                if t.shape
            }
            offered[names.PICTURE_WEIGHTS] = ("float32", [vision.pictures])
            offered[names.TEXT_EMBEDS] = ("float32", [bucket.prompt_tokens, text.hidden])
            offered[names.TEXT_MASK] = ("float32", [bucket.prompt_tokens])
            wanted = {t.name: offered[t.name] for t in stage.inputs if t.name in offered}
            made: Interface = {
                names.VISUAL_TOKENS: ("float32", [bucket.budget, text.hidden]),
                names.KEPT: ("int64", [bucket.budget]),
                names.SIZES: ("float32", [bucket.budget]),
            }
            return wanted, made | _deep(manifest, bucket)
        case "embed":
            rows = bucket.prompt_tokens
            embeds: Interface = {names.TEXT_EMBEDS: ("float32", [rows, text.hidden])}
            return {names.TOKEN_IDS: ("int64", [rows])}, embeds
        case "prefill":
            prompt: Interface = {
                names.INPUT_EMBEDS: ("float32", [1, bucket.prefill_tokens, text.hidden]),
                names.LAST_ROW: ("int64", [1]),
                names.PAST_LENGTHS: ("int32", [manifest.kv.layers]),
            }
            told = any(t.name == names.VISUAL_START for t in stage.inputs)
            sees_image = text.sees_ahead == "image" or text.axes == 3
            if text.axes == 3:
                prompt |= {names.VISUAL_KEPT: ("int64", [bucket.budget])} | _deep(manifest, bucket)
            if reduces_at_prefill(manifest) or sees_image or (manifest.kv.keep and told):
                prompt[names.VISUAL_START] = ("int64", [1])
            # A policy's prefill, or that of a KIVI cache, begins with an empty one, and writes all.
            afresh = bool(manifest.kv.keep or manifest.kv.ring)
            held = {n: place for n, place in past.items() if n not in _memory(manifest)}
            return prompt | ({} if afresh else held), logits | present
        case "extend":
            rows = _chunk_rows(manifest, stage)
            return {
                names.CHUNK_EMBEDS: ("float32", [1, rows, text.hidden]),
                names.PAST_LENGTHS: ("int32", [manifest.kv.layers]),
                names.CHUNK_POSITIONS: ("int64", [manifest.kv.layers, rows]),
                **past,
            }, logits | present
        case "decode":
            return {
                names.TOKEN_ID: ("int64", [1, 1]),
                names.PAST_LENGTHS: ("int32", [manifest.kv.layers]),
                names.POSITIONS: ("int64", [manifest.kv.layers, 1]),
                **past,
            }, logits | _written(manifest, present)
        case _:  # flush and compact; segments are dealt with before
            return _packing(manifest, stage)


def _deep(manifest: Manifest, bucket: Bucket) -> Interface:
    """What is added to visual rows behind the first layers, if anything."""
    text = manifest.text
    place: _Place = ("float32", [bucket.budget, text.deep * text.hidden])
    return {names.VISUAL_DEEP: place} if text.deep else {}


def _segment(manifest: Manifest, stage: Stage, bucket: Bucket) -> tuple[Interface, Interface]:
    """A graph of a prefill in segments: its rows, its layers' buffers, and what comes behind."""
    kv, text, first = manifest.kv, manifest.text, stage.layer or 0
    stop = next((layer for layer in manifest.prefill.exits if layer > first), kv.layers)
    is_last, exited = stop == kv.layers, stage.stage == names.EXITED
    rows: _Place = ("float32", [1, bucket.prefill_tokens, text.hidden])
    of_text: _Place = ("float32", [1, bucket.prompt_tokens, text.hidden])
    last: Interface = {names.LAST_ROW: ("int64", [1])}
    inputs: Interface = {names.PAST_LENGTHS: ("int32", [kv.layers])}
    outputs: Interface = {names.text_rows_before(stop): of_text}
    if exited:
        inputs |= {
            names.text_rows_before(first): of_text,
            names.TEXT_POSITIONS: ("int64", [bucket.prompt_tokens]),
            **(last if is_last else {}),
        }
    else:
        inputs |= {names.rows_before(first) if first else names.INPUT_EMBEDS: rows, **last}
        inputs |= {} if is_last else {names.VISUAL_START: ("int64", [1])}
        outputs |= {names.rows_before(stop): rows, names.EXIT_SIGNAL: ("float32", [1])}
    if is_last:
        outputs = {names.LOGITS: ("float32", [1, text.vocabulary])}
    ends = tuple(f"_{layer}" for layer in range(first, stop))
    past, present = (
        {name: place for name, place in side.items() if name.endswith(ends)}
        for side in _cache(manifest, stage.flavour)
    )
    return inputs | past, outputs | present


def _chunk_rows(manifest: Manifest, stage: Stage) -> int:
    """How many rows the graph takes at once: any number that fits into every layer."""
    shapes = [t.shape for t in stage.inputs if t.name == names.CHUNK_EMBEDS]
    rows = shapes[0][1] if shapes and len(shapes[0]) == 3 else 1
    return max(1, min(rows, *manifest.kv.slots))


def _cache(manifest: Manifest, flavour: str) -> tuple[Interface, Interface]:
    """The buffers of all layers, before a graph and behind it."""
    past = Interface()
    if (ringed := ring_shape(manifest)) is not None:
        for layer in range(ringed.layers):
            past |= {names.part("past", kind, layer): p for kind, p in ringed.buffers.items()}
        return past, {names.present_of(name): place for name, place in past.items()}
    for layer, slots in enumerate(manifest.kv.slots):
        row, state = _places(manifest, slots, flavour)
        past |= {names.past_key(layer): row, names.past_value(layer): row}
        if _has_slot_scales(manifest, flavour):
            own: _Place = ("float32", [1, manifest.kv.kv_heads, slots, 1])
            past |= {names.past_key_scale(layer): own, names.past_value_scale(layer): own}
        if manifest.kv.planes:
            past[names.past_state(layer)] = state
    past |= _memory(manifest)
    return past, {names.present_of(name): place for name, place in past.items()}


def _memory(manifest: Manifest) -> Interface:
    """What short convolutions remember; the first row of a prompt finds nothing."""
    kv, hidden = manifest.kv, manifest.text.hidden
    place: _Place = ("float32", [1, hidden, kv.kernel - 1])
    return {names.past_convolution(number): place for number in range(kv.convolutions)}


def _has_slot_scales(manifest: Manifest, flavour: str) -> bool:
    return flavour == "portable" and manifest.precision.kv != "fp32"


def _packing(manifest: Manifest, stage: Stage) -> tuple[Interface, Interface]:
    if stage.stage == names.FLUSH:
        return _flushing(manifest)
    return _compaction(manifest, stage.layer or 0, stage.flavour)


def _written(manifest: Manifest, present: Interface) -> Interface:
    """What a step writes of the buffers: of a KIVI cache the rings alone."""
    if (ringed := ring_shape(manifest)) is None:
        return present
    kinds = [(kind, layer) for layer in range(ringed.layers) for kind in ringed.written]
    written = [names.part("present", kind, layer) for kind, layer in kinds]
    return {name: present[name] for name in written}


def _flushing(manifest: Manifest) -> tuple[Interface, Interface]:
    inputs, outputs = Interface(), Interface()
    if (ringed := ring_shape(manifest)) is None:
        return inputs, outputs
    for layer in range(ringed.layers):
        for kind in ringed.waiting:
            inputs[names.part("past", kind, layer)] = ringed.buffers[kind]
        outputs |= {names.part("flushed", kind, layer): p for kind, p in ringed.group.items()}
    return inputs, outputs


def _compaction(manifest: Manifest, layer: int, flavour: str) -> tuple[Interface, Interface]:
    kv = manifest.kv
    row, state = _places(manifest, kv.slots[layer], flavour)
    kept, kept_state = _places(manifest, kv.keep[layer], flavour)
    inputs: Interface = {names.past_key(layer): row, names.past_value(layer): row}
    outputs: Interface = {names.KEPT_KEY: kept, names.KEPT_VALUE: kept}
    if _has_slot_scales(manifest, flavour):
        own: _Place = ("float32", [1, kv.kv_heads, kv.slots[layer], 1])
        own_kept: _Place = ("float32", [1, kv.kv_heads, kv.keep[layer], 1])
        inputs |= {names.past_key_scale(layer): own, names.past_value_scale(layer): own}
        outputs |= {names.KEPT_KEY_SCALE: own_kept, names.KEPT_VALUE_SCALE: own_kept}
    if kv.planes:
        inputs[names.past_state(layer)], outputs[names.KEPT_STATE] = state, kept_state
    return inputs, outputs


def _places(manifest: Manifest, rows: int, flavour: str = "ort") -> tuple[_Place, _Place]:
    """Dtype and shape of so many rows of a layer, and of what is remembered of them."""
    kv = manifest.kv
    dtype, channels = {
        "fp32": ("float32", kv.head_dim),
        "int8": ("int8", kv.head_dim),
        "int4": ("uint8" if flavour == "ort" else "int8", kv.head_dim // 2),
    }[manifest.precision.kv]
    pair: _Place = (dtype, [1, kv.kv_heads, rows, channels])
    return pair, ("float32", [len(kv.planes), kv.kv_heads, rows])


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
        if tensor.name not in expected:
            yield f"input {tensor.name} is one that nothing feeds"
