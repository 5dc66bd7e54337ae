"""Makes questions about scenes as a folder of PNG files and a samples.jsonl."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from questions import Question, ask_questions
from scenes import Scene, draw_scene
from splits import USABLE, open_split
from vocabulary import KINDS

QUESTIONS_PER_IMAGE = 4


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


def write_samples(
    folder: Path, split: str, count: int, questions_per_image: int, start: int = 0
) -> int:
    """Writes PNG files and samples.jsonl; returns the number of images."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    images = 0
    for scene, questions in make_samples(split, count, questions_per_image, start):
        name = f"images/{scene.seed}.png"
        Image.fromarray(scene.pixels).save(folder / name, optimize=False, compress_level=6)
        images += 1
        for question in questions:
            row = {
                "image": name,
                "prompt": question.prompt,
                "answer": question.answer,
                "kind": question.kind,
            }
            lines.append(json.dumps(row))
    (folder / "samples.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return images


def main() -> int:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", required=True, help=f"one of {', '.join(USABLE)}")
    parser.add_argument("--count", type=int, required=True, help="number of questions")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--questions-per-image", type=int, default=QUESTIONS_PER_IMAGE)
    parser.add_argument("--start", type=int, default=0, help="scenes of the split to pass over")
    arguments = parser.parse_args()
    if arguments.count < 1 or arguments.questions_per_image < 1 or arguments.start < 0:
        parser.error("--count and --questions-per-image start at 1, --start at 0")
    try:
        images = write_samples(
            arguments.output,
            arguments.split,
            arguments.count,
            arguments.questions_per_image,
            arguments.start,
        )
    except ValueError as error:
        parser.error(str(error))
    print(f"{arguments.count} questions about {images} images in {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
