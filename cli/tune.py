"""`edgetok tune`: the best ways to export a model for this device, on the user's questions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.table import Table

from edgetok.cli.options import Json, Seed, Threads, parse_mib
from edgetok.cli.output import emit, say, table, working
from edgetok.errors import InputError, ResourceError, UsageError

if TYPE_CHECKING:
    from edgetok.calibration.samples import Sample
    from edgetok.calibration.tuning import Goal, Measured, Point

_MIB = 1 << 20


def tune_command(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Hugging Face model directory (safetensors).")
    ],
    data: Annotated[
        Path, typer.Option(help="JSONL file; each line has image, prompt, answer, maybe kind.")
    ],
    folder: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Keeps bundles and journal.")
    ],
    max_memory: Annotated[
        str | None, typer.Option(help="Of the process at its peak, such as 512MiB or 2GiB.")
    ] = None,
    max_ttft_ms: Annotated[
        float | None, typer.Option(help="Of the 95th percentile of the time to first token.")
    ] = None,
    methods: Annotated[str, typer.Option(help="Compressors to try.")] = "visionzip,vtc-cls",
    weights: Annotated[str, typer.Option(help="Precisions of the weights.")] = "fp32,int8,int4",
    kv: Annotated[str, typer.Option(help="Precisions of the KV cache.")] = "fp32,int8",
    kv_policies: Annotated[str, typer.Option(help="What a full KV cache keeps.")] = "none",
    budgets: Annotated[str, typer.Option(help="The ladder that each is tried on.")] = (
        "32,64,128,full"
    ),
    count: Annotated[
        int, typer.Option(min=1, help="Questions of the last round, drawn evenly over the kinds.")
    ] = 200,
    repeats: Annotated[int, typer.Option(min=1, help="Timed answers per rung.")] = 10,
    plot: Annotated[Path | None, typer.Option(help="Draw the front: .png, .svg or .pdf.")] = None,
    threads: Threads = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Try every combination of method, weights and KV cache, and show which ones nothing beats.

    Each is exported into FOLDER, timed on this device and asked questions: all of them a few, the
    better half twice as many, until four are left for the last round. What was measured is in
    FOLDER/journal.jsonl, so an interrupted search goes on where it was. Rungs that no other rung
    beats in accuracy, time and memory are shown; the most accurate one within the limits is named.

    Example: edgetok tune llava-dir --data samples.jsonl -o tuned --max-memory 2GiB
    """
    from edgetok.calibration import plot as plotting
    from edgetok.calibration import tuning

    if plot is not None:
        plotting.require_plotting(plot)
    goal = _read_goal(max_ttft_ms, max_memory)
    lists = [_split(text) for text in (methods, weights, kv, kv_policies)]
    candidates = tuning.list_candidates(*lists)
    samples = _draw(data, count, seed)
    if not model.is_dir():
        raise InputError(f"{model} is no directory; give that of a Hugging Face model")
    from edgetok.cli.candidates import Workshop

    shop = Workshop(model, data, folder, samples, budgets, repeats, threads, seed)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(f"{folder} cannot be made: {error.strerror}") from error
    journal = tuning.Journal(folder / "journal.jsonl", shop.digest)
    with working(as_json) as progress:
        found = tuning.search(
            candidates, len(samples), lambda c, n: shop.measure(journal, c, n), goal, progress
        )
    pairs = [(measured, point) for measured in found for point in measured.points]
    front = sorted(tuning.find_front(pairs), key=lambda pair: pair[1].ttft_ms)
    best = tuning.choose(front, goal)
    if plot is not None:
        from edgetok.calibration.plot_front import plot_front

        plot_front(pairs, front, goal, plot, f"{model.name}, {len(samples)} questions")
    failures = [m for m in journal.list_failed() if m.candidate in candidates]
    fields = {
        "questions": len(samples),
        "tried": len(candidates),
        "front": [_describe(*pair, goal) for pair in front],
        "points": [_describe(*pair, goal) for pair in pairs],
        "failed": {m.candidate.name: m.failed for m in failures},
        "best": None if best is None else _describe(*best, goal),
        "journal": folder / "journal.jsonl",
    }
    emit(fields, as_json, _show(front, goal, len(candidates)), _advise(best, model, budgets, data))
    if not as_json:
        for measured in failures:
            say(f"{measured.candidate.name} cannot be used: {measured.failed}")


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _read_goal(max_ttft_ms: float | None, max_memory: str | None) -> Goal:
    from edgetok.calibration.tuning import Goal

    if max_ttft_ms is not None and not 0 < max_ttft_ms < float("inf"):
        raise UsageError(f"--max-ttft-ms {max_ttft_ms} is no positive number")
    return Goal(max_ttft_ms, parse_mib(max_memory, "--max-memory"))


def _draw(data: Path, count: int, seed: int) -> list[Sample]:
    """Samples of all kinds in an order of chance, so that the first few are like all of them."""
    import random

    from edgetok.calibration.samples import draw, load_samples

    samples = list(draw(load_samples(data), count, seed))
    if unknown := sum(sample.answer is None for sample in samples):
        raise InputError(f"{unknown} of {len(samples)} samples have no `answer`; give one in each")
    random.Random(seed).shuffle(samples)
    return samples


def _describe(measured: Measured, point: Point, goal: Goal) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(measured.candidate)
    fields |= msgspec.to_builtins(point)
    fields |= {"bytes": measured.bytes, "accuracy": point.accuracy, "within": goal.allows(point)}
    return fields


def _show(front: list[tuple[Measured, Point]], goal: Goal, tried: int) -> Table:
    shown = table(
        f"rungs that nothing beats, of {tried} ways to export",
        *("method", "weights", "kv", "kv policy", ">visual tokens", ">% right"),
        *(">TTFT ms p95", ">MiB", ">bundle MiB", "within the limits"),
    )
    for measured, point in front:
        one = measured.candidate
        figures = f"{100 * point.accuracy:.1f}", f"{point.ttft_ms:.1f}", f"{point.memory_mib:.0f}"
        shown.add_row(
            *(one.method, one.weights, one.kv, one.kv_policy, str(point.budget), *figures),
            f"{measured.bytes / _MIB:.1f}",
            "yes" if goal.allows(point) else "no",
        )
    return shown


def _advise(best: tuple[Measured, Point] | None, model: Path, budgets: str, data: Path) -> str:
    if best is None:
        return "no rung is within the limits; loosen them, or try more with --weights and --budgets"
    measured, point = best
    one = measured.candidate
    command = (
        f"edgetok export {model} -o out.bundle --budgets {budgets} --method {one.method} "
        f"--weights {one.weights} --kv {one.kv} --kv-policy {one.kv_policy} --samples {data}"
    )
    return f"most accurate within the limits: {one.name}, {point.budget} visual tokens\n{command}"
