"""The buffers of a KV cache of any scheme: what graphs list, and what must hold between them.

A runtime allocates what the decode graph lists as `past_*` and binds every graph to it, so each of
them must mean the same by a name. Which rows a graph touches follows from `KvCache` alone; that
there are as many is checked here, before anything is allocated.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgetok import names
from edgetok.bundle.manifest import Flavour, Manifest, Stage, Tensor
from edgetok.errors import BundleError

_PAST, _PRESENT, _FLUSHED, _KEPT = "past_", "present_", "flushed_", "kept_"


def list_buffers(manifest: Manifest, flavour: Flavour) -> dict[str, Tensor]:
    """What the decode graph reads of the cache, by name."""
    decode = (s for s in manifest.stages if s.stage == "decode" and s.flavour == flavour)
    return {t.name: t for stage in decode for t in stage.inputs if _is_buffer(t)}


def cache_bytes(manifest: Manifest, flavour: Flavour = "ort") -> int:
    """What the cache takes in memory: its buffers, and what `flush` or `compact` write to."""
    own = [stage for stage in manifest.stages if stage.flavour == flavour]
    flushed = (t for s in own if s.stage == names.FLUSH for t in s.outputs)
    kept = [sum(t.bytes for t in s.outputs) for s in own if s.stage == names.COMPACT]
    held = sum(t.bytes for t in list_buffers(manifest, flavour).values())
    return held + sum(t.bytes for t in flushed) + max(kept, default=0)


def cache_bytes_by_flavour(manifest: Manifest) -> dict[str, int]:
    """`cache_bytes` of every flavour that the bundle has graphs of."""
    flavours: list[Flavour] = [s.flavour for s in manifest.stages if s.stage == "decode"]
    return {flavour: cache_bytes(manifest, flavour) for flavour in flavours}


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
    graphs = [stage for stage in manifest.stages if stage.flavour == flavour]
    for stage in graphs:
        yield from _graph_problems(manifest, stage, buffers)
    yield from _unwritten(graphs, buffers)
    yield from _row_problems(manifest, buffers)


def _is_buffer(tensor: Tensor) -> bool:
    return tensor.name.startswith(_PAST) and tensor.name != names.PAST_LENGTHS


def _graph_problems(manifest: Manifest, stage: Stage, buffers: dict[str, Tensor]) -> Iterator[str]:
    """Buffers that a graph reads and writes whole, and rows that it makes for some of them."""
    for tensor in filter(_is_buffer, stage.inputs):
        yield from _misfit(stage, tensor, buffers.get(tensor.name))
    for tensor in stage.outputs:
        side, _, kind = tensor.name.partition("_")
        if side + "_" == _PRESENT:
            yield from _misfit(stage, tensor, buffers.get(_PAST + kind))
        elif side + "_" == _FLUSHED:
            limit = _group_rows(manifest, buffers.get(_PAST + kind))
            yield from _misfit(stage, tensor, buffers.get(_PAST + kind), most=limit)
        elif side + "_" == _KEPT:
            layer = stage.layer or 0
            kept = manifest.kv.keep[layer] if layer < len(manifest.kv.keep) else 0
            yield from _misfit(stage, tensor, buffers.get(f"{_PAST}{kind}_{layer}"), rows=kept)


def _misfit(
    stage: Stage,
    tensor: Tensor,
    buffer: Tensor | None,
    rows: int | None = None,
    most: int | None = None,
) -> Iterator[str]:
    """What a graph calls a buffer against the buffer; `rows` or at most `most` of its rows."""
    if buffer is None:
        yield f"{stage.file}: {tensor.name} is no buffer that decode reads"
        return
    if len(buffer.shape) < 3 and (rows is not None or most is not None):
        yield f"{stage.file}: {tensor.name} has no rows"
        return
    wanted = list(buffer.shape)
    if rows is not None:
        wanted[2] = rows
    if most is not None and len(tensor.shape) == len(wanted):
        wanted[2] = min(tensor.shape[2], most)
    if tensor.dtype != buffer.dtype or tensor.shape != wanted:
        yield (
            f"{stage.file}: {tensor.name} is {tensor.dtype} {tensor.shape}, "
            f"not {buffer.dtype} {wanted}"
        )


def _group_rows(manifest: Manifest, buffer: Tensor | None) -> int:
    """Rows of a buffer that one full ring may take, so that all rings of `slots` find room."""
    kv = manifest.kv
    rows = buffer.shape[2] if buffer is not None and len(buffer.shape) > 2 else 0
    if kv.filing != "groups":
        return rows
    return rows // max(1, (max(kv.slots) - 1) // max(1, kv.ring))


def _unwritten(graphs: list[Stage], buffers: dict[str, Tensor]) -> Iterator[str]:
    """Buffers that no prefill of some rung writes: a step would read what nobody made."""
    first = {"prefill", names.SEGMENT, names.EXITED}
    for bucket in {stage.bucket for stage in graphs if stage.stage == "prefill"}:
        written = {
            t.name.replace(_PRESENT, _PAST, 1)
            for stage in graphs
            if stage.stage in first and stage.bucket in (bucket, None)
            for t in stage.outputs
        }
        if missing := sorted(buffers.keys() - written):
            yield f"prefill of {bucket} does not write {', '.join(missing[:3])}"


def _row_problems(manifest: Manifest, buffers: dict[str, Tensor]) -> Iterator[str]:
    """Each layer has room for its rows; the ring holds as many as the host believes."""
    kv = manifest.kv
    for name, buffer in buffers.items():
        if name.startswith("past_ring_") and _rows(buffer) != kv.ring:
            yield f"{name} has {_rows(buffer)} rows, and $.kv.ring is {kv.ring}"
    if kv.filing == "tiers":
        yield from _tier_problems(manifest, buffers)
        return
    for layer, slots in enumerate(kv.slots):
        for side in ("key", "value"):
            rows = _rows(buffers.get(f"past_{side}_{layer}"))
            rows += _rows(buffers.get(f"past_ring_{side}_{layer}"))
            if rows < slots or (kv.filing == "none" and rows != slots):
                yield f"past_{side}_{layer} and its ring have {rows} rows, and $.kv.slots {slots}"


def _tier_problems(manifest: Manifest, buffers: dict[str, Tensor]) -> Iterator[str]:
    for layer, slots in enumerate(manifest.kv.slots):
        filled = buffers.get(f"past_filled_{layer}")
        if filled is None or (filled.dtype, filled.shape) != ("int32", [2]):
            yield f"past_filled_{layer} is missing, or not int32 [2]"
        for side in ("key", "value"):
            kinds = (f"past_{part}_{side}_{layer}" for part in ("high", "low", "ring"))
            rows = sum(_rows(buffers.get(name)) for name in kinds)
            if rows < slots:
                yield f"the tiers of {side} {layer} have {rows} rows, and $.kv.slots is {slots}"


def _rows(buffer: Tensor | None) -> int:
    return buffer.shape[2] if buffer is not None and len(buffer.shape) > 2 else 0
