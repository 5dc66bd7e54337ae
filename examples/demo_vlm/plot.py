"""Draws the training curves of a log as one PNG: a row per phase, losses left, shares right."""

import argparse
import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

COUNTED = ("phase", "step", "seconds")


def read_phases(log: Path) -> dict[str, list[dict[str, float]]]:
    """Lines of the log per phase, in order."""
    phases: dict[str, list[dict[str, float]]] = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        phases.setdefault(row["phase"], []).append(row)
    return phases


def draw_curves(axes: Axes, rows: list[dict[str, float]], losses: bool) -> None:
    """Curves of all losses, or of all shares, against minutes."""
    names = sorted({name for row in rows for name in row if name not in COUNTED})
    for name in names:
        if name.endswith(("loss", "bag", "naming")) == losses:
            points = [(row["seconds"] / 60, row[name]) for row in rows if name in row]
            axes.plot(*zip(*points, strict=True), label=name, linewidth=1)
    axes.set_xlabel("minutes")
    if axes.lines:
        axes.legend(fontsize=6)
    if not losses:
        axes.set_ylim(0, 1)


def plot_log(log: Path, picture: Path) -> None:
    """Writes the picture of a log."""
    phases = read_phases(log)
    figure, grid = pyplot.subplots(len(phases), 2, figsize=(11, 4 * len(phases)), squeeze=False)
    for (phase, rows), (left, right) in zip(phases.items(), grid, strict=True):
        left.set_title(f"{phase}: loss")
        right.set_title(f"{phase}: share right")
        draw_curves(left, rows, losses=True)
        draw_curves(right, rows, losses=False)
    figure.tight_layout()
    figure.savefig(picture, dpi=70)


def main() -> int:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("log", type=Path, help="log.jsonl of a training")
    parser.add_argument("-o", "--output", type=Path, required=True, help="PNG to write")
    arguments = parser.parse_args()
    plot_log(arguments.log, arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
