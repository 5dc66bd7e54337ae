"""What a manifest says of a model, before its stages and files are known."""

from __future__ import annotations

from importlib.metadata import version

from edgetok.bundle.manifest import (
    FORMAT_VERSION,
    KvCache,
    Manifest,
    Precision,
    Rung,
    Stage,
    Text,
    Vision,
)
from edgetok.families.parts import Parts
from edgetok.kv import NONE, Room
from edgetok.ladder import Ladder
from edgetok.methods import Method


def describe(
    parts: Parts,
    method: Method,
    ladder: Ladder,
    precision: Precision,
    seed: int,
    stages: list[Stage],
    room: Room | None = None,
) -> Manifest:
    """The manifest of a bundle; its writer fills in the files."""
    text, vision, layers = parts.text, parts.vision, len(parts.text.layers)
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
                removed=[0] * len(text.layers),
            )
            for b in ladder
        ],
        precision=precision,
        kv=KvCache(
            layers=len(text.layers),
            kv_heads=text.kv_heads,
            head_dim=text.head_dim,
            slots=[ladder.largest.cache_slots] * layers if room is None else list(room.slots),
            policy=NONE if room is None else room.policy.name,
            positions="kept" if room is None else room.policy.positions,
            keep=[] if room is None else list(room.keep),
            planes=[] if room is None else list(room.policy.planes),
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
            full_tokens=vision.full_tokens,
        ),
        stages=stages,
        files={},
    )
