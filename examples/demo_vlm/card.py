"""Writes a checkpoint's model card from the log of its training and the rows of its evaluation."""

import argparse
import json
import platform
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from evaluate import Score, count_scores
from make import make_samples
from plot import plot_log, read_phases
from questions import Question
from safetensors import safe_open
from vocabulary import KINDS

Row = dict[str, str]
HEADER = """\
---
library_name: transformers
pipeline_tag: image-text-to-text
license: apache-2.0
---

# edgetok's demo model

A LLaVA-1.5 in small (CLIP tower, 7 blocks of 192; Llama decoder, 6 blocks of 256; {parameters:,}
parameters in fp16, {megabytes:.1f} MB), trained from nothing on drawn scenes. It exists to measure
compressors and runtimes on; `card.py` wrote this page from the training's log and the evaluation's
rows.
"""
CANNOT = """
## What it cannot do

- Anything outside its scenes, or in words that its questions do not use.
- Pairs of images were not trained; conversations of up to about 20 turns were.
- The forms of question that it gets right less than two times in three: {weak}.
"""
DATA = """
## Data

Scenes of the train range (seeds 0 to 99,999,999) drawn without end; no scene is stored. Handwriting
from the first four fifths of scikit-learn's `load_digits`, photographs from `load_sample_images`,
fonts from Pillow and matplotlib. About 21 questions per image, some of them turns of a
conversation.

Visual tokens were **sampled in training**, so that compression is fair to the model
({modes}; 64 to 192 where not all)
"""
FORMS: dict[str, Callable[[Row], bool]] = {
    "background": lambda row: "background" in row["prompt"],
    "count of all shapes": lambda row: row["prompt"] in COUNT_SHAPES,
    "count of handwritten digits": lambda row: "digits" in row["prompt"],
    "count of some shapes": lambda row: row["prompt"].startswith(("How many", "Count")),
    "left or right": lambda row: "left or right" in row["prompt"],
    "above or below": lambda row: "above or below" in row["prompt"],
    "one of nine places": lambda row: row["prompt"].startswith(("Where", "In which")),
    "leftmost, highest and so on": lambda row: row["kind"] == "place",
    "shape of a colour": lambda row: is_attribute(row) and "shape" in row["prompt"],
    "colour of text": lambda row: is_attribute(row) and is_text(row),
    "colour of a shape by name": lambda row: is_attribute(row),
    "big word": lambda row: row["kind"] == "reading" and row["answer"].isalpha(),
    "big number": lambda row: row["kind"] == "reading",
    "small word": lambda row: row["kind"] == "detail" and row["answer"].isalpha(),
    "small number": lambda row: row["kind"] == "detail" and "number" in row["prompt"],
    "handwritten digit": lambda row: row["kind"] == "detail",
}
"""Forms of question, the first that fits counts."""
MODES = {
    "all": "all",
    "cls": "those with most CLS attention",
    "occupied": "those with objects first",
    "random": "any",
}
COUNT_SHAPES = ("How many shapes are there?", "Count the shapes.")
BLIND_QUESTIONS = 2000


def is_attribute(row: Row) -> bool:
    """Whether it asks for an attribute."""
    return row["kind"] == "attribute"


def is_text(row: Row) -> bool:
    """Whether it asks about printed text."""
    return "word" in row["prompt"] or "number" in row["prompt"]


def count_forms(rows: list[Row]) -> dict[str, Score]:
    """Scores per form of question."""
    right: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    for row in rows:
        form = next(name for name, fits in FORMS.items() if fits(row))
        asked[form] += 1
        right[form] += row["given"] == row["answer"]
    return {form: Score(right[form], asked[form]) for form in FORMS if asked[form]}


def guess_blindly(count: int) -> dict[str, float]:
    """Share right per kind when each form of question gets its commonest answer."""
    by_form: dict[tuple[str, str, int], Counter[str]] = {}
    asked: Counter[str] = Counter()
    for _, questions in make_samples("calibrate", count, 4):
        for question in questions:
            by_form.setdefault(find_form(question), Counter())[question.answer] += 1
            asked[question.kind] += 1
    right: Counter[str] = Counter()
    for (kind, _, _), answers in by_form.items():
        right[kind] += answers.most_common(1)[0][1]
    shares = {kind: right[kind] / asked[kind] for kind in KINDS}
    return {**shares, "overall": right.total() / asked.total()}


