"""The buffers of a KV cache of any scheme: what graphs list, and what must hold between them.

A runtime allocates what the decode graph lists as `past_*` and binds every graph to it, so each of
them must mean the same by a name. Which rows the host touches follows from `KvCache` alone; that
there are as many is checked here, before anything is allocated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from edgetok import names
from edgetok.bundle.manifest import Flavour, KvCache, Manifest, Stage, Tensor
from edgetok.errors import BundleError

_IN_PREFILL = ("prefill", names.SEGMENT, names.EXITED)
_WHOLE = (*_IN_PREFILL, names.EXTEND, "decode")  # graphs that write rows in place
_OVER_CACHE = (*_WHOLE, names.FLUSH, names.COMPACT)
_SIDES = {"present_": _WHOLE, "flushed_": (names.FLUSH,), "kept_": (names.COMPACT,)}
_FLUSHED: dict[str, tuple[str, ...]] = {
    "none": (),
    "groups": ("flushed_",),
    "tiers": ("flushed_high_", "flushed_low_"),
}
_MEMORY = "past_convolution_"  # has no rows, and a number of its own in place of a layer's
_TIERS = ("high", "low")  # in the order in which `past_filled` counts them
_PACKED = ("int8", "uint8")
_NUMBERED = re.compile(r"past_([a-z_]+)_(0|[1-9][0-9]{0,8})")

Buffers = dict[str, Tensor]  # by name


def list_buffers(manifest: Manifest, flavour: Flavour) -> Buffers:
    """What the decode graph reads of the cache, by name."""
    decode = (s for s in manifest.stages if s.stage == "decode" and s.flavour == flavour)
    return {t.name: t for stage in decode for t in stage.inputs if is_buffer(t)}


def cache_bytes(manifest: Manifest, flavour: Flavour = "ort") -> int:
    """What the cache takes in memory: its buffers, and what `flush` or `compact` write to."""
    own = [stage for stage in manifest.stages if stage.flavour == flavour]
    flushed = (t for s in own if s.stage == names.FLUSH for t in s.outputs)
    kept = [sum(t.bytes for t in s.outputs) for s in own if s.stage == names.COMPACT]
    held = sum(t.bytes for t in list_buffers(manifest, flavour).values())
    return held + sum(t.bytes for t in flushed) + max(kept, default=0)


def cache_bytes_by_flavour(manifest: Manifest) -> dict[Flavour, int]:
    """`cache_bytes` of every flavour that the bundle has graphs of."""
    flavours: list[Flavour] = [s.flavour for s in manifest.stages if s.stage == "decode"]
    return {flavour: cache_bytes(manifest, flavour) for flavour in flavours}


def is_buffer(tensor: Tensor) -> bool:
    """Whether a graph's input is a part of the cache."""
    return tensor.name.startswith("past_") and tensor.name != names.PAST_LENGTHS


def layers_of(manifest: Manifest, stage: Stage) -> range:
    """The decoder layers that a graph runs: some of them where a prefill is in segments."""
    layers, first = manifest.kv.layers, stage.layer or 0
    if stage.stage not in _IN_PREFILL:
        return range(layers)
    return range(first, next((exit_ for exit_ in manifest.prefill.exits if exit_ > first), layers))


def require_buffers(manifest: Manifest, flavour: Flavour) -> None:
    """Check that all graphs of a flavour mean the same buffers, with the rows that they need.

    Raises:
        BundleError: naming what does not fit.
    """
    found = list(buffer_problems(manifest, flavour))
    if found:
        raise BundleError(f"KV cache of the {flavour} graphs: {'; '.join(found[:8])}; export again")


def buffer_problems(manifest: Manifest, flavour: Flavour) -> Iterator[str]:
    """Everything about the cache that does not fit, each in a few words."""
    buffers = list_buffers(manifest, flavour)
    for name in buffers:
        number = _number_of(name)
        if number is None or (number >= manifest.kv.layers and not name.startswith(_MEMORY)):
            yield f"{name} is of none of {manifest.kv.layers} layers"
    if any(name.startswith(_MEMORY) for name in buffers) and _takes_rows(manifest):
        yield "a convolution remembers rows that the cache gives up, or takes back"
    for layer in range(manifest.kv.layers):
        yield from _layer_problems(manifest.kv, layer, _of_layer(buffers, layer))
    for stage in (each for each in manifest.stages if each.flavour == flavour):
        at = f"{stage.file}: "
        yield from (at + each for each in _read_problems(stage, buffers))
        yield from (at + each for each in _written_problems(manifest, stage, buffers))
        yield from (at + each for each in _missing_outputs(manifest, stage, buffers))


def _takes_rows(manifest: Manifest) -> bool:
    kv = manifest.kv
    return bool(kv.keep) or kv.reuse == "rewind" or manifest.prefill.method != "none"


def _number_of(name: str) -> int | None:
    found = _NUMBERED.fullmatch(name)
    return None if found is None else int(found[2])


