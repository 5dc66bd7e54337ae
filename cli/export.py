"""`edgetok export`: from a Hugging Face model directory to a published bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgetok.cli.options import Json, ModelDir, with_options
from edgetok.cli.output import emit, working
from edgetok.export.options import ExportOptions

_MIB = 1 << 20


@with_options
def export_command(
    model: ModelDir,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="BUNDLE", help="Directory to publish.")
    ],
    asked: ExportOptions,
    as_json: Json = False,
) -> None:
    """Freeze a model into a ladder of static graphs, check them and publish the bundle.

    Vision-language models, and encoders alone: classifiers, embeddings, CLIP and SigLIP, depth.
    Nothing is published unless every graph agrees with torch (exit code 7 otherwise).

    Example: edgetok export llava-dir -o out.bundle --budgets 64,128,full --weights int4
    """
    with working(as_json) as progress:
        from edgetok.export.pipeline import export_model

        report = export_model(model, output, progress=progress, **vars(asked))
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
