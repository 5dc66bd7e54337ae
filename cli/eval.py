"""`edgetok eval`: accuracy of every rung on samples with known answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.table import Table

from edgetok.bundle.manifest import Manifest
from edgetok.calibration.evaluate import Evaluation, Score
from edgetok.cli.options import Budgets, BundleDir, Data, Device, Json, Seed, Threads
from edgetok.cli.output import emit, say, table, working
from edgetok.errors import UsageError
from edgetok.ladder import parse_budgets

if TYPE_CHECKING:
    from edgetok.bundle.reader import Bundle
    from edgetok.calibration.recheck import Recheck
    from edgetok.calibration.samples import Sample


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
    controller: Annotated[
        bool,
        typer.Option(
            "--controller",
            help="Ask the bundle's own controller, and hold its certificate against the answers.",
        ),
    ] = False,
    device: Device = "cpu",
    threads: Threads = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Ask every question on every rung, greedily, and count exact matches.

    Case, spacing and a trailing full stop do not count. Intervals are Wilson's, 95 %.

    With --controller each question is asked twice: as `edgetok run` would, by the controller that
    `edgetok calibrate` wrote, and on its full rung. So anyone can see on samples of their own what
    the certificate is worth. Answers need not be known if it counts answers that differ.
    """
    if controller:
        _recheck(bundle, data, _Asked(budgets, count, plot, device, threads, seed), as_json)
        return
    from edgetok.calibration import plot as plotting

    if plot is not None:
        plotting.require_plotting(plot)
    chosen = _draw(data, count, seed)
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
    rounding = _read_rounding(opened)
    found = msgspec.to_builtins(evaluation) | {"rounding": rounding}
    emit(found, as_json, *_show(evaluation), *([f"weights by {rounding}"] if rounding else []))
    if plot is not None:
        say(f"plot in {plot}")


@dataclass(frozen=True)
class _Asked:
    """What --controller may go with, and what not."""

    budgets: str | None
    count: int | None
    plot: Path | None
    device: str
    threads: int | None
    seed: int

    def require_consistent(self) -> None:
        for flag, given in (("--budgets", self.budgets), ("--plot", self.plot)):
            if given is not None:
                raise UsageError(
                    f"--controller and {flag} exclude each other: the controller chooses among "
                    "all rungs"
                )


def _recheck(bundle: Path, data: Path, asked: _Asked, as_json: bool) -> None:
    """Ask the bundle's own controller."""
    asked.require_consistent()
    with working(as_json) as progress:
        from edgetok.bundle.reader import Bundle
        from edgetok.calibration.recheck import recheck
        from edgetok.runtimes.load import load

        opened = Bundle.open(bundle)
        controller = opened.manifest.controller
        if controller is None:
            raise UsageError(
                "this bundle has no controller; `edgetok calibrate` certifies one and writes it "
                "into the bundle"
            )
        chosen = _draw(data, asked.count, asked.seed)
        progress("loading", 0.0)
        flavour = controller.certificate.flavour
        model = load(opened, device=asked.device, threads=asked.threads, flavour=flavour)
        found = recheck(model, chosen, controller, progress)
    emit(msgspec.to_builtins(found), as_json, *_show_recheck(found))


def _draw(data: Path, count: int | None, seed: int) -> tuple[Sample, ...]:
    from edgetok.calibration import samples as sampling

    samples = sampling.load_samples(data)
    return samples if count is None else sampling.draw(samples, count, seed)


def _show_recheck(found: Recheck) -> list[Table | str]:
    shown = table(
        f"{found.samples} questions about {found.images} images, %",
        *("", ">here", ">95 % interval", ">certified"),
    )
    shown.add_row("same answer as the full rung", *_show_score(found.same), "")
    if found.right is not None and found.full_right is not None:
        shown.add_row("right", *_show_score(found.right), "")
        shown.add_row(f"right on the full rung, {found.full}", *_show_score(found.full_right), "")
    lost = "answers differ" if found.loss == "differs" else "wrong where the full rung is right"
    limit = f"at most {100 * found.risk:.3g}"
    shown.add_row(f"lost: {lost}", _percent(found.mean_loss), "", limit)
    tokens = f"{found.mean_tokens:.1f}", "", f"{found.certified_tokens:.1f}"
    shown.add_row("mean visual tokens", *tokens)
    return [shown, _judge(found)]


def _judge(found: Recheck) -> str:
    """What these samples say of the certificate, in a sentence."""
    taken = ", ".join(f"{budget}: {count}" for budget, count in found.taken.items())
    chance = f"so much is lost with a chance of {found.p_value:.2g} where the risk is at its limit"
    if found.holds:
        return f"nothing here speaks against the certificate ({chance}); answers by rung {taken}"
    return (
        f"the certificate does not hold on these samples ({chance}, and it promises "
        f"{100 * found.confidence:.3g} %); they are no samples like those of its calibration, so "
        f"calibrate on ones like these; answers by rung {taken}"
    )


def _parse_budgets(budgets: str | None, manifest: Manifest) -> tuple[int, ...] | None:
    """Rungs as typed; what `full` means depends on the bundle."""
    return None if budgets is None else parse_budgets(budgets, manifest.vision.full_tokens)


def _read_rounding(bundle: Bundle) -> str | None:
    """How weights of 4 bits were rounded, as the export's report says; None without such."""
    path = "reports/parity.json"
    if path not in bundle.manifest.files:
        return None
    rounding: str | None = msgspec.json.decode(bundle.read(path)).get("rounding")
    return rounding


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
