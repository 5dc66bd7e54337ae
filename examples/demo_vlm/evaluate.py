"""Accuracy of a checkpoint per kind of question, by Hugging Face's own generate at all tokens."""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import torch
from make import QUESTIONS_PER_IMAGE, make_samples
from PIL import Image
from questions import Question
from splits import USABLE
from transformers import AutoProcessor, LlavaForConditionalGeneration
from vocabulary import KINDS

MAX_NEW_TOKENS = 12
Z_95 = 1.959964


@dataclass(frozen=True)
class Score:
    """Right answers out of those asked."""

    right: int
    asked: int

    @property
    def share(self) -> float:
        """Accuracy."""
        return self.right / self.asked if self.asked else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the accuracy."""
        if not self.asked:
            return 0.0, 1.0
        share, count, square = self.share, self.asked, Z_95 * Z_95
        centre = (share + square / (2 * count)) / (1 + square / count)
        spread = sqrt(share * (1 - share) / count + square / (4 * count * count))
        reach = Z_95 * spread / (1 + square / count)
        return max(0.0, centre - reach), min(1.0, centre + reach)


@dataclass(frozen=True)
class Answerer:
    """A checkpoint that answers batches of questions."""

    model: LlavaForConditionalGeneration
    processor: AutoProcessor

    @classmethod
    def load(cls, folder: Path, device: str) -> "Answerer":
        """The checkpoint in fp32."""
        model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        return cls(model.eval().to(device), AutoProcessor.from_pretrained(folder))

    @torch.inference_mode()
    def answer(self, images: list[Image.Image], prompts: list[str]) -> list[str]:
        """One greedy answer per image and prompt."""
        texts = [self._render(prompt) for prompt in prompts]
        inputs = self.processor(images=images, text=texts, padding=True, return_tensors="pt").to(
            self.model.device
        )
        tokens = self.model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        fresh = tokens[:, inputs["input_ids"].shape[1] :]
        answers = self.processor.batch_decode(fresh, skip_special_tokens=True)
        return [str(answer).strip() for answer in answers]

    def _render(self, prompt: str) -> str:
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        message = {"role": "user", "content": content}
        return str(self.processor.apply_chat_template([message], add_generation_prompt=True))


def batch_samples(
    split: str, count: int, size: int
) -> Iterator[tuple[list[Image.Image], list[Question]]]:
    """Questions of a split with their images, `size` at a time."""
    images: list[Image.Image] = []
    questions: list[Question] = []
    for scene, asked in make_samples(split, count, QUESTIONS_PER_IMAGE):
        images += [Image.fromarray(scene.pixels)] * len(asked)
        questions += asked
        if len(questions) >= size:
            yield images, questions
            images, questions = [], []
    if questions:
        yield images, questions


def evaluate(answerer: Answerer, split: str, count: int, size: int) -> list[dict[str, str]]:
    """Every question with the answer that was given."""
    rows: list[dict[str, str]] = []
    for images, questions in batch_samples(split, count, size):
        given = answerer.answer(images, [question.prompt for question in questions])
        rows += [
            {**question.row, "given": answer}
            for question, answer in zip(questions, given, strict=True)
        ]
    return rows


def count_scores(rows: list[dict[str, str]]) -> dict[str, Score]:
    """Scores per kind and overall."""
    scores = {}
    for kind in (*KINDS, "overall"):
        mine = [row for row in rows if kind in (row["kind"], "overall")]
        right = sum(row["given"] == row["answer"] for row in mine)
        scores[kind] = Score(right, len(mine))
    return scores


def format_table(scores: dict[str, Score]) -> str:
    """The scores as a Markdown table."""
    lines = ["| kind | accuracy | 95 % interval | n |", "|---|---|---|---|"]
    for kind, score in scores.items():
        low, high = score.interval
        interval = f"{100 * low:.1f} to {100 * high:.1f} %"
        lines.append(f"| {kind} | {100 * score.share:.1f} % | {interval} | {score.asked} |")
    return "\n".join(lines)


def main() -> int:
    """Parses the command line and prints the table."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=here / "checkpoint")
    parser.add_argument("--split", default="evaluate", choices=USABLE)
    parser.add_argument("--count", type=int, default=2000, help="number of questions")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=Path, help="write question, answer and given as JSONL")
    arguments = parser.parse_args()
    began = time.monotonic()
    answerer = Answerer.load(arguments.checkpoint, arguments.device)
    rows = evaluate(answerer, arguments.split, arguments.count, arguments.batch)
    if arguments.rows:
        lines = [json.dumps(row) for row in rows]
        arguments.rows.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(format_table(count_scores(rows)))
    print(f"\n{arguments.split} range, 576 tokens, fp32, {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
