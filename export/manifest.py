"""What a manifest says of a model, before its stages and files are known."""

from __future__ import annotations

from importlib.metadata import version
from typing import Literal

from edgetok.bundle.manifest import (
    FORMAT_VERSION,
    KvCache,
    Manifest,
    Precision,
    Prefill,
    Rung,
    Stage,
    Text,
    Vision,
)
from edgetok.export.builder import cache_slots, removed_rows
from edgetok.export.caches.ring import RingShape
from edgetok.families.parts import Parts
from edgetok.kv import NONE, Reads, EvictionPlan
from edgetok.ladder import Ladder
from edgetok.methods import Method
from edgetok.prefill import Prefill as Reduction


def describe(
    parts: Parts,
    method: Method,
    ladder: Ladder,
    precision: Precision,
    seed: int,
    stages: list[Stage],
    prefill: Reduction | None = None,
    room: EvictionPlan | None = None,
    ringed: RingShape | None = None,
    reads: Reads | None = None,
) -> Manifest:
    """The manifest of a bundle; its writer fills in the files."""
    text, vision = parts.text, parts.vision
    layers = len(text.attending)
    removed = removed_rows(ladder, prefill, layers)
    rewinds = _policy(prefill, room, reads) == NONE and prefill is None and ringed is None
    rewinds = (
        rewinds
        and not text.convolutions
        and text.bidirectional == "nothing"
        and not text.mrope_axes
    )
    reuse: Literal["rewind", "append", "nothing"] = "rewind" if rewinds else "append"
    if text.bidirectional == "prompt":
        reuse = "nothing"  # what comes after a prompt changes all of its rows
    return Manifest(
        format_version=FORMAT_VERSION,
        producer=f"edgetok {version('edgetok')}",
        family=parts.family,
        method=method.name,
        seed=seed if method.reseed else 0,
        ladder=[
            Rung(
                budget=b.budget,
                prompt_tokens=b.prompt_tokens,
                cache_slots=b.cache_slots,
                removed=removed[b.budget],
                shift=parts.shift(b.budget),
            )
            for b in ladder
        ],
        precision=precision,
        prefill=Prefill(
            method="none" if prefill is None else prefill.name,
            ratio=1.0 if prefill is None else prefill.ratio,
            exits=[] if prefill is None else list(prefill.exits(layers)),
        ),
        kv=KvCache(
            layers=layers,
            kv_heads=text.kv_heads,
            head_dim=text.head_dim,
            slots=cache_slots(ladder, prefill, layers) if room is None else list(room.slots),
            policy=_policy(prefill, room, reads),
            positions=_positions(prefill, room),
            reuse=reuse,
            extends=room is None and ringed is None,
            filing="none" if ringed is None else ringed.filing,
            ring=0 if ringed is None else ringed.ring,
            keep=[] if room is None else list(room.keep),
        ),
        text=Text(
            hidden=text.hidden,
            vocabulary=text.vocabulary,
            max_positions=text.max_positions,
            stop_ids=list(text.stop_ids),
            pad_id=text.pad_id,
        ),
        vision=Vision(
            height_px=vision.image_px[0],
            width_px=vision.image_px[1],
            grid=list(vision.grid),
            full_tokens=parts.full_tokens,
            parts=vision.n_parts,
            separators=parts.full_tokens - vision.full_tokens,
            pictures=vision.pictures,
        ),
        stages=stages,
        files={},
    )


def _policy(prefill: Reduction | None, room: EvictionPlan | None, reads: Reads | None) -> str:
    if reads is not None:
        return reads.reading.name
    if room is not None:
        return room.policy.name
    return NONE if prefill is None else prefill.held.name


def _positions(prefill: Reduction | None, room: EvictionPlan | None) -> Literal["kept", "renumbered"]:
    """No bundle has both: `export_model` refuses it."""
    if room is not None:
        return room.policy.positions
    return "kept" if prefill is None else prefill.method.positions
