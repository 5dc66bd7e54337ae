"""A Pareto front of accuracy, time and memory, as an image; needs the extra `plot`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgetok.calibration.plot import draw_without_date, require_plotting
from edgetok.calibration.tuning import Goal, Measured, Point

Pairs = Sequence[tuple[Measured, Point]]


def plot_front(pairs: Pairs, front: Pairs, goal: Goal, path: Path, title: str = "") -> None:
    """Draw accuracy against time to first token; a larger disc needs more memory.

    Args:
        pairs: all rungs of the last round; those of the front are named.
    """
    require_plotting(path)
    from matplotlib.figure import Figure  # without pyplot no display is looked for

    figure = Figure(figsize=(8.0, 5.0), layout="constrained")
    axes = figure.subplots()
    most = max(point.memory_mib for _, point in pairs) or 1.0
    for chosen, colour, alpha in ((pairs, "tab:grey", 0.4), (front, "tab:blue", 0.9)):
        axes.scatter(
            [point.ttft_ms for _, point in chosen],
            [100 * point.accuracy for _, point in chosen],
            s=[20 + 180 * point.memory_mib / most for _, point in chosen],
            color=colour,
            alpha=alpha,
        )
    for measured, point in front:
        where = (point.ttft_ms, 100 * point.accuracy)
        label = f"{measured.candidate.name} {point.budget}"
        axes.annotate(label, where, fontsize=7, xytext=(4, 4), textcoords="offset points")
    if goal.max_ttft_ms is not None:
        axes.axvline(goal.max_ttft_ms, color="tab:red", linewidth=1)
    axes.set_xlabel("time to first token, ms (95th percentile)")
    axes.set_ylabel("accuracy, %")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    draw_without_date(figure, path)
