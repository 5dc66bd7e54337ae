"""How far quantized bundles answer like float32, and which layers are to blame where they do not.

    python benchmarks/agreement.py --prompts 500 --json docs/results/agreement.json

Agreement is the share of prompts whose whole greedy answer is equal. Blame rounds one part of the
model at a time in PyTorch and counts the float32 answers' tokens that stop being the likeliest.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import common
import torch
from torch import nn

import edgetok
from edgetok import names
from edgetok.calibration.samples import Sample, draw
from edgetok.export.cases import make_cases
from edgetok.export.lowering.quantize import BITS
from edgetok.export.lowering.rounding import round_linears
from edgetok.export.reference.model import Reference
from edgetok.families import open_model
from edgetok.methods import find_method

NEW_TOKENS = 16
PRECISIONS = (("int8", "int8"), ("int4", "int8"))


def main() -> None:
    options = common.arguments(
        __doc__, prompts=500, method="visionzip", blame_prompts=100, threads=0
    )
    samples = common.demo_samples("evaluate", options.prompts)
    wanted = _answers(options, samples, "fp32", "fp32")
    rows = []
    for weights, kv in PRECISIONS:
        got = _answers(options, samples, weights, kv)
        for budget in common.BUDGETS:
            same = sum(a == b for a, b in zip(got[budget], wanted[budget], strict=True))
            share = round(100 * same / len(samples), 1)
            rows.append({"weights": weights, "kv": kv, "tokens": budget, "agreement": share})
            print(rows[-1], file=sys.stderr, flush=True)
    common.report(f"answers equal to float32, percent of {len(samples)}", rows, options.json)
    blame = _blame(options, draw(samples, options.blame_prompts))
    path = options.json and options.json.with_name(options.json.stem + "-blame.json")
    common.report("answer tokens lost when one part alone is rounded, percent", blame, path)


def _answers(
    options: Any, samples: Sequence[Sample], weights: str, kv: str
) -> dict[int, list[tuple[int, ...]]]:
    bundle = common.demo_bundle(
        options.model, method=options.method, weights=weights, kv=kv, budgets=common.BUDGETS
    )
    model = edgetok.load(bundle, threads=options.threads or None)
    found: dict[int, list[tuple[int, ...]]] = {budget: [] for budget in common.BUDGETS}
    encoded = {}
    for sample in samples:
        if sample.image not in encoded:
            encoded = {sample.image: model.encode(sample.image)}
        for budget in common.BUDGETS:
            answer = model.generate(
                encoded[sample.image], sample.prompt, budget=budget, max_new_tokens=NEW_TOKENS
            )
            found[budget].append(tuple(answer.token_ids))
    return found


def _blame(options: Any, samples: Sequence[Sample], budget: int = 64) -> list[dict[str, Any]]:
    """Round one part at a time to the bits that an int4 bundle gives it."""
    parts = open_model(options.model)
    reference = Reference(parts, find_method(options.method))
    cases = make_cases(parts, samples)
    towers = [reference.look(case) for case in cases]
    answers = []
    for case, tower in zip(cases, towers, strict=True):
        tokens = reference.compress(tower, budget)[names.VISUAL_TOKENS]
        embeds = reference.embed(case.before, tokens, case.after)
        answers.append(reference.answer(embeds, NEW_TOKENS).ids)
    rows = []
    for name, modules, stage in _named_parts(parts):
        with round_linears(modules, BITS["int4"][stage]):
            lost = total = 0
            for case, exact, ids in zip(cases, towers, answers, strict=True):
                tower = reference.look(case) if stage == "tower" else exact
                tokens = reference.compress(tower, budget)[names.VISUAL_TOKENS]
                embeds = reference.embed(case.before, tokens, case.after)
                likeliest = reference.follow(embeds, ids).argmax(-1)
                lost += int((likeliest != torch.tensor(ids)).sum())
                total += len(ids)
        rows.append(
            {"part": name, "bits": BITS["int4"][stage], "lost": round(100 * lost / total, 2)}
        )
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def _named_parts(parts: Any) -> Iterable[tuple[str, Sequence[nn.Module], str]]:
    yield "tower", parts.vision.blocks, "tower"
    yield "projector", [parts.projector], "compress"
    for number, layer in enumerate(parts.text.layers):
        yield f"decoder layer {number}, attention", [layer.self_attn], "decode"
        yield f"decoder layer {number}, mlp", [layer.mlp], "decode"
    yield "head", [parts.text.head], "head"


if __name__ == "__main__":
    main()