def find_form(question: Question) -> tuple[str, str, int]:
    """Kind, first word and length of a question: all that a blind guesser looks at."""
    words = question.prompt.split()
    return question.kind, words[0], len(words)


def format_accuracy(rows: list[Row]) -> list[str]:
    """The tables of accuracy per kind and per form."""
    blind = guess_blindly(BLIND_QUESTIONS)
    lines = [
        "\n## Accuracy\n",
        f"Exact match on {len(rows):,} questions of the evaluate range, all 576 tokens, fp32,",
        "greedy `generate` (`make demo-eval` repeats it). A blind guess gives each form of",
        "question its commonest answer, counted on the calibrate range.\n",
        "| kind | accuracy | 95 % interval | n | blind guess |\n|---|---|---|---|---|",
    ]
    for kind, score in count_scores(rows).items():
        low, high = (100 * end for end in score.interval)
        lines.append(
            f"| {kind} | {100 * score.share:.1f} % | {low:.1f} to {high:.1f} % | {score.asked:,} "
            f"| {100 * blind[kind]:.0f} % |"
        )
    lines += ["\n| form | accuracy | n |\n|---|---|---|"]
    for form, score in count_forms(rows).items():
        lines.append(f"| {form} | {100 * score.share:.1f} % | {score.asked:,} |")
    return lines


def format_training(log: Path, note: str) -> list[str]:
    """The table of phases and the machine."""
    lines = ["\n## Training\n", "| phase | steps | minutes |\n|---|---|---|"]
    for phase, rows in read_phases(log).items():
        last = rows[-1]
        lines.append(f"| {phase} | {last['step']:,} | {last['seconds'] / 60:.0f} |")
    lines += ["", f"torch {torch.__version__}, Python {platform.python_version()}. {note}", ""]
    lines += ["Curves: `curves.png`. The auxiliary heads are not in this folder."]
    return lines


def describe_modes(log: Path) -> str:
    """Which samplings of visual tokens the answers' phases met, by the log."""
    phases = read_phases(log)
    found = []
    for phase in ("decoder", "joint"):
        met = {name.split("/")[0] for row in phases.get(phase, []) for name in row}
        found.append(f"{phase} phase: {', '.join(MODES[mode] for mode in MODES if mode in met)}")
    return "; ".join(found)


def write_card(folder: Path, log: Path, rows: list[Row], note: str) -> None:
    """Writes README.md and curves.png into the checkpoint's folder."""
    weights = folder / "model.safetensors"
    with safe_open(weights, framework="pt") as tensors:
        names = list(tensors.keys())
        parameters = sum(tensors.get_tensor(name).numel() for name in names)
    weak = [form for form, score in count_forms(rows).items() if score.share < 2 / 3]
    parts = [
        HEADER.format(parameters=parameters, megabytes=weights.stat().st_size / 1e6),
        "\n".join(format_accuracy(rows)),
        CANNOT.format(weak=", ".join(weak) or "none"),
        DATA.format(modes=describe_modes(log)),
        "\n".join(format_training(log, note)),
    ]
    (folder / "README.md").write_text("\n".join(parts) + "\n", encoding="utf-8")
    plot_log(log, folder / "curves.png")


def main() -> int:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder to describe")
    parser.add_argument("--log", type=Path, required=True, help="log.jsonl of the training")
    parser.add_argument("--rows", type=Path, required=True, help="what evaluate.py --rows wrote")
    parser.add_argument("--note", default="", help="a sentence on the machine and what went on")
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in arguments.rows.read_text("utf-8").splitlines()]
    write_card(arguments.checkpoint, arguments.log, rows, arguments.note)
    return 0


if __name__ == "__main__":
    sys.exit(main())
