"""Model families: one small file each, which says where a checkpoint keeps its parts.

Supporting a new family means one file with `open_parts(checkpoint, framing) -> Parts` and one line
in `FAMILIES`; docs/adding-a-family.md goes through it. Nothing here runs code from a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
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
from edgetok.families.parts import Framing, Grid, Parts, TextParts, VisionParts
from edgetok.scratch import Scratch


@dataclass(frozen=True)
class Family:
    """How an architecture is opened, and what framings it takes besides the plain one.

    Args:
        open: makes parts of a checkpoint; the framing is one that the family takes.
        any_size: whether images have a size that is chosen at export.
        several_images: whether a prompt may have several.
        tiles: whether images may be cut into tiles.
    """

    open: Callable[[Checkpoint, Framing], Parts]
    any_size: bool = False
    several_images: bool = False
    tiles: bool = False


FAMILIES = {  # by `model_type` in config.json
    "llava": Family(llava.open_parts, several_images=True),
    "llava_next": Family(llava_next.open_next, tiles=True),
    "llava_onevision": Family(llava_next.open_onevision, several_images=True, tiles=True),
    "internvl": Family(internvl.open_parts, several_images=True),
    "smolvlm": Family(smolvlm.open_smolvlm, several_images=True, tiles=True),
    "idefics3": Family(smolvlm.open_idefics3, several_images=True, tiles=True),
    "gemma3": Family(gemma.open_gemma3),
    "paligemma": Family(gemma.open_paligemma),
    "qwen2_vl": Family(qwen_vl.open_qwen2, any_size=True),
    "qwen2_5_vl": Family(qwen_vl.open_qwen2_5, any_size=True),
    "qwen3_vl": Family(qwen_vl.open_qwen3, any_size=True),
    "lfm2_vl": Family(lfm2_vl.open_parts, any_size=True),
    "fast_vlm": Family(fast_vlm.open_parts),
    "perception_lm": Family(perception_lm.open_parts),
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
        tiles: rows and columns into which images are cut; None for images in one part.
        size_px: height and width of all images, for families that take any size.
        scratch: where weights lie that the checkpoint does not hold in float32.
        images: how many a prompt has.

    Raises:
        InputError: if it is no model directory, needs remote code or pickle, or is not supported.
        UsageError: if the family does not cut images, takes them in one size, or one per prompt.
    """
    framing = Framing(tiles, size_px, pictures)
    _require_within(framing)
    checkpoint = replace(read_checkpoint(model_dir), scratch=scratch or Scratch())
    family = find_family(checkpoint)
    _require_taken(family, framing)
    return replace(FAMILIES[family].open(checkpoint, framing), scratch=checkpoint.scratch)


def _require_taken(name: str, framing: Framing) -> None:
    """Refuse a framing that a family does not take."""
    family = FAMILIES[name]
    if framing.images > 1 and not family.several_images:
        known = [each for each, one in FAMILIES.items() if one.several_images]
        raise UsageError(
            f"models of type {name!r} take one picture per prompt; leave --images out. Several "
            f"are known of {', '.join(known)}"
        )
    if framing.images > 1 and framing.tiles is not None:
        raise UsageError("several pictures are looked at in one part each; leave --tiles out")
    if framing.size_px is not None and not family.any_size:
        raise UsageError(
            f"models of type {name!r} take pictures in one size; leave --image-size out"
        )
    if framing.tiles is not None and not family.tiles:
        raise UsageError(f"models of type {name!r} take pictures in one part; leave --tiles out")


def _require_within(framing: Framing) -> None:
    tiles, size_px, images = framing.tiles, framing.size_px, framing.images
    if not 1 <= images <= limits.PICTURES:
        raise UsageError(f"{images} pictures per prompt; 1 to {limits.PICTURES} are possible")
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
    "Family",
    "Framing",
    "Parts",
    "TextParts",
    "VisionParts",
    "find_family",
    "open_model",
]