def _of_layer(buffers: Buffers, layer: int) -> Buffers:
    """Those of one layer, by name without `past_` and number; each has rows, or counts them."""
    end = f"_{layer}"
    mine = (n for n in buffers if n.endswith(end) and not n.startswith(_MEMORY))
    return {name.removeprefix("past_").removesuffix(end): buffers[name] for name in mine}


def _layer_problems(kv: KvCache, layer: int, own: Buffers) -> Iterator[str]:
    """A layer has room for its rows, where the host and its graphs believe them to be."""
    slots = kv.slots[layer]
    apart = _TIERS if kv.filing == "tiers" else ()
    for side in ("key", "value"):
        kinds = (*(f"{tier}_{side}" for tier in apart), *(() if apart else (side,)))
        parts = [own.get(kind) for kind in (*kinds, f"ring_{side}")]
        yield from _head_problems(kv, [part for part in parts if part is not None])
        rows = sum(map(_rows, parts))
        if rows < slots or (kv.filing == "none" and rows != slots):
            yield f"{side} buffers of layer {layer} have {rows} rows, and $.kv.slots is {slots}"
    for kind, buffer in own.items():
        in_ring = kind.startswith("ring_")
        name, wanted = ("ring", kv.ring) if in_ring else ("slots", slots)
        if (in_ring or not kv.ring) and (_rows(buffer) != wanted or not wanted):
            yield f"{buffer.name} has {_rows(buffer)} rows, and $.kv.{name} is {wanted}"
    needed = () if not kv.ring else ("key",) if kv.filing == "none" else ("key", "value")
    missing = (f"ring_{side}" for side in needed if f"ring_{side}" not in own)
    yield from (f"past_{kind}_{layer} is missing" for kind in missing)
    filled = own.get("filled")
    counts = filled is not None and (filled.dtype, filled.shape) == ("int32", [len(_TIERS)])
    if kv.filing == "tiers" and not counts:
        yield f"past_filled_{layer} is missing, or not int32 [{len(_TIERS)}]"


def _head_problems(kv: KvCache, parts: list[Tensor]) -> Iterator[str]:
    """Keys or values of a layer are of its heads, whole or with some numbers in a byte."""
    widths = {p.shape[-1] for p in parts if p.shape and p.dtype not in _PACKED}
    if widths and max(widths) != kv.head_dim:
        yield f"{parts[0].name} has {max(widths)} numbers, and $.kv.head_dim is {kv.head_dim}"
    for part in parts:
        if len(part.shape) != 4 or part.shape[:2] != [1, kv.kv_heads] or not part.shape[3]:
            yield f"{part.name} {part.shape} is not [1, {kv.kv_heads}, rows, width]"
        elif part.dtype in _PACKED and kv.head_dim not in (part.shape[3] * n for n in (1, 2, 4)):
            yield f"{part.name}: {part.shape[3]} bytes hold no head of {kv.head_dim} numbers"


def _read_problems(stage: Stage, buffers: Buffers) -> Iterator[str]:
    """A graph reads buffers whole, and decode reads all of them."""
    for tensor in filter(is_buffer, stage.inputs):
        if stage.stage not in _OVER_CACHE:
            yield f"{tensor.name} is read by {stage.stage}, which has no cache"
        yield from _misfit(tensor, buffers.get(tensor.name))
    if stage.stage == "decode":
        missing = buffers.keys() - {tensor.name for tensor in stage.inputs}
        yield from (f"{name} is read by other graphs of decode" for name in sorted(missing))


def _written_problems(manifest: Manifest, stage: Stage, buffers: Buffers) -> Iterator[str]:
    """Buffers that a graph writes whole, and rows that it makes for some of them."""
    for tensor in stage.outputs:
        side = next((side for side in _SIDES if tensor.name.startswith(side)), None)
        if side is None:
            if stage.stage in (names.FLUSH, names.COMPACT):
                yield f"{tensor.name} is nothing that {stage.stage} makes"
            continue
        if stage.stage not in _SIDES[side]:
            yield f"{tensor.name} is made by {stage.stage}"
        end = f"_{stage.layer or 0}" if side == "kept_" else ""
        buffer = buffers.get(f"past_{tensor.name.removeprefix(side)}{end}")
        yield from _misfit(tensor, buffer, None if side == "present_" else 2)
        if side != "present_" and buffer is not None and len(tensor.shape) > 2:
            yield from _part_problems(manifest.kv, stage, tensor, buffer)


def _misfit(tensor: Tensor, buffer: Tensor | None, apart_from: int | None = None) -> Iterator[str]:
    """What a graph calls a buffer against the buffer, but for the dimension `apart_from`."""
    if buffer is None:
        yield f"{tensor.name} is no buffer that decode reads"
        return
    wanted = list(buffer.shape)
    if apart_from is not None:
        if len(wanted) <= apart_from:
            yield f"{tensor.name}: {buffer.name} has no rows"
            return
        wanted[apart_from : apart_from + 1] = tensor.shape[apart_from : apart_from + 1]
    if tensor.dtype != buffer.dtype or tensor.shape != wanted:
        yield f"{tensor.name} is {tensor.dtype} {tensor.shape}, not {buffer.dtype} {wanted}"


