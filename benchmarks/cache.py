r"""What a smaller KV cache costs: policies by their bytes, on questions and long conversations.

    python benchmarks/cache.py --questions 200 --conversations 20 --slots 192 --prompts 500 \
        --threads 1 --json docs/results/cache.json

Each policy answers single questions, whose prompt is packed once, and conversations of up to 20
turns about one image, in which the cache is emptied again and again; later turns are decoded token
by token, with the model's own answers between them. Beside FILE, `FILE-bits.json` compares caches
of fewer bits or channels, and steps that read fewer rows (`--reads`, TidalDecode), with float32: KL
divergence of the logits along the float32 answer, and whole answers. With `--questions 0` that is
all, and with `--prompts 0` it is left out. Rows of what was not measured stay in the files.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import numpy as np
from tokenizers import Tokenizer

import edgetok
from edgetok.bundle.buffers import cache_bytes
from edgetok.calibration.evaluate import Score, normalise
from edgetok.kv import NONE, POLICIES
from edgetok.runtimes.answers.model import Model

TURN = "USER: {} ASSISTANT:"  # a later turn of the demo model's conversations
PROMPT_TOKENS = 48
TURN_TOKENS = 40  # of a question with its answer, at most
ANSWER_TOKENS = 24
KIB = 1024


@dataclass(frozen=True)
class Turn:
    """A question about an image and its answer."""

    prompt: str
    answer: str


@dataclass
class Talk:
    """One conversation with a loaded bundle, through its runtime."""

    model: Model
    tokenizer: Tokenizer

    def begin(self, image: Path, prompt: str) -> Any:
        """The first turn -> logits [W]."""
        runtime, rung = self.model.runtime, self.model.ladder.largest
        written = self.model.processor.encode(prompt)
        text = runtime.embed([*written.before, *written.after])
        split = len(written.before)
        encoded = self.model.encode(image)
        parts = [text[:split].copy(), None, text[split:].copy()]
        parts[1] = self.model.compress(encoded, prompt, budget=rung.budget).rows
        return runtime.prefill(rung, np.concatenate(parts), visual_start=split)

    def go_on(self, prompt: str) -> Any:
        """A later turn -> logits [W]."""
        ids = self.tokenizer.encode(TURN.format(prompt), add_special_tokens=False).ids
        return [self.model.runtime.step(token) for token in ids][-1]

    def answer(self, logits: Any) -> list[int]:
        """Greedy tokens; the stop token is part of the conversation, but not of the answer."""
        ids: list[int] = []
        stop_ids = self.model.manifest.text.stop_ids
        while len(ids) < ANSWER_TOKENS:
            token = int(logits.argmax())
            logits = self.model.runtime.step(token)
            if token in stop_ids:
                break
            ids.append(token)
        return ids

    def answers(self, image: Path, turns: Sequence[Turn]) -> Iterator[bool]:
        """Whether each turn was answered right."""
        for number, turn in enumerate(turns):
            logits = self.go_on(turn.prompt) if number else self.begin(image, turn.prompt)
            text = self.tokenizer.decode(self.answer(logits))
            yield normalise(text) == normalise(turn.answer)


def main() -> None:
    options = common.arguments(
        __doc__,
        tokens=576,
        questions=500,
        conversations=50,
        prompts=500,
        policies=tuple(POLICIES),
        slots=(384, 192, 96),
        kv="fp32",
        bits=("int8", "int4", "kivi4", "kivi", "zipcache", "think"),
        reads=(192, 96, 48),
        threads=0,
    )
    if options.questions:
        _report_policies(options)
    if not options.prompts:
        return
    beside = options.json and options.json.with_name(f"{options.json.stem}-bits.json")
    title = f"caches of fewer bits on {options.prompts} prompts"
    common.report(title, list(_bits_rows(options)), beside, of=("kv",))


def _report_policies(options: Any) -> None:
    singles = [(s.image, [Turn(s.prompt, s.answer or "")]) for s in _questions(options.questions)]
    talks = list(_conversations(options.conversations))
    rows = []
    for policy, slots in [(NONE, 0), *((p, n) for n in options.slots for p in options.policies)]:
        model = _load(options, policy, slots, options.kv)
        row = _policy_row(options, model, singles, talks)
        rows.append({"policy": policy, "slots": slots or max(model.manifest.kv.slots)} | row)
        print(rows[-1], file=sys.stderr, flush=True)
    title = f"{options.tokens} visual tokens, {options.kv} cache: right answers in percent"
    common.report(title, rows, options.json, of=("policy", "slots"))


def _load(options: Any, policy: str, slots: int, kv: str, reads: int = 0) -> Model:
    """The bundle of a policy. Without one, the cache must hold a whole conversation."""
    chosen: dict[str, Any] = {"kv_policy": policy, "kv_slots": slots} if slots else {}
    chosen |= {"kv_policy": "tidaldecode", "kv_reads": reads} if reads else {}
    bundle = common.demo_bundle(
        options.model,
        budgets=(options.tokens,),
        prompt_tokens=PROMPT_TOKENS,
        new_tokens=20 * TURN_TOKENS,
        kv=kv,
        **chosen,
    )
    return edgetok.load(bundle, threads=options.threads or None)


def _policy_row(
    options: Any,
    model: Model,
    singles: Sequence[tuple[Path, Sequence[Turn]]],
    talks: Sequence[tuple[Path, Sequence[Turn]]],
) -> dict[str, Any]:
    talk = Talk(model, Tokenizer.from_file(str(options.model / "tokenizer.json")))
    row: dict[str, Any] = {"cache KiB": round(cache_bytes(model.manifest) / KIB)}
    for name, asked in (("questions", singles), ("conversations", talks)):
        outcomes = [list(talk.answers(image, turns)) for image, turns in asked]
        score = Score.count(right for one in outcomes for right in one)
        row |= {name: round(100 * score.accuracy, 1)}
        row |= {f"{name} 95 %": f"{100 * score.low:.1f} to {100 * score.high:.1f}"}
    late = [right for one in outcomes for right in one[10:]]
    row["turns 11 to 20"] = round(100 * float(np.mean(late)), 1) if late else ""
    return row


def _bits_rows(options: Any) -> Iterator[dict[str, Any]]:
    """Caches of fewer bits, and steps that read fewer rows, against float32 without a policy."""
    exact = _load(options, NONE, 0, "fp32")
    tokenizer = Tokenizer.from_file(str(options.model / "tokenizer.json"))
    samples = _questions(options.prompts)
    wanted = [_follow(Talk(exact, tokenizer), s.image, s.prompt, None) for s in samples]
    yield {"kv": "fp32", "cache KiB": round(cache_bytes(exact.manifest) / KIB)}
    for kv, reads in [*((kv, 0) for kv in options.bits), *(("fp32", n) for n in options.reads)]:
        coarse = _load(options, NONE, 0, kv, reads)
        divergences, same = [], 0
        for sample, (logits, ids) in zip(samples, wanted, strict=True):
            got, own = _follow(Talk(coarse, tokenizer), sample.image, sample.prompt, ids)
            divergences += [_divergence(a, b) for a, b in zip(logits, got, strict=True)]
            same += own == ids
        yield {
            "kv": f"{kv}, {reads} rows read" if reads else kv,
            "cache KiB": round(cache_bytes(coarse.manifest) / KIB),
            "mean KL": float(np.mean(divergences)),
            "largest KL": float(np.max(divergences)),
            "equal answers %": round(100 * same / len(samples), 2),
        }


def _follow(
    talk: Talk, image: Path, prompt: str, given: list[int] | None
) -> tuple[list[Any], list[int]]:
    """Logits along an answer, the model's own or one that is given, and what the model chooses."""
    logits = [talk.begin(image, prompt).copy()]
    own = [int(logits[-1].argmax())]
    stop_ids = talk.model.manifest.text.stop_ids
    while len(own) < (ANSWER_TOKENS if given is None else len(given)):
        token = (given or own)[len(own) - 1]
        if given is None and token in stop_ids:
            break
        logits.append(talk.model.runtime.step(token).copy())
        own.append(int(logits[-1].argmax()))
    return logits, own


def _divergence(exact: Any, coarse: Any) -> float:
    """KL divergence of the second distribution from the first, from logits [W], in nats."""
    p, q = (_log_softmax(logits.astype(np.float64)) for logits in (exact, coarse))
    return float((np.exp(p) * (p - q)).sum())


def _log_softmax(logits: Any) -> Any:
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def _questions(count: int) -> Sequence[Any]:
    return common.demo_samples("evaluate", count)


def _conversations(count: int) -> Iterable[tuple[Path, list[Turn]]]:
    """Conversations of the evaluate split, drawn once."""
    folder = common.OUT / f"evaluate-{count}-conversations"
    if not (folder / "conversations.jsonl").exists():
        maker = [sys.executable, "make.py", "--split", "evaluate", "--count", str(count)]
        maker += ["--form", "conversations", "-o", str(folder)]
        subprocess.run(maker, cwd=common.ROOT / "examples/demo_vlm", check=True)
    for line in (folder / "conversations.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        turns = [Turn(turn["prompt"], turn["answer"]) for turn in row["turns"]]
        yield folder / row["image"], turns


if __name__ == "__main__":
    main()
