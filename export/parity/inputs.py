"""What the bundle's own code makes of inputs, against transformers, before graphs are built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import numpy as np

from edgetok.bundle.golden_inputs import (
    INPUTS_FILE,
    GoldenInputs,
    GoldenPicture,
    GoldenPrompt,
    GoldenTurn,
    encode_inputs,
    encode_levels,
)
from edgetok.bundle.processor import ImagePlan
from edgetok.bundle.writer import BundleWriter
from edgetok.export.parity.pictures import Compared, Float32, PictureReport, compare_pictures
from edgetok.families.encoder_parts import EncoderParts
from edgetok.families.parts import Parts

# Kinds that a device is asked to repeat: files that every decoder reads alike.
GOLDEN_KINDS = ("wide", "line", "grey", "alpha", "palette-alpha", "mirrored")


class InputReport(msgspec.Struct, frozen=True):
    """How many texts, conversations of several turns and pictures were compared."""

    texts: int
    conversations: int
    pictures: PictureReport


@dataclass(frozen=True)
class CheckedInputs:
    """The report, and what transformers made of the inputs, for `verify` on the target."""

    report: InputReport
    plan: ImagePlan
    prompts: Sequence[GoldenPrompt]
    turns: Sequence[GoldenTurn]
    pictures: Sequence[Compared]

    def write(self, writer: BundleWriter) -> None:
        """Write the golden inputs."""
        listed = []
        for each in self.pictures:
            kind, suffix = each.picture.kind, each.picture.suffix
            if kind not in GOLDEN_KINDS:
                continue
            image, levels = f"golden/{kind}{suffix}", f"golden/{kind}-levels.png"
            writer.write(image, each.picture.data)
            writer.write(levels, encode_levels(find_levels(each.pixels, self.plan)))
            listed.append(GoldenPicture(kind=kind, image=image, levels=levels))
        prompts, turns = list(self.prompts), list(self.turns)
        inputs = GoldenInputs(prompts=prompts, turns=turns, pictures=listed)
        writer.write(INPUTS_FILE, encode_inputs(inputs))


def check_inputs(parts: Parts) -> CheckedInputs:
    """Texts and pictures of a model that answers; its texts were compared when it was opened.

    Raises:
        VerificationError: naming the picture whose pixels differ.
    """
    processor, asked = parts.open_processor(parts.path), parts.prompt
    process, name = partial(parts.process, processor), type(processor).__name__
    report, pictures = compare_pictures(parts.image, process, name, parts.fixed)
    made = InputReport(len(asked.prompts), asked.conversations, report)
    return CheckedInputs(made, parts.image, asked.prompts, asked.turns, pictures)


def check_encoder_inputs(parts: EncoderParts) -> CheckedInputs:
    """The same of an encoder; a device refuses the texts that are too long for it.

    Raises:
        VerificationError: as `check_inputs`.
    """
    process, text = parts.process, parts.text
    name = type(process.processor).__name__
    report, pictures = compare_pictures(parts.image, process, name, process.fixed)
    texts = () if text is None else text.texts
    fit = [each for each in texts if text is not None and len(each.ids) == text.length]
    return CheckedInputs(InputReport(len(texts), 0, report), parts.image, fit, (), pictures)


def find_levels(pixels: Float32, plan: ImagePlan) -> Any:
    """Pixels float32 [P, 3, h, w] before they were normalised: levels uint8 [P, h, w, 3]."""
    values = pixels.transpose(0, 2, 3, 1).astype(np.float64)
    levels = (values * np.array(plan.std) + np.array(plan.mean)) / plan.rescale
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)