def _part_problems(kv: KvCache, stage: Stage, part: Tensor, buffer: Tensor) -> Iterator[str]:
    """Rows that the host will write into a buffer find room there, as often as it will do so."""
    if stage.stage == names.COMPACT:
        layer = stage.layer or 0
        keep = kv.keep[layer] if layer < len(kv.keep) else 0
        if _rows(part) != keep:
            yield f"{part.name} has {_rows(part)} rows, and $.kv.keep is {keep}"
        return
    if not part.name.startswith(_FLUSHED[kv.filing]) or part.name.startswith("flushed_ring_"):
        yield f"{part.name} is nothing that is filed as {kv.filing}"
    times = (max(kv.slots) - 1) // kv.ring if kv.filing == "groups" and kv.ring else 1
    if _rows(part) * times > _rows(buffer):
        yield f"{part.name}: {times} x {_rows(part)} rows exceed {_rows(buffer)} of {buffer.name}"


def _missing_outputs(manifest: Manifest, stage: Stage, buffers: Buffers) -> Iterator[str]:
    """Rows that nobody makes: a later step would read what was there before."""
    made = {tensor.name: tensor for tensor in stage.outputs}
    wanted: list[str] = []
    if stage.stage == names.COMPACT:
        wanted = [f"kept_{kind}" for kind in _of_layer(buffers, stage.layer or 0)]
    elif stage.stage == names.FLUSH:
        for layer in range(manifest.kv.layers):
            own = _of_layer(buffers, layer)
            yield from _flush_problems(manifest.kv, layer, own, made)
    elif stage.stage in _WHOLE:
        layers = layers_of(manifest, stage)
        is_whole = len(layers) == manifest.kv.layers
        mine = (n for n in buffers if is_whole or _number_of(n) in layers)
        filed = _filed(manifest, stage.flavour)
        step = stage.stage == "decode"
        wanted = [
            names.present_of(n) for n in mine if not step or _is_of_steps(manifest.kv, n, filed)
        ]
    if missing := [name for name in wanted if name not in made]:
        yield f"does not make {', '.join(missing[:4])}"


def _filed(manifest: Manifest, flavour: Flavour) -> set[str]:
    """The buffers that the host writes rows to, which `flush` makes."""
    flush = (s for s in manifest.stages if s.stage == names.FLUSH and s.flavour == flavour)
    made = (tensor.name for stage in flush for tensor in stage.outputs if _rows(tensor))
    return {"past_" + name.removeprefix("flushed_") for name in made if name.startswith("flushed_")}


def _is_of_steps(kv: KvCache, name: str, filed: set[str]) -> bool:
    """Whether every step writes this buffer: all, or the ring and what no flush will write."""
    if not kv.ring or name.startswith("past_ring_"):
        return True
    if kv.filing == "groups":
        return name not in filed
    return kv.filing == "none" and re.match(r"past_(key|value)_\d", name) is not None


def _flush_problems(kv: KvCache, layer: int, own: Buffers, made: Buffers) -> Iterator[str]:
    """A ring goes into groups of as many rows, or is divided between the tiers.

    Values may leave it one by one instead, into what every step writes.
    """
    rows = {kind: _rows(made.get(f"flushed_{kind}_{layer}")) for kind in own}
    tiers = [f"{tier}_" for tier in _TIERS] if kv.filing == "tiers" else [""]
    for side in ("key", "value"):
        filed = sum(rows.get(tier + side, 0) for tier in tiers)
        by_steps = side == "value" and kv.filing == "groups" and not filed
        if filed != kv.ring and not by_steps:
            yield f"files {filed} rows of {side} {layer}, and $.kv.ring is {kv.ring}"
    if kv.filing == "groups":
        groups = _rows(own.get("key")) // max(1, kv.ring)
        for kind in (kind for kind, count in rows.items() if count):
            if rows[kind] * groups != _rows(own[kind]):
                yield f"{rows[kind]} rows of flushed_{kind}_{layer} are not one of {groups} groups"
        return
    for tier in tiers:
        wanted, slots = rows.get(f"{tier}key", 0), _rows(own.get(f"{tier}key"))
        for kind in (kind for kind in own if kind.startswith(tier)):
            of_rows = kind == f"{tier}value" or _rows(own[kind]) == slots > 1
            if (of_rows or rows[kind]) and rows[kind] != wanted:
                yield f"flushed_{kind}_{layer} has {rows[kind]} rows, not {wanted}"


def _rows(buffer: Tensor | None) -> int:
    return buffer.shape[2] if buffer is not None and len(buffer.shape) > 2 else 0
