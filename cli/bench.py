"""`edgetok bench`: measure every rung on this device and keep the table for the controller."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.table import Table

from edgetok.bundle.parse import ANSWER
from edgetok.bundle.reader import task_of
from edgetok.cli.options import BundleDir, Device, Json, Threads
from edgetok.cli.output import emit, say, table, working
from edgetok.control.table import BenchTable, save_table
from edgetok.errors import UsageError

if TYPE_CHECKING:
    from edgetok.bundle.reader import Bundle


def _read_golden(bundle: Bundle) -> list[bytes]:
    """The images of the first golden case."""
    from edgetok.bundle.golden import load_golden

    return [bundle.read(image) for image in load_golden(bundle)[0].images]


def bench_command(
    bundle: BundleDir,
    image: Annotated[
        Path | None, typer.Option(help="Image to measure with; one of the bundle's by default.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="Prompt to measure with; one of the bundle's by default.")
    ] = None,
    repeats: Annotated[int, typer.Option(help="Answers measured per rung.")] = 10,
    device: Device = "cpu",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Measure time to first token, decode speed and memory of every rung on this device.

    `edgetok run --max-ttft-ms` and `--max-memory-mib` choose rungs from the table. Of a bundle
    without a language model, the time is that of encoding an image.
    """
    if task_of(bundle) != ANSWER:
        _bench_encoder(bundle, image, prompt, repeats, device, threads, as_json)
        return
    with working(as_json) as progress:
        from edgetok.bundle.golden import load_golden
        from edgetok.bundle.reader import Bundle
        from edgetok.runtimes.bench import measure
        from edgetok.runtimes.device import machine
        from edgetok.runtimes.load import load

        progress("loading", 0.0)
        opened = Bundle.open(bundle)
        model = load(opened, device=device, threads=threads)
        progress("measuring", 0.1)
        rows = measure(
            model,
            repeats=repeats,
            image=_read_golden(opened) if image is None else [image],
            prompt=load_golden(opened)[0].prompt if prompt is None else prompt,
        )
    measured = BenchTable(model.digest, model.device, tuple(rows))
    path = save_table(measured)
    facts = machine.facts()
    fields = msgspec.to_builtins(measured) | {"machine": facts, "table": path}
    about = f"{facts['processor']}, {model.runtime.threads} threads, {model.device}"
    emit(fields, as_json, _show(measured, about))
    if not as_json:
        say(f"kept in {path}")


def _bench_encoder(
    bundle: Path,
    image: Path | None,
    prompt: str | None,
    repeats: int,
    device: str,
    threads: int | None,
    as_json: bool,
) -> None:
    if prompt is not None:
        raise UsageError("this bundle has no language model, so --prompt means nothing")
    with working(as_json) as progress:
        from edgetok.bundle.encoder_golden import load_encoder_golden
        from edgetok.bundle.reader import EncoderBundle
        from edgetok.runtimes.bench import measure_encoder
        from edgetok.runtimes.device import machine
        from edgetok.runtimes.encoder.model import load_encoder

        progress("loading", 0.0)
        opened = EncoderBundle.open(bundle)
        encoder = load_encoder(opened, device=device, threads=threads)
        source = opened.read(load_encoder_golden(opened)[0][0].image) if image is None else image
        progress("measuring", 0.1)
        rows = measure_encoder(encoder, repeats=repeats, image=source)
    facts = machine.facts()
    rungs = [
        {"budget": r.budget, "encode_ms_p50": r.ttft_ms_p50, "encode_ms_p95": r.ttft_ms_p95}
        | {"memory_mib": r.memory_mib}
        for r in rows
    ]
    columns = (">patches", ">encode ms p50", ">p95", ">MiB")
    shown = table(f"{facts['processor']}, {encoder.threads} threads, {device}", *columns)
    for row in rows:
        figures = (row.ttft_ms_p50, row.ttft_ms_p95, row.memory_mib)
        shown.add_row(str(row.budget), *(f"{figure:.1f}" for figure in figures))
    emit({"task": encoder.task, "rows": rungs, "machine": facts}, as_json, shown)


def _show(measured: BenchTable, about: str) -> Table:
    columns = (">visual tokens", ">TTFT ms p50", ">p95", ">decode ms/token", ">tokens/s", ">MiB")
    shown = table(about, *columns)
    for row in measured.rows:
        speed = 1000 / row.decode_ms_p50 if row.decode_ms_p50 else float("nan")
        times = (row.ttft_ms_p50, row.ttft_ms_p95, row.decode_ms_p50, speed, row.memory_mib)
        shown.add_row(str(row.budget), *(f"{figure:.1f}" for figure in times))
    return shown
