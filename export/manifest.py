"""What a manifest says of a model, before its files are known."""

from __future__ import annotations

from typing import Literal

from edgetok.bundle.manifest import (
    FORMAT_VERSION,
    KvCache,
    Manifest,
    Precision,
    Prefill,
    RungSpec,
    Stage,
    Text,
    Vision,
)
from edgetok.export.caches.scheme import CacheScheme, removed_rows
from edgetok.families.parts import Parts, TextParts
from edgetok.ladder import Ladder
from edgetok.methods import Method
from edgetok.prefill import Prefill as Reduction
from edgetok.version import VERSION


def describe(
    parts: Parts,
    method: Method,
    ladder: Ladder,
    cache: CacheScheme,
    precision: Precision,
    seed: int,
    stages: list[Stage],
) -> Manifest:
    """The manifest of a bundle; its writer fills in the files."""
    layers = len(parts.text.attending)
    removed = removed_rows(ladder, cache.reduction, layers)
    return Manifest(
        format_version=FORMAT_VERSION,
        producer=f"edgetok {VERSION}",
        family=parts.family,
        method=method.name,
        seed=seed if method.reseed else 0,
        ladder=[
            RungSpec(
                budget=b.budget,
                prompt_tokens=b.prompt_tokens,
                cache_slots=b.cache_slots,
                removed=removed[b.budget],
                shift=parts.shift(b.budget),
            )
            for b in ladder
        ],
        precision=precision,
        prefill=_describe_prefill(cache.reduction, layers),
        kv=_describe_cache(cache, parts.text, ladder),
        text=_describe_text(parts.text),
        vision=_describe_vision(parts),
        stages=stages,
        generation=parts.text.generation,
        files={},
    )


def _describe_prefill(reduction: Reduction | None, layers: int) -> Prefill:
    if reduction is None:
        return Prefill(method="none", ratio=1.0)
    exits = list(reduction.exits(layers))
    return Prefill(method=reduction.name, ratio=reduction.ratio, exits=exits)


def _describe_cache(cache: CacheScheme, text: TextParts, ladder: Ladder) -> KvCache:
    layers = len(text.attending)
    return KvCache(
        layers=layers,
        kv_heads=text.kv_heads,
        head_dim=text.head_dim,
        slots=cache.slots(ladder, layers),
        policy=cache.policy,
        positions=cache.positions,
        reuse=_find_reuse(cache, text),
        extends=cache.extends,
        filing=cache.filing,
        ring=cache.ring,
        keep=[] if cache.plan is None else list(cache.plan.keep),
    )


def _find_reuse(cache: CacheScheme, text: TextParts) -> Literal["rewind", "append", "nothing"]:
    """What another prompt may begin with.

    Where visual rows are treated apart, a chunk would make other rows of them than a prompt does,
    and a convolution remembers no rows before its last ones: caches are then only gone on with.
    """
    if text.bidirectional == "prompt":
        return "nothing"  # what comes after a prompt changes all of its rows
    plain = text.bidirectional == "nothing" and not text.mrope_axes and not text.convolutions
    return "rewind" if cache.rewinds and plain else "append"


def _describe_text(text: TextParts) -> Text:
    return Text(
        hidden=text.hidden,
        vocabulary=text.vocabulary,
        max_positions=text.max_positions,
        stop_ids=list(text.stop_ids),
        pad_id=text.pad_id,
    )


def _describe_vision(parts: Parts) -> Vision:
    vision = parts.vision
    return Vision(
        height_px=vision.image_px[0],
        width_px=vision.image_px[1],
        grid=list(vision.grid),
        full_tokens=parts.full_tokens,
        parts=vision.n_parts,
        separators=parts.full_tokens - vision.full_tokens,
        pictures=vision.pictures,
    )
