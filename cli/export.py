"""`edgetok export`: from a Hugging Face model directory to a proven bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from edgetok.cli.options import ImageSize, Json, Seed, Tiles, parse_pair
from edgetok.cli.output import emit, working
from edgetok.errors import UsageError
from edgetok.kv import NONE, POLICIES, READINGS

_MIB = 1 << 20


def export_command(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Hugging Face model directory (safetensors).")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="BUNDLE", help="Directory to publish.")
    ],
    budgets: Annotated[
        str | None,
        typer.Option(
            help="Visual tokens of each rung; `full` keeps all. 64,128,192,full by default; of an "
            "encoder alone, a quarter, a half and all."
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="Token compressor; `edgetok methods` lists them. visionzip by default; of an "
            "encoder alone, tome, or expedit where it draws a map."
        ),
    ] = None,
    mask_sinks: Annotated[
        bool,
        typer.Option(
            "--mask-sinks",
            help="Take attention sinks, patches of unusual length, only if nothing else is left.",
        ),
    ] = False,
    scorer: Annotated[
        Path | None,
        typer.Option(help="Weights of a trained scorer (safetensors), for `explainability`."),
    ] = None,
    weights: Annotated[
        Literal["fp32", "int8", "int4"], typer.Option(help="Precision of the weights.")
    ] = "fp32",
    kv: Annotated[
        Literal["fp32", "int8", "int4", "kivi", "kivi4", "zipcache", "think"],
        typer.Option(
            help="Precision of the KV cache; int8 and int4 need --samples, kivi (2 bits), "
            "kivi4 and zipcache (2 and 4 bits) measure as they go, think prunes channels of keys."
        ),
    ] = "fp32",
    kv_channels: Annotated[
        int | None,
        typer.Option(min=1, help="Channels that keys of a think cache keep; three of five."),
    ] = None,
    kv_policy: Annotated[
        str,
        typer.Option(
            help=f"What a full KV cache keeps: {', '.join([NONE, *POLICIES])}; or what steps read "
            f"of one that keeps all: {', '.join(READINGS)}; `mustdrop` goes with "
            "--prefill mustdrop.",
        ),
    ] = "none",
    kv_slots: Annotated[
        int | None,
        typer.Option(min=1, help="Rows per layer of a policy's cache; as many as without one."),
    ] = None,
    kv_weights: Annotated[
        Path | None,
        typer.Option(help="Learned weights of a KV policy (safetensors), for `lococo`."),
    ] = None,
    kv_reads: Annotated[
        int | None,
        typer.Option(min=1, help="Rows that a step of tidaldecode reads; a quarter of all."),
    ] = None,
    flavour: Annotated[
        Literal["ort", "portable", "portable-20"],
        typer.Option(
            help="`portable` adds the same graphs in standard operators (opset 24), for TensorRT "
            "and other runtimes; `portable-20` in those of opset 20, for JetPack 6."
        ),
    ] = "ort",
    prefill: Annotated[
        str,
        typer.Option(
            metavar="NAME[:RATIO]",
            help="Take visual tokens away between decoder layers too; `edgetok methods` lists how. "
            "Or a plan file (*.json) with a share per layer.",
        ),
    ] = "none",
    exit_weights: Annotated[
        Path | None,
        typer.Option(help="Trained routers (safetensors), for --prefill dyvte-signal."),
    ] = None,
    samples: Annotated[
        Path | None,
        typer.Option(help="JSONL file or folder of images that scales are measured on."),
    ] = None,
    prompt_tokens: Annotated[int, typer.Option(help="Room for the prompt.")] = 96,
    new_tokens: Annotated[int, typer.Option(help="Room for the answer.")] = 128,
    tiles: Tiles = None,
    image_size: ImageSize = None,
    images: Annotated[
        int,
        typer.Option(min=1, help="Pictures, or frames of a video, that a prompt has."),
    ] = 1,
    seed: Seed = 0,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a bundle that is already there.")
    ] = False,
    parity_images: Annotated[
        int, typer.Option(min=1, max=100_000, help="Images on which graphs must agree with torch.")
    ] = 8,
    as_json: Json = False,
) -> None:
    """Freeze a model into a ladder of static graphs, prove them and publish the bundle.

    Vision-language models, and encoders alone: classifiers, embeddings, CLIP and SigLIP, depth.
    Nothing is published unless every graph agrees with torch (exit code 7 otherwise).

    Example: edgetok export llava-dir -o out.bundle --budgets 64,128,full --weights int4
    """
    if kv in ("int8", "int4") and samples is None:
        raise UsageError(
            f"--kv {kv} measures its scales on your data; add --samples samples.jsonl, "
            "or a folder of images"
        )
    grid, size_px = parse_pair(tiles, "--tiles"), parse_pair(image_size, "--image-size")
    with working(as_json) as progress:
        from edgetok.export.pipeline import export_model

        report = export_model(
            model,
            output,
            budgets=budgets,
            method=method,
            mask_sinks=mask_sinks,
            scorer=scorer,
            weights=weights,
            kv=kv,
            kv_channels=kv_channels,
            kv_policy=kv_policy,
            kv_slots=kv_slots,
            kv_weights=kv_weights,
            kv_reads=kv_reads,
            flavour=flavour,
            prefill=prefill,
            exit_weights=exit_weights,
            samples=samples,
            prompt_tokens=prompt_tokens,
            new_tokens=new_tokens,
            seed=seed,
            force=force,
            parity_images=parity_images,
            tiles=grid,
            size_px=size_px,
            pictures=images,
            progress=progress,
        )
    fields = {
        "bundle": report.bundle,
        "digest": f"sha256:{report.digest}",
        "bytes": report.bytes,
        "seconds": round(report.seconds, 3),
        "parity": report.parity,
    }
    emit(
        fields,
        as_json,
        f"{output} in {report.seconds:.1f} s, {report.bytes / _MIB:.1f} MiB",
        f"digest {fields['digest']}",
        f"next: edgetok run {output} --image FILE"
        + (' --prompt "…"' if "precision" in report.parity else ""),
    )
