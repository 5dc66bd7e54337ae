"""`edgetok eval`: accuracy of every rung on samples with known answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.table import Table

from edgetok.bundle.manifest import Manifest
from edgetok.calibration.evaluate import Evaluation, Score
from edgetok.cli.options import Budgets, BundleDir, Data, Device, Json, Seed, Threads
from edgetok.cli.output import emit, say, table, working
from edgetok.ladder import parse_budgets


def eval_command(
    bundle: BundleDir,
    data: Data,
    budgets: Budgets = None,
    count: Annotated[
        int | None,
        typer.Option(help="Ask this many, drawn evenly over the kinds; all if left out."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw accuracy against tokens: .png, .svg or .pdf.")
    ] = None,
    device: Device = "cpu",
    threads: Threads = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Ask every question on every rung, greedily, and count exact matches.

    Case, spacing and a trailing full stop do not count. Intervals are Wilson's, 95 %.
    """
    from edgetok.calibration import plot as plotting
    from edgetok.calibration import samples as sampling

    if plot is not None:
        plotting.require_plotting(plot)
    samples = sampling.load_samples(data)
    chosen = samples if count is None else sampling.draw(samples, count, seed)
    with working(as_json) as progress:
        from edgetok.bundle.reader import Bundle
        from edgetok.calibration.evaluate import evaluate
        from edgetok.runtimes.load import load

        progress("loading", 0.0)
        opened = Bundle.open(bundle)
        wanted = _parse_budgets(budgets, opened.manifest)
        model = load(opened, device=device, budgets=wanted, threads=threads)
        evaluation = evaluate(model, chosen, model.ladder.budgets, progress)
        if plot is not None:
            plotting.plot_accuracy(evaluation, plot, f"{bundle.name}, {evaluation.samples} samples")
    emit(msgspec.to_builtins(evaluation), as_json, *_show(evaluation))
    if plot is not None:
        say(f"plot in {plot}")


def _parse_budgets(budgets: str | None, manifest: Manifest) -> tuple[int, ...] | None:
    """Rungs as typed; what `full` means depends on the bundle."""
    return None if budgets is None else parse_budgets(budgets, manifest.vision.full_tokens)


def _show(evaluation: Evaluation) -> list[Table | str]:
    shown = table(
        f"{evaluation.samples} questions about {evaluation.images} images, % right",
        ">visual tokens",
        ">all",
        ">95 % interval",
        *(f">{kind}" for kind in evaluation.kinds),
    )
    for rung in evaluation.rungs:
        kinds = [_percent(rung.kinds[kind].accuracy) for kind in evaluation.kinds]
        shown.add_row(str(rung.budget), *_show_score(rung.all), *kinds)
    oracle = evaluation.oracle
    shown.add_row(f"oracle {oracle.mean_tokens:.1f}", *_show_score(oracle.score))
    note = "oracle: the smallest rung that answers right, were it known; tokens are the mean"
    return [shown, note]


def _show_score(score: Score) -> tuple[str, str]:
    return _percent(score.accuracy), f"{_percent(score.low)} to {_percent(score.high)}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
