r"""Accuracy of every method at equal budgets, per kind of question, against random and pooling.

    python benchmarks/methods_report.py --model examples/demo_vlm/checkpoint \
        --json docs/results/methods.json

PyTorch, float32: the tower runs once per image, and all methods of one budget answer all its
questions in one batch (`packed.py`). How often that tells the same as generation with an exported
bundle is checked on a sample and printed. A method that cannot meet a budget gets the largest one
below it. `render.py` makes table and plot of the JSON.

With `--methods`, those alone are measured, and the baselines; in a JSON that is there, of the same
questions and weights, they replace their rows.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import common
import torch
from packed import Asked, answer_all
from tokenizers import Tokenizer
from torch import Tensor

import edgetok
from edgetok import names
from edgetok.calibration.evaluate import Score, normalise
from edgetok.calibration.samples import Sample
from edgetok.errors import UsageError
from edgetok.export.cases import Case, find_question, make_cases, split_prompt
from edgetok.export.reference.model import Reference
from edgetok.export.stages import tower_reducing as reducing
from edgetok.families import open_model
from edgetok.families.parts import Parts
from edgetok.methods import METHODS, TOWER_METHODS, Method, find_method

BUDGETS = (192, 128, 64, 32)
PER_IMAGE = 5  # one question of each kind
BASELINES = ("random", "pool")
NOT_CHECKED = "not checked"
CHECKED = ("fastervlm", 64)  # the method and rung that are compared with generation
Prompt = dict[str, Tensor]
Outcomes = dict[tuple[str, int, int], list[bool]]  # of method, seed, budget: right or wrong


def main() -> None:
    known = tuple(METHODS | TOWER_METHODS)
    options = common.arguments(
        __doc__, images=400, methods=known, seeds=(0, 1, 2), workers=2, check=100
    )
    options.methods = tuple(dict.fromkeys([*options.methods, *BASELINES]))
    samples = common.demo_samples("evaluate", PER_IMAGE * options.images, PER_IMAGE)
    started = time.monotonic()
    outcomes = ask_all(options, samples)
    took = time.monotonic() - started
    rows = [score(key, right, outcomes, samples) for key, right in sorted(outcomes.items())]
    common.report(f"accuracy on {len(samples)} questions", [_flat(row) for row in rows], None)
    checked = options.check and CHECKED[0] in options.methods
    agreement = check(options, samples, outcomes) if checked else NOT_CHECKED
    print(f"\nas generation with a bundle answers: {agreement}\n{took:.0f} s without that check")
    if options.json:
        result = {"title": f"{len(samples)} questions", "machine": common.facts()}
        weights = (options.model / "model.safetensors").read_bytes()
        result["weights_sha256"] = hashlib.sha256(weights).hexdigest()
        result |= {"agreement": agreement, "rows": rows}
        if options.json.exists() and set(options.methods) != set(known):
            result = merge(json.loads(options.json.read_text()), result)
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def merge(before: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """A report with the rows that were found in place of those of the same methods.

    Raises:
        SystemExit: if they are of other questions or weights, and so do not compare.
    """
    for fact in ("title", "weights_sha256"):
        if before[fact] != found[fact]:
            raise SystemExit(
                f"the report there has {fact} {before[fact]!r}, this run {found[fact]!r}: "
                "give --images as it was measured with, or another --json"
            )
    new = {row["method"] for row in found["rows"]}
    rows = [*(row for row in before["rows"] if row["method"] not in new), *found["rows"]]
    rows.sort(key=lambda row: (row["method"], row["seed"], row["tokens"]))
    agreement = found["agreement"]
    if agreement == NOT_CHECKED:
        agreement = before["agreement"]
    return {**found, "agreement": agreement, "rows": rows}


# --- asking --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Subject:
    """A method in the form for a tower, with the seed that it draws with."""

    method: Method
    seed: int

    def budget(self, parts: Parts, wanted: int) -> int | None:
        """The largest budget that it can meet without exceeding `wanted`."""
        possible = self.method.budgets(parts.vision.full_tokens, parts.vision.grid)
        return max((b for b in possible if b <= wanted), default=None)


def list_subjects(parts: Parts, methods: Sequence[str], seeds: Sequence[int]) -> list[Subject]:
    """Every method that this tower can serve; one per seed of those that draw."""
    found = []
    for name in methods:
        for seed in seeds if find_method(name).reseed else (0,):
            try:
                vision = parts.vision
                method = find_method(name, seed).for_tower(vision.prefix_tokens, len(vision.blocks))
            except UsageError as error:
                print(error, file=sys.stderr)
                continue
            found.append(Subject(method, seed))
    return found


@dataclass(frozen=True)
class Picture:
    """One image: pixels [1, 3, h, w], ids before it, and all that methods behind the tower read."""

    pixels: Tensor
    before: list[int]
    seen: dict[str, Tensor]


@dataclass(frozen=True)
class View:
    """Visual tokens [K, D], and the questions that are asked of them, by their number."""

    tokens: Tensor
    questions: Sequence[int]


class Viewer:
    """Visual tokens of one image by any method: the one place that knows what kinds there are.

    Methods behind the tower share one pass through it, and one view serves all questions; those
    that read the prompt give a view for each. Those inside the tower have a tower for each budget.
    """

    def __init__(self, parts: Parts, subjects: Sequence[Subject]) -> None:
        self.parts = parts
        behind = [s.method for s in subjects if s.method.inside is None]
        needs = {name for method in behind for name in method.tower_needs}
        self._towers: dict[tuple[str, int], reducing.ReducingTower] = {}
        self._all = Reference(parts, replace(METHODS["pool"], needs=tuple(sorted(needs))))

    def open(self, case: Case) -> Picture:
        return Picture(case.pixels, case.before, self._all.encode(case.pixels))

    def views(
        self, picture: Picture, method: Method, budget: int, prompts: Sequence[Prompt]
    ) -> list[View]:
        """The views that cover all questions."""
        inside = method.inside is not None
        seen = self._reduce(picture.pixels, method, budget) if inside else picture.seen
        reference = Reference(self.parts, method)
        if not method.reads_prompt:
            tokens = reference.compress(seen, budget)[names.VISUAL_TOKENS]
            return [View(tokens, range(len(prompts)))]
        found = [reference.compress(seen | prompt, budget) for prompt in prompts]
        return [View(out[names.VISUAL_TOKENS], [number]) for number, out in enumerate(found)]

    @torch.no_grad()
    def _reduce(self, pixels: Tensor, method: Method, budget: int) -> dict[str, Tensor]:
        key = method.name, budget
        if key not in self._towers:
            assert method.inside is not None  # noqa: S101 - only asked for these
            given = self.parts.vision, method.inside, budget, attend_eagerly
            self._towers[key] = reducing.ReducingTower(*given)
        return dict(zip(reducing.ReducingTower.outputs, self._towers[key](pixels), strict=True))


def attend_eagerly(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, bias: Tensor | None
) -> Tensor:
    """Full attention with a bias [n] on the keys: [heads, n, H] -> [n, heads * H]."""
    scores = query @ key.mT * scaling
    weights = (scores if bias is None else scores + bias).softmax(-1)
    return (weights @ value).transpose(0, 1).flatten(1)


def ask_all(options: Any, samples: Sequence[Sample]) -> Outcomes:
    """Outcomes per method, seed and budget, in the samples' order."""
    by_image: dict[Path, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_image[sample.image].append(sample)
    images = list(by_image.values())
    shares = [images[i :: options.workers] for i in range(options.workers)]
    job = partial(_ask_share, options.model, options.methods, options.seeds)
    if options.workers == 1:
        answered = [job(images)]
    else:
        with ProcessPoolExecutor(options.workers) as pool:
            answered = list(pool.map(job, shares))
    outcomes: Outcomes = defaultdict(list)
    for number in range(len(images)):  # dealt out in turn, and gathered the same way
        for key, right in answered[number % options.workers][number // options.workers].items():
            outcomes[key] += right
    return dict(outcomes)


def _ask_share(
    model: Path, methods: Sequence[str], seeds: Sequence[int], images: list[list[Sample]]
) -> list[Outcomes]:
    torch.set_num_threads(1)
    parts = open_model(model)
    subjects = list_subjects(parts, methods, seeds)
    viewer, asker = Viewer(parts, subjects), Asker(parts)
    cases = make_cases(parts, [questions[0] for questions in images])
    found = []
    for number, (case, questions) in enumerate(zip(cases, images, strict=True)):
        found.append(asker.ask(viewer, subjects, case, questions))
        print(f"image {number + 1} of {len(images)}", end="\r", file=sys.stderr, flush=True)
    return found


class Asker:
    """Asks all questions about one image on every rung of every method."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._tokenizer = Tokenizer.from_file(str(parts.path / "tokenizer.json"))

    def ask(
        self, viewer: Viewer, subjects: Sequence[Subject], case: Case, questions: Sequence[Sample]
    ) -> Outcomes:
        """Right or wrong, per method, seed and budget; budget N under the name `all tokens`."""
        asked = [self._tokenise(sample) for sample in questions]
        picture, full = viewer.open(case), self.parts.vision.full_tokens
        prompts = [self._embed_prompt(sample) for sample in questions]
        everything = viewer.views(picture, METHODS["pool"], full, prompts)
        found: Outcomes = {("all tokens", 0, full): self._answer(picture, [everything], asked)[0]}
        for wanted in BUDGETS:
            by_budget: dict[int, list[Subject]] = defaultdict(list)
            for subject in subjects:
                if (k := subject.budget(self.parts, wanted)) is not None:
                    by_budget[k].append(subject)
            for k, group in by_budget.items():
                views = [viewer.views(picture, subject.method, k, prompts) for subject in group]
                keys = [(s.method.name, s.seed, wanted) for s in group]
                found |= dict(zip(keys, self._answer(picture, views, asked), strict=True))
        return found

    def _answer(
        self, picture: Picture, views: Sequence[Sequence[View]], asked: Sequence[Asked]
    ) -> list[list[bool]]:
        """Right or wrong for each question, per list of views of one number of tokens."""
        rows = [view for several in views for view in several]
        given = answer_all(
            self.parts.text,
            picture.before,
            torch.stack([view.tokens for view in rows]),
            [[asked[number] for number in view.questions] for view in rows],
        )
        answered = iter(zip(rows, given, strict=True))
        found = []
        for several in views:
            right: dict[int, bool] = {}
            for view, outcomes in islice(answered, len(several)):
                right |= dict(zip(view.questions, outcomes, strict=True))
            found.append([right[number] for number in range(len(asked))])
        return found

    @torch.no_grad()
    def _embed_prompt(self, sample: Sample) -> Prompt:
        plan = self.parts.prompt.plan, self._tokenizer, sample.prompt
        before, after = split_prompt(*plan)
        place = find_question(*plan)
        mask = torch.zeros(len(before) + len(after))
        mask[place.start : place.stop] = 1.0
        rows = self.parts.text.embed(torch.tensor([*before, *after]))
        return {names.TEXT_EMBEDS: rows, names.TEXT_MASK: mask}

    def _tokenise(self, sample: Sample) -> Asked:
        _, after = split_prompt(self.parts.prompt.plan, self._tokenizer, sample.prompt)
        answer = self._tokenizer.encode(f" {sample.answer}", add_special_tokens=False).ids
        return Asked(tuple(after), (*answer, self.parts.text.stop_ids[0]))


# --- scoring -------------------------------------------------------------------------------------


def score(
    key: tuple[str, int, int], right: list[bool], outcomes: Outcomes, samples: Sequence[Sample]
) -> dict[str, Any]:
    """One row of the report: shares with Wilson's 95 % intervals, and tests against baselines."""
    method, seed, budget = key
    by_kind: dict[str, list[bool]] = defaultdict(list)
    for sample, outcome in zip(samples, right, strict=True):
        by_kind[str(sample.kind)].append(outcome)
    row: dict[str, Any] = {"method": method, "seed": seed, "tokens": budget}
    row["all"] = _interval(right)
    row["kinds"] = {kind: _interval(by_kind[kind]) for kind in sorted(by_kind)}
    for baseline in BASELINES:
        rivals = [o for (m, _, b), o in outcomes.items() if (m, b) == (baseline, budget)]
        if rivals and method != baseline:
            best = max(rivals, key=sum)  # of the seeds, the one that is hardest to beat
            row[baseline] = {"wins": _count(right, best), "losses": _count(best, right)}
            row[baseline]["p"] = common.mcnemar(**row[baseline])
    return row


def _interval(right: Sequence[bool]) -> dict[str, Any]:
    found = Score.count(right)
    return {"right": found.right, "of": found.total, "low": found.low, "high": found.high}


def _count(mine: Sequence[bool], other: Sequence[bool]) -> int:
    return sum(a and not b for a, b in zip(mine, other, strict=True))


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    shares = {"all": row["all"], **row["kinds"]}
    flat = {name: round(100 * s["right"] / s["of"], 1) for name, s in shares.items()}
    tests = {f"p against {b}": row[b]["p"] for b in BASELINES if b in row}
    return {name: row[name] for name in ("method", "seed", "tokens")} | flat | tests


def check(options: Any, samples: Sequence[Sample], outcomes: Outcomes) -> str:
    """Ask some questions of an exported bundle too, and count equal outcomes."""
    method, budget = CHECKED
    bundle = common.demo_bundle(options.model, method=method, budgets=(budget,))
    model = edgetok.load(bundle)
    some = samples[: options.check]
    same = 0
    for sample, right in zip(some, outcomes[method, 0, budget], strict=False):
        given = model.generate(sample.image, sample.prompt, max_new_tokens=24).text
        same += (normalise(given) == normalise(sample.answer or "")) == right
    return f"{same} of {len(some)} questions ({method} at {budget} tokens)"


if __name__ == "__main__":
    main()
