"""Accuracy against visual tokens, as an image; needs the extra `plot`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from edgetok.calibration.evaluate import Evaluation, Score
from edgetok.errors import IncompatibleError, UsageError

SUFFIXES = (".png", ".svg", ".pdf")


def require_plotting(path: Path) -> None:
    """Refuse before the long work what could not be drawn after it.

    Raises:
        UsageError: if the file cannot be written there or its format is not known.
        IncompatibleError: if matplotlib is not installed.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path} does not end in one of {', '.join(SUFFIXES)}")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{path.absolute().parent} is no directory; create it first")
    if importlib.util.find_spec("matplotlib") is None:
        raise IncompatibleError(
            'plots need matplotlib, which is not installed: pip install "edgetok[plot]"'
        )


def plot_accuracy(evaluation: Evaluation, path: Path, title: str = "") -> None:
    """Draw accuracy with its intervals against tokens: all samples, each kind, and the oracle."""
    require_plotting(path)
    from matplotlib.figure import Figure  # without pyplot no display is looked for

    figure = Figure(figsize=(7.0, 4.5), layout="constrained")
    axes = figure.subplots()
    budgets = [rung.budget for rung in evaluation.rungs]
    if len(evaluation.kinds) > 1:
        for kind in evaluation.kinds:
            shares = [100 * rung.kinds[kind].accuracy for rung in evaluation.rungs]
            axes.plot(budgets, shares, linewidth=1, alpha=0.6, marker=".", label=kind)
    _draw_points(axes, budgets, [rung.all for rung in evaluation.rungs], "all", "black")
    oracle = evaluation.oracle
    _draw_points(axes, [oracle.mean_tokens], [oracle.score], "oracle", "tab:red")
    _label(axes, budgets, title)
    draw_without_date(figure, path)


def _draw_points(
    axes: Any, tokens: list[int] | list[float], scores: list[Score], label: str, colour: str
) -> None:
    shares = [100 * score.accuracy for score in scores]
    below = [100 * (score.accuracy - score.low) for score in scores]
    above = [100 * (score.high - score.accuracy) for score in scores]
    axes.errorbar(
        tokens, shares, yerr=(below, above), color=colour, marker="o", capsize=3, label=label
    )


def _label(axes: Any, budgets: list[int], title: str) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(budgets, [str(budget) for budget in budgets])
    axes.set_xlabel("visual tokens")
    axes.set_ylabel("accuracy, % (95 % intervals)")
    axes.set_ylim(0, 102)
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def draw_without_date(figure: Any, path: Path) -> None:
    """The same figures give the same file."""
    dates = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    figure.savefig(path, dpi=150, metadata=dates[path.suffix.lower()])
