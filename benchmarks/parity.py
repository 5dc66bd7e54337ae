r"""Every method and rung against PyTorch, float32: kept indices, logits and greedy answers.

    python benchmarks/parity.py --methods fastervlm visionzip random pool \
        --json docs/results/parity.json

Kept indices are compared end to end: image -> tower graph -> compress graph against Hugging
Face's eager attention -> the method in eager PyTorch.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np

from edgetok import names
from edgetok.export.cases import Case, make_cases
from edgetok.export.options import ExportOptions
from edgetok.export.parity.sessions import GraphRunner
from edgetok.export.reference.model import Reference
from edgetok.families import open_model
from edgetok.ladder import build_ladder
from edgetok.methods import METHODS, find_method

NEW_TOKENS = 16
BUILDING = common.load_building()


def main() -> None:
    options = common.arguments(__doc__, images=500, prompts=200, methods=tuple(METHODS))
    parts = open_model(options.model)
    ladder = build_ladder(common.BUDGETS, ExportOptions().prompt_tokens, NEW_TOKENS)
    samples = common.demo_samples("evaluate", 4 * options.images)
    first_of_each = {sample.image: sample for sample in samples}
    cases = make_cases(parts, list(first_of_each.values())[: options.images])
    towers: list[dict[str, Any]] = []
    rows = []
    for name in options.methods:
        reference = Reference(parts, find_method(name))
        towers = towers or [reference.look(case) for case in cases]
        builder = BUILDING.make_builder(parts, ladder, method=reference.method)
        with tempfile.TemporaryDirectory() as folder:
            runner = BUILDING.open_graphs(builder, Path(folder))
        seen = [
            runner.run("tower", None, {names.PIXELS: case.pixels.numpy()})
            | runner.read_prompt([*case.before, *case.after], case.question)
            for case in cases
        ]
        for rung, budget in enumerate(ladder.budgets):
            # The prompts are dealt out to the rungs in turn.
            asked = set(range(rung, options.prompts, len(ladder)))
            row = _compare(reference, runner, cases, towers, seen, budget, asked)
            rows.append({"method": name, "tokens": budget, **row})
            print(rows[-1], file=sys.stderr, flush=True)
    common.report("graphs against PyTorch, float32", rows, options.json)


def _compare(
    reference: Reference,
    runner: GraphRunner,
    cases: Sequence[Case],
    towers: Sequence[dict[str, Any]],
    seen: Sequence[dict[str, Any]],
    budget: int,
    asked: set[int],
) -> dict[str, Any]:
    equal = same_answers = 0
    worst = 0.0
    stop_ids = reference.parts.text.stop_ids
    for number, (case, tower, graph_tower) in enumerate(zip(cases, towers, seen, strict=True)):
        want = reference.compress(tower, budget)
        got = runner.run("compress", budget, graph_tower)
        equal += bool((got[names.KEPT] == want[names.KEPT].numpy()).all())
        if number not in asked:
            continue
        embeds = reference.embed(case.before, want[names.VISUAL_TOKENS], case.after)
        rows = _rows(reference, case, got[names.VISUAL_TOKENS])
        logits, ids = runner.answer(budget, rows, NEW_TOKENS, stop_ids)
        # Each id is PyTorch's likeliest after those before it: its greedy answer is the same.
        expected = reference.follow(embeds, ids).numpy()
        same_answers += bool((expected.argmax(-1) == np.array(ids)).all())
        worst = max(worst, float(np.abs(logits - expected).max()))
    return {
        "kept equal": f"{equal}/{len(cases)}",
        "answers equal": f"{same_answers}/{len(asked & set(range(len(cases))))}",
        "logits max abs": worst,
    }


def _rows(reference: Reference, case: Case, tokens: Any) -> Any:
    import torch

    return reference.embed(case.before, torch.from_numpy(tokens), case.after)[0].numpy()


if __name__ == "__main__":
    main()
