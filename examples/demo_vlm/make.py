"""Makes questions about scenes as a folder of PNG files and a JSONL beside them.

`samples.jsonl` is what `edgetok eval` reads: `image`, `prompt`, `answer`, `kind` in each line.
`conversations.jsonl` has `image` and `turns`, `pairs.jsonl` has `images` in place of `image`.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pairs import Pair, ask_pair
from PIL import Image
from questions import Question, ask_questions
from scenes import Scene, draw_scene
from splits import USABLE, open_split
from vocabulary import KINDS

QUESTIONS_PER_IMAGE = 4
TURNS = 20
"""Questions of a conversation."""


def make_samples(
    split: str, count: int, questions_per_image: int, start: int = 0
) -> Iterator[tuple[Scene, list[Question]]]:
    """Scenes of a split with their questions, the kinds in turn, until `count` are asked."""
    seeds = open_split(split)
    asked = 0
    for seed in seeds[start:]:
        wanted = min(questions_per_image, count - asked)
        if wanted <= 0:
            return
        kinds = [KINDS[(asked + place) % len(KINDS)] for place in range(wanted)]
        scene = draw_scene(seed)
        questions = ask_questions(scene, kinds, np.random.default_rng([seed, 7]))
        asked += len(questions)
        yield scene, questions
    raise ValueError(f"split {split!r} has only {len(seeds)} scenes; ask for fewer than {count}")


def make_conversations(
    split: str, count: int, start: int = 0
) -> Iterator[tuple[Scene, list[Question]]]:
    """Scenes of a split, each with up to TURNS questions in any order of kinds."""
    for seed in open_split(split)[start : start + count]:
        rng = np.random.default_rng([seed, 8])
        kinds = [str(kind) for kind in rng.permutation(KINDS * (TURNS // len(KINDS)))]
        scene = draw_scene(seed)
        yield scene, ask_questions(scene, kinds, rng)


def make_pairs(split: str, count: int, start: int = 0) -> Iterator[tuple[Pair, Question]]:
    """Two scenes that follow each other in a split, with one question about both."""
    seeds = open_split(split)[start : start + 2 * count]
    for first, second in zip(seeds[::2], seeds[1::2], strict=True):
        pair = draw_scene(first), draw_scene(second)
        yield pair, ask_pair(pair, np.random.default_rng([first, 9]))


@dataclass
class Writer:
    """A folder of PNG files, each scene once, and the lines that speak of them."""

    folder: Path
    lines: list[str] = field(default_factory=list)
    drawn: set[str] = field(default_factory=set)

    def draw(self, scene: Scene) -> str:
        """Writes a scene's picture; returns its name inside the folder."""
        name = f"images/{scene.seed}.png"
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene.pixels).save(path, optimize=False, compress_level=6)
        self.drawn.add(name)
        return name

    def add(self, row: dict[str, Any]) -> None:
        """One line of the JSONL."""
        self.lines.append(json.dumps(row))

    def close(self, name: str) -> int:
        """Writes the JSONL; returns the number of images."""
        (self.folder / name).write_text("\n".join(self.lines) + "\n", encoding="utf-8")
        return len(self.drawn)


def write_samples(
    folder: Path, split: str, count: int, questions_per_image: int, start: int = 0
) -> int:
    """Writes PNG files and samples.jsonl; returns the number of images."""
    writer = Writer(folder)
    for scene, questions in make_samples(split, count, questions_per_image, start):
        name = writer.draw(scene)
        for question in questions:
            writer.add({"image": name, **question.row})
    return writer.close("samples.jsonl")


def write_conversations(folder: Path, split: str, count: int, start: int = 0) -> int:
    """Writes PNG files and conversations.jsonl; returns the number of images."""
    writer = Writer(folder)
    for scene, questions in make_conversations(split, count, start):
        turns = [question.row for question in questions]
        writer.add({"image": writer.draw(scene), "turns": turns})
    return writer.close("conversations.jsonl")


def write_pairs(folder: Path, split: str, count: int, start: int = 0) -> int:
    """Writes PNG files and pairs.jsonl; returns the number of images."""
    writer = Writer(folder)
    for pair, question in make_pairs(split, count, start):
        writer.add({"images": [writer.draw(scene) for scene in pair], **question.row})
    return writer.close("pairs.jsonl")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--split", required=True, help=f"one of {', '.join(USABLE)}")
    parser.add_argument(
        "--count", type=int, required=True, help="number of questions, conversations or pairs"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--form", choices=("samples", "conversations", "pairs"), default="samples")
    parser.add_argument("--questions-per-image", type=int, default=QUESTIONS_PER_IMAGE)
    parser.add_argument("--start", type=int, default=0, help="scenes of the split to pass over")
    arguments = parser.parse_args()
    if arguments.count < 1 or arguments.questions_per_image < 1 or arguments.start < 0:
        parser.error("--count and --questions-per-image start at 1, --start at 0")
    try:
        seeds = len(open_split(arguments.split))
    except ValueError as error:
        parser.error(str(error))
    scenes = arguments.start + arguments.count * (2 if arguments.form == "pairs" else 1)
    if scenes > seeds:
        parser.error(f"split {arguments.split!r} has {seeds} scenes; {scenes} were asked for")
    return arguments


def main() -> int:
    """Writes what the command line asks for."""
    arguments = parse_arguments()
    what = arguments.output, arguments.split, arguments.count
    if arguments.form == "conversations":
        images = write_conversations(*what, arguments.start)
    elif arguments.form == "pairs":
        images = write_pairs(*what, arguments.start)
    else:
        images = write_samples(*what, arguments.questions_per_image, arguments.start)
    noun = {"samples": "questions"}.get(arguments.form, arguments.form)
    print(f"{arguments.count} {noun} about {images} images in {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
