"""`edgetok tune`: the best ways to export a model for this device, on the user's questions."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.table import Table

from edgetok.cli.options import SEED, THREADS, Data, Json, ModelDir, parse_mib, with_options
from edgetok.cli.output import emit, say, table, working
from edgetok.errors import InputError, ResourceError, UsageError
from edgetok.export.options import ExportOptions
from edgetok.options import flag_of, option

if TYPE_CHECKING:
    from edgetok.calibration.samples import Sample
    from edgetok.calibration.tuning import Candidate, Goal, Journal, Measured, Point
    from edgetok.cli.candidates import CandidateRunner

_MIB = 1 << 20


@dataclass(frozen=True)
class TuneOptions:
    """What a search is to try, on how many questions, and which limits a rung must keep."""

    max_memory: str | None = option(None, "Of the process at its peak, such as 512MiB or 2GiB.")
    max_ttft_ms: float | None = option(None, "Of the 95th percentile of the time to first token.")
    methods: str = option("visionzip,vtc-cls", "Compressors to try.")
    weights: str = option("fp32,int8,int4", "Precisions of the weights.")
    kv: str = option("fp32,int8", "Precisions of the KV cache.")
    kv_policies: str = option("none", "What a full KV cache keeps.")
    budgets: str = option("32,64,128,full", "The ladder that each is tried on.")
    count: int = option(
        200, "Questions of the last round, drawn evenly over the kinds.", typer={"min": 1}
    )
    repeats: int = option(10, "Timed answers per rung.", typer={"min": 1})
    plot: Path | None = option(None, "Draw the front: .png, .svg or .pdf.")
    threads: int | None = option(None, THREADS)
    seed: int = option(0, SEED)

    def goal(self) -> Goal:
        """The limits; raises UsageError for one that is no limit."""
        from edgetok.calibration.tuning import Goal

        if self.max_ttft_ms is not None and not 0 < self.max_ttft_ms < float("inf"):
            raise UsageError(f"--max-ttft-ms {self.max_ttft_ms} is no positive number")
        return Goal(self.max_ttft_ms, parse_mib(self.max_memory, "--max-memory"))

    def candidates(self) -> list[Candidate]:
        """Every combination; raises UsageError if there are none or too many."""
        from edgetok.calibration.tuning import list_candidates

        lists = self.methods, self.weights, self.kv, self.kv_policies
        return list_candidates(*map(_split, lists))


@with_options
def tune_command(
    model: ModelDir,
    data: Data,
    folder: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Keeps bundles and journal.")
    ],
    asked: TuneOptions,
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

    if asked.plot is not None:
        plotting.require_plotting(asked.plot)
    goal, candidates = asked.goal(), asked.candidates()
    samples = _draw(data, asked.count, asked.seed)
    if not model.is_dir():
        raise InputError(f"{model} is no directory; give that of a Hugging Face model")
    shop, journal = _open_shop(model, data, folder, samples, asked)
    with working(as_json) as progress:
        found = tuning.search(
            candidates, len(samples), lambda c, n: shop.measure(journal, c, n), goal, progress
        )
    pairs = [(measured, point) for measured in found for point in measured.points]
    front = sorted(tuning.find_front(pairs), key=lambda pair: pair[1].ttft_ms)
    best = tuning.choose(front, goal)
    if asked.plot is not None:
        from edgetok.calibration.plot_front import plot_front

        plot_front(pairs, front, goal, asked.plot, f"{model.name}, {len(samples)} questions")
    failures = [m for m in journal.list_failed() if m.candidate in candidates]
    told = {
        "questions": len(samples),
        "tried": len(candidates),
        "front": [_describe(*pair, goal) for pair in front],
        "points": [_describe(*pair, goal) for pair in pairs],
        "failed": {m.candidate.name: m.failed for m in failures},
        "best": None if best is None else _describe(*best, goal),
        "journal": folder / "journal.jsonl",
    }
    advice = _advise(best, model, asked.budgets, data)
    emit(told, as_json, _show(front, goal, len(candidates)), advice)
    if not as_json:
        for measured in failures:
            say(f"{measured.candidate.name} cannot be used: {measured.failed}")


def _open_shop(
    model: Path, data: Path, folder: Path, samples: list[Sample], asked: TuneOptions
) -> tuple[CandidateRunner, Journal]:
    """Where candidates are made and measured, and what was measured so far."""
    from edgetok.calibration.tuning import Journal
    from edgetok.cli.candidates import CandidateRunner

    shop = CandidateRunner(
        *(model, data, folder, samples, asked.budgets),
        *(asked.repeats, asked.threads, asked.seed),
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(f"{folder} cannot be made: {error.strerror}") from error
    return shop, Journal(folder / "journal.jsonl", shop.digest)


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


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
    chosen = " ".join(
        f"{flag_of(each)} {getattr(one, each.name)}"
        for each in fields(ExportOptions)
        if each.name in one.__struct_fields__
    )
    command = f"edgetok export {model} -o out.bundle --budgets {budgets} {chosen} --samples {data}"
    return f"most accurate within the limits: {one.name}, {point.budget} visual tokens\n{command}"
