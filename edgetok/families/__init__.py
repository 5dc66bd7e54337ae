"""Model families: one small file each, which says where a checkpoint keeps its parts.

Supporting a new family means one file with `open_parts(checkpoint, tiles) -> Parts` and one line in
`FAMILIES`; docs/adding-a-family.md goes through it. Nothing here runs code from a checkpoint.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgetok import limits
from edgetok.errors import InputError, UsageError
from edgetok.families import (
    fast_vlm,
    gemma,
    internvl,
    lfm2_vl,
    llava,
    llava_next,
    perception_lm,
    qwen_vl,
    smolvlm,
)
from edgetok.families.checkpoint import Checkpoint, read_checkpoint
from edgetok.families.encoders import ENCODERS
from edgetok.families.parts import Grid, Parts, TextParts, VisionParts
from edgetok.families.pictures import require_pictures
from edgetok.scratch import Scratch

FAMILIES = {  # by `model_type` in config.json
    "llava": llava.open_parts,
    "llava_next": llava_next.open_next,
    "llava_onevision": llava_next.open_onevision,
    "internvl": internvl.open_parts,
    "smolvlm": smolvlm.open_smolvlm,
    "idefics3": smolvlm.open_idefics3,
    "gemma3": gemma.open_gemma3,
    "paligemma": gemma.open_paligemma,
    "qwen2_vl": qwen_vl.open_qwen2,
    "qwen2_5_vl": qwen_vl.open_qwen2_5,
    "qwen3_vl": qwen_vl.open_qwen3,
    "lfm2_vl": lfm2_vl.open_parts,
    "fast_vlm": fast_vlm.open_parts,
    "perception_lm": perception_lm.open_parts,
}
OF_ANY_SIZE = {
    "qwen2_vl": qwen_vl.open_qwen2,
    "qwen2_5_vl": qwen_vl.open_qwen2_5,
    "qwen3_vl": qwen_vl.open_qwen3,
    "lfm2_vl": lfm2_vl.open_parts,
}
OF_SEVERAL = {  # that are known with several pictures in a prompt
    "llava": llava.open_parts,
    "llava_onevision": llava_next.open_onevision,
    "internvl": internvl.open_parts,
    "smolvlm": smolvlm.open_smolvlm,
    "idefics3": smolvlm.open_idefics3,
}


def find_family(checkpoint: Checkpoint) -> str:
    """The family of a checkpoint.

    Raises:
        InputError: for any other architecture; lists the supported ones.
    """
    if checkpoint.model_type not in FAMILIES:
        raise InputError(
            f"{checkpoint.path}: model_type {checkpoint.model_type!r} is not supported; "
            f"edgetok knows {', '.join(sorted(FAMILIES))}, and encoders alone: "
            f"{', '.join(sorted(ENCODERS))}. docs/adding-a-family.md says what a file for another "
            "one must provide"
        )
    return checkpoint.model_type


def open_model(
    model_dir: Path,
    tiles: Grid | None = None,
    size_px: Grid | None = None,
    scratch: Scratch | None = None,
    *,
    pictures: int = 1,
) -> Parts:
    """Open a Hugging Face model directory as its parts, weights in float32 on the CPU.

    Args:
        tiles: rows and columns into which pictures are cut; None for pictures in one part.
        size_px: height and width of all pictures, for families that take any size.
        scratch: where weights lie that the checkpoint does not hold in float32.
        pictures: how many a prompt has.

    Raises:
        InputError: if it is no model directory, needs remote code or pickle, or is not supported.
        UsageError: if the family does not cut pictures, takes them in one size, or one per prompt.
    """
    _require_within(tiles, size_px)
    checkpoint = replace(read_checkpoint(model_dir), scratch=scratch or Scratch())
    parts = _open_parts(checkpoint, tiles, size_px, pictures)
    return replace(parts, scratch=checkpoint.scratch)


def _open_parts(
    checkpoint: Checkpoint, tiles: Grid | None, size_px: Grid | None, pictures: int
) -> Parts:
    family = find_family(checkpoint)
    require_pictures(family, [*OF_SEVERAL], tiles, pictures)
    if pictures > 1 and size_px is None:
        return OF_SEVERAL[family](checkpoint, tiles, pictures)
    if size_px is None:
        return FAMILIES[family](checkpoint, tiles)
    if family not in OF_ANY_SIZE:
        raise UsageError(
            f"models of type {family!r} take pictures in one size; leave --image-size out"
        )
    return OF_ANY_SIZE[family](checkpoint, tiles, size_px)


def _require_within(tiles: Grid | None, size_px: Grid | None) -> None:
    if tiles is not None and not (min(tiles) > 0 and tiles[0] * tiles[1] <= limits.TILES):
        raise UsageError(f"{tiles[0]} x {tiles[1]} tiles; 1 to {limits.TILES} are possible")
    if size_px is not None and not 0 < min(size_px) <= max(size_px) <= limits.TOWER_SIDE_PIXELS:
        raise UsageError(
            f"pictures of {size_px[0]} x {size_px[1]} pixels; a side may have 1 to "
            f"{limits.TOWER_SIDE_PIXELS}"
        )


__all__ = [
    "FAMILIES",
    "Checkpoint",
    "Parts",
    "TextParts",
    "VisionParts",
    "find_family",
    "open_model",
]
