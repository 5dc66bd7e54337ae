"""What an export may be asked for: every option with its default, its help and its check, once.

`edgetok export`, `edgetok.export` and `export_model` are all filled from `ExportOptions`. An
encoder, which has no language model, takes the fields that say `encoder` and refuses any other
that is not its default.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgetok.errors import UsageError
from edgetok.families.parts import Grid
from edgetok.kv import NONE, POLICIES, READINGS, Policy, Reading
from edgetok.options import option, require_known
from edgetok.prefill import Prefill

METHOD, BUDGETS = "visionzip", "64,128,192,full"  # of models that answer, if none is asked for
KV_BITS = {"int8": 8, "int4": 4}  # of caches whose scales are measured on samples
Kv = Literal["fp32", "int8", "int4", "fp16", "kivi", "kivi4", "zipcache", "think"]
# What users ask for: the lowering that is added to `ort`, and its opset.
Lowering = Literal["ort", "portable", "portable-20"]


def read_count(text: str | int, flag: str) -> str | int:
    """One number as users write it; several, or anything else, as it is.

    >>> read_count("96", "--prompt-tokens"), read_count("24,96", "--prompt-tokens")
    (96, '24,96')
    """
    return int(text) if str(text).isascii() and str(text).isdigit() else text


def parse_pair(text: str | None, flag: str) -> Grid | None:
    """Two whole numbers as users write them; None if there are none.

    Raises:
        UsageError: for anything else.

    >>> parse_pair("2x3", "--tiles")
    (2, 3)
    """
    if text is None:
        return None
    found = re.fullmatch(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", text.strip().lower())
    if found is None:
        raise UsageError(f"{flag} {text!r} is no pair of numbers; write it like 2x3")
    return int(found[1]), int(found[2])


@dataclass(frozen=True)
class GraphOptions:
    """Which visual tokens graphs keep, and in which form they are written."""

    budgets: str | int | Iterable[int | str] | None = option(
        None,
        f"Visual tokens of each rung; `full` keeps all. {BUDGETS} by default; of an encoder alone, "
        "a quarter, a half and all.",
        shell=str | None,
        encoder=True,
    )
    method: str | None = option(
        None,
        f"Token compressor; `edgetok methods` lists them. {METHOD} by default; of an encoder "
        "alone, tome, or expedit where it draws a map.",
        encoder=True,
    )
    mask_sinks: bool = option(
        False, "Take attention sinks, patches of unusual length, only if nothing else is left."
    )
    scorer: str | Path | None = option(
        None,
        "Weights of a trained scorer (safetensors), for `explainability`.",
        shell=Path | None,
    )
    weights: Literal["fp32", "int8", "int4"] = option(
        "fp32", "Precision of the weights.", noun="weights precision", encoder=True
    )


@dataclass(frozen=True)
class CacheOptions:
    """What takes visual tokens away inside the decoder, and what its KV cache holds."""

    kv: Kv = option(
        "fp32",
        "Precision of the KV cache; int8 and int4 need --samples, kivi (2 bits), kivi4 and "
        "zipcache (2 and 4 bits) measure as they go, think prunes channels of keys.",
        noun="kv precision",
    )
    kv_channels: int | None = option(
        None,
        "Channels that keys of a think cache keep; three of five.",
        noun="channels of keys",
        least=1,
    )
    kv_policy: str | Policy | Reading = option(
        NONE,
        f"What a full KV cache keeps: {', '.join([NONE, *POLICIES])}; or what steps read of one "
        f"that keeps all: {', '.join(READINGS)}; `mustdrop` goes with --prefill mustdrop.",
        shell=str,
    )
    kv_slots: int | None = option(
        None, "Rows per layer of a policy's cache; as many as without one.", typer={"min": 1}
    )
    kv_weights: str | Path | None = option(
        None, "Learned weights of a KV policy (safetensors), for `lococo`.", shell=Path | None
    )
    kv_reads: int | None = option(
        None,
        "Rows that a step of tidaldecode reads; a quarter of all.",
        noun="rows to read",
        least=1,
    )
    prefill: str | Prefill | None = option(
        NONE,
        "Take visual tokens away between decoder layers too; `edgetok methods` lists how. Or a "
        "plan file (*.json) with a share per layer.",
        shell=str,
        encoder=(None,),  # as `none`
        typer={"metavar": "NAME[:RATIO]"},
    )
    exit_weights: str | Path | None = option(
        None,
        "Trained routers (safetensors), for --prefill dyvte-signal.",
        shell=Path | None,
    )


@dataclass(frozen=True)
class ExportOptions(CacheOptions, GraphOptions):
    """All that an export may be asked for; names and defaults are those of the command line.

    Raises:
        UsageError: for a value that is not known or beyond its limits, or an int8 cache without
            samples.
    """

    flavour: Lowering = option(
        "ort",
        "`portable` adds the same graphs in standard operators (opset 24), for TensorRT and other "
        "runtimes; `portable-20` in those of opset 20, for JetPack 6.",
        noun="flavour",
        encoder=("portable",),  # opset 20 was written for decoders
    )
    samples: str | Path | None = option(
        None,
        "JSONL file or folder of images that scales are measured on.",
        shell=Path | None,
        encoder=True,
    )
    prompt_tokens: str | int | Iterable[int | str] = option(
        96,
        "Room for the prompt. Each rung has prefill graphs for prompts of a half and a quarter of "
        "it too, where they save an eighth of the rows; several numbers (24,96) say which.",
        shell=str,
        read=read_count,
    )
    new_tokens: int = option(128, "Room for the answer.")
    tiles: Grid | None = option(
        None,
        "Cut pictures into so many tiles behind a thumbnail, for families that do so.",
        shell=str | None,
        read=parse_pair,
        typer={"metavar": "ROWSxCOLUMNS"},
    )
    size_px: Grid | None = option(
        None,
        "Pixels that pictures are stretched to, for families that take any size.",
        flag="--image-size",
        shell=str | None,
        read=parse_pair,
        typer={"metavar": "HEIGHTxWIDTH"},
    )
    pictures: int = option(
        1,
        "Pictures, or frames of a video, that a prompt has.",
        flag="--images",
        noun="images per prompt",
        least=1,
    )
    seed: int = option(0, "Makes what is drawn repeatable.", encoder=True)
    force: bool = option(False, "Replace a bundle that is already there.", encoder=True)
    parity_images: int = option(
        8,
        "Images on which graphs must agree with torch.",
        noun="parity images",
        least=1,
        most=100_000,
        encoder=True,
    )

    def __post_init__(self) -> None:
        require_known(self)
        if self.kv in KV_BITS and self.samples is None:
            raise UsageError(
                f"--kv {self.kv} measures its scales on your data; add --samples samples.jsonl, "
                "or a folder of images"
            )
