"""`edgetok inspect`: what a bundle holds, after every file was checked against its hash."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from rich.table import Table

from edgetok.bundle.buffers import cache_bytes, cache_bytes_by_flavour, list_buffers
from edgetok.bundle.encoders import EncoderManifest
from edgetok.bundle.manifest import File, Manifest, Stage, Tensor, list_shorter
from edgetok.cli.options import BundleDir, Json
from edgetok.cli.output import emit, table
from edgetok.names import COMPACT, DESCRIBE, ENCODE, EXITED, FLUSH, SEGMENT, STAGES

_MIB = 1 << 20


def inspect_command(bundle: BundleDir, as_json: Json = False) -> None:
    """Show rungs, stages, shapes, sizes, precision and digest of a bundle."""
    from edgetok.bundle.reader import EncoderBundle, open_bundle

    opened = open_bundle(bundle)
    digest = f"sha256:{opened.digest}"
    if isinstance(opened, EncoderBundle):
        _inspect_encoder(opened.manifest, digest, as_json)
        return
    manifest = opened.manifest
    emit(
        _describe(manifest, digest),
        as_json,
        _show_facts(manifest, digest),
        "",
        _show_ladder(manifest),
        "",
        _show_buffers(manifest),
        "",
        _show_stages(manifest.stages, manifest.files),
    )


def _inspect_encoder(manifest: EncoderManifest, digest: str, as_json: bool) -> None:
    sizes = sum_sizes(manifest.files)
    totals = {"bytes": sum(sizes.values()), "bytes_by_folder": sizes}
    fields: dict[str, Any] = msgspec.to_builtins(manifest)
    vision, output = manifest.vision, manifest.output
    facts = {
        "task": manifest.task,
        "family": manifest.family,
        "method": manifest.method,
        "precision": f"weights {manifest.weights}",
        "image": f"{vision.height_px} x {vision.width_px} px, {vision.full_tokens} patches",
        "output": f"{output.name} {output.dtype}{output.shape}",
        "labels": f"{len(manifest.labels)}: {', '.join(manifest.labels[:5])} …"
        if manifest.labels
        else "none",
        "texts": "none" if manifest.text is None else f"up to {manifest.text.tokens} tokens",
        "rungs": ", ".join(str(rung.budget) for rung in manifest.ladder),
        "size": _show_sizes(sizes),
        "written by": f"{manifest.producer}, format {manifest.format_version}",
        "digest": digest,
    }
    stages = _show_stages(manifest.stages, manifest.files)
    emit({"digest": digest} | totals | fields, as_json, _join_facts(facts), "", stages)


def _describe(manifest: Manifest, digest: str) -> dict[str, Any]:
    sizes = sum_sizes(manifest.files)
    fields: dict[str, Any] = msgspec.to_builtins(manifest)
    totals = {"bytes": sum(sizes.values()), "bytes_by_folder": sizes}
    cache = cache_bytes_by_flavour(manifest)
    held = {"cache_bytes": cache_bytes(manifest), "cache_bytes_by_flavour": cache}
    return {"digest": digest} | held | totals | fields


def sum_sizes(files: Mapping[str, File]) -> dict[str, int]:
    """Bytes of the files in each top-level folder of the bundle."""
    sizes: dict[str, int] = defaultdict(int)
    for path, file in files.items():
        sizes[path.split("/")[0]] += file.bytes
    return dict(sorted(sizes.items()))


def _show_facts(manifest: Manifest, digest: str) -> str:
    """Lines rather than a table, which would cut the digest on a narrow terminal."""
    vision, text, kv = manifest.vision, manifest.text, manifest.kv
    facts = {
        "family": manifest.family,
        "method": manifest.method,
        "prefill": _show_prefill(manifest),
        "precision": f"weights {manifest.precision.weights}, KV {manifest.precision.kv}",
        "image": f"{_show_pictures(vision.pictures)}{vision.height_px} x {vision.width_px} px, "
        f"{vision.full_tokens} tokens",
        "decoder": f"{kv.layers} layers, {text.hidden} wide, {text.vocabulary} words",
        "KV cache": f"{_join(kv.slots)} slots of {kv.kv_heads} heads x {kv.head_dim}, "
        f"{_show_cache(manifest)}",
        "KV policy": _show_policy(manifest),
        "size": _show_sizes(sum_sizes(manifest.files)),
        "written by": f"{manifest.producer}, format {manifest.format_version}",
        "digest": digest,
    }
    return _join_facts(facts)


def _show_sizes(sizes: Mapping[str, int]) -> str:
    parts = ", ".join(f"{folder} {bytes_ / _MIB:.1f}" for folder, bytes_ in sizes.items())
    return f"{sum(sizes.values()) / _MIB:.1f} MiB ({parts})"


def _join_facts(facts: Mapping[str, str]) -> str:
    return "\n".join(f"{fact:<12}{value}" for fact, value in facts.items())


def _show_pictures(count: int) -> str:
    """How many a prompt has, if not one."""
    return "" if count == 1 else f"{count} a prompt, "


def _show_cache(manifest: Manifest) -> str:
    """Its size, of each flavour where that differs."""
    sizes = {f: f"{size / _MIB:.1f} MiB" for f, size in cache_bytes_by_flavour(manifest).items()}
    if len(set(sizes.values())) == 1:
        return next(iter(sizes.values()))
    return ", ".join(f"{flavour} {size}" for flavour, size in sizes.items())


def _show_prefill(manifest: Manifest) -> str:
    found = manifest.prefill
    if found.method == "none":
        return "all visual tokens at every layer"
    if found.exits:
        layers = ", ".join(map(str, found.exits))
        return f"{found.method}:{found.ratio:.4g}, visual tokens may leave before layers {layers}"
    return f"{found.method}:{found.ratio:.4g}, positions {manifest.kv.positions}"


def _show_policy(manifest: Manifest) -> str:
    kv = manifest.kv
    if not kv.keep:
        return f"{kv.policy}: an answer ends where the cache does"
    goes_on = "without end" if kv.positions == "renumbered" else "until the positions end"
    return f"{kv.policy}: a full layer keeps {_join(kv.keep)} rows, {goes_on}"


def _join(counts: list[int]) -> str:
    """One number for all layers, or each layer's.

    >>> _join([8, 8]), _join([8, 4])
    ('8', '8, 4')
    """
    return str(counts[0]) if len(set(counts)) == 1 else ", ".join(map(str, counts))


def _show_ladder(manifest: Manifest) -> Table:
    columns = (">visual tokens", "by layer", ">prompt tokens", ">new tokens", ">cache slots")
    shown = table("Rungs", *columns)
    shorter = list_shorter(manifest)
    for rung in manifest.ladder:
        room = rung.cache_slots - rung.budget - rung.prompt_tokens
        layers = _join([rung.budget - gone for gone in rung.removed])
        prompts = ", ".join(map(str, (*shorter[rung.budget], rung.prompt_tokens)))
        figures = (rung.budget, layers, prompts, room, rung.cache_slots)
        shown.add_row(*map(str, figures))
    return shown


def _show_buffers(manifest: Manifest) -> Table:
    """The KV cache: buffers that are alike in several layers, or memories, in one line."""
    shown = table("KV cache", "buffer", "flavour", "dtype", "shape", ">how many")
    for flavour in cache_bytes_by_flavour(manifest):
        alike = Counter(
            (tensor.name.removeprefix("past_").rpartition("_")[0], tensor.dtype, str(tensor.shape))
            for tensor in list_buffers(manifest, flavour).values()
        )
        for (kind, dtype, shape), count in alike.items():
            shown.add_row(kind, flavour, dtype, shape, str(count))
    return shown


def _show_stages(stages: Sequence[Stage], files: Mapping[str, File]) -> Table:
    shown = table("Stages", "stage", ">rung", "flavour", ">KiB", "inputs", "outputs")
    order_of = [*STAGES, SEGMENT, EXITED, FLUSH, COMPACT, ENCODE, DESCRIBE]
    places = {name: place for place, name in enumerate(order_of)}
    order = sorted(stages, key=lambda s: (places[s.stage], s.budget or 0, s.layer or 0))
    for stage in order:
        size = f"{files[stage.file].bytes / 1024:.0f}"
        rung = "all" if stage.budget is None else str(stage.budget)
        if stage.layer is not None:
            rung = f"layer {stage.layer}" if stage.budget is None else f"{rung}, {stage.layer}"
        ends = (_shorten(stage.inputs), _shorten(stage.outputs))
        shown.add_row(stage.stage, rung, stage.flavour, size, *ends)
    return shown


def _shorten(tensors: list[Tensor]) -> str:
    """Names and shapes; of the cache, which every layer repeats, the first layer only."""
    cache = [t for t in tensors if t.name.startswith(("past_key_", "past_value_", "present_"))]
    others = [t for t in tensors if t not in cache]
    shown = [f"{t.name} {t.dtype}{t.shape}" for t in others]
    if cache:
        shown.append(f"{len(cache)} cache tensors {cache[0].dtype}{cache[0].shape}")
    return "\n".join(shown)
