"""Model families: one small file each, which says where a checkpoint keeps its parts.

Supporting a new family means one file with `open_parts(checkpoint) -> Parts` and one line in
`FAMILIES`. Nothing here runs code from a checkpoint.
"""

from __future__ import annotations

from pathlib import Path

from edgetok.errors import InputError
from edgetok.families import llava
from edgetok.families.checkpoint import Checkpoint, read_checkpoint
from edgetok.families.parts import Parts, TextParts, VisionParts

FAMILIES = {"llava": llava.open_parts}


def find_family(checkpoint: Checkpoint) -> str:
    """The family of a checkpoint.

    Raises:
        InputError: for any other architecture; lists the supported ones.
    """
    if checkpoint.model_type not in FAMILIES:
        raise InputError(
            f"{checkpoint.path}: model_type {checkpoint.model_type!r} is not supported; "
            f"edgetok knows {', '.join(sorted(FAMILIES))}"
        )
    return checkpoint.model_type


def open_model(model_dir: Path) -> Parts:
    """Open a Hugging Face model directory as its parts, weights in float32 on the CPU.

    Raises:
        InputError: if it is no model directory, needs remote code or pickle, or is not supported.
    """
    checkpoint = read_checkpoint(model_dir)
    return FAMILIES[find_family(checkpoint)](checkpoint)


__all__ = [
    "FAMILIES",
    "Checkpoint",
    "Parts",
    "TextParts",
    "VisionParts",
    "find_family",
    "open_model",
]
