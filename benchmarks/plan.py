"""Plans how many visual tokens each decoder layer sees: G-Search and P-Sigmoid on samples.

    python benchmarks/plan.py --method pyramiddrop --share 0.6 --write plan.json
    edgetok export MODEL -o BUNDLE --prefill plan.json

The metric is the share of calibrate samples whose greedy answer is that of the model without
reduction, run eagerly on all visual tokens; the cost is FLOPs of the decoder's layers. G-Search
keeps the fewest tokens that leave the metric within `--tolerance`; P-Sigmoid spends `--share` of
the full FLOPs. Both are brought to at most four different counts. Of those with the higher metric
the one that spends fewer FLOPs is written.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import common
from torch import Tensor

from edgetok import names
from edgetok.calibration.planner import (
    DecoderShape,
    Keep,
    fit_sigmoid,
    flatten,
    search_greedily,
)
from edgetok.export.cases import make_cases
from edgetok.export.reference.model import Reference
from edgetok.export.reference.prompt_reduced import PrefillReference
from edgetok.families import open_model
from edgetok.families.parts import Parts
from edgetok.methods import METHODS
from edgetok.prefill import PREFILL_METHODS, Prefill

NEW_TOKENS = 12


def main() -> None:
    options = common.arguments(
        __doc__,
        **{"method": "pyramiddrop", "samples": 16, "share": 0.6, "tolerance": 0.05},
        write="",
    )
    parts = open_model(options.model)
    judge = Judge(parts, options.method, options.samples)
    full, layers = parts.vision.full_tokens, len(parts.text.layers)
    cost = shape_of(parts, judge.text_rows).flops
    grid = [0, *(full // part for part in (8, 4, 2)), full]
    budget = options.share * cost((full,) * layers)
    found = {
        "G-Search": search_greedily(full, layers, judge, grid=grid, tolerance=options.tolerance),
        "P-Sigmoid": fit_sigmoid(full, layers, judge, cost, budget),
    }
    rows = []
    for name, keep in found.items():
        flat = flatten(keep)
        share = cost(flat) / cost((full,) * layers)
        rows.append({"planner": name, "tokens by layer": list(flat), "of the full FLOPs": share})
        rows[-1] |= {"same answers": judge(flat), "samples": options.samples}
    if options.write:
        best = max(rows, key=lambda row: (row["same answers"], -row["of the full FLOPs"]))
        shares = [count / full for count in best["tokens by layer"]]
        Path(options.write).write_text(json.dumps({"method": options.method, "shares": shares}))
    common.report(f"plans for {options.method}", rows, options.json)


class Judge:
    """Share of samples whose answer a schedule leaves as it is; remembers what it was asked."""

    def __init__(self, parts: Parts, method: str, count: int) -> None:
        self.parts, self.method = parts, PREFILL_METHODS[method]
        reference = Reference(parts, METHODS["pool"])
        full = parts.vision.full_tokens
        self.prompts: list[tuple[Tensor, int]] = []
        for case in make_cases(parts, common.demo_samples("calibrate", count)):
            tokens = reference.compress(reference.encode(case.pixels), full)[names.VISUAL_TOKENS]
            embeds = reference.embed(case.before, tokens, case.after)
            self.prompts.append((embeds, len(case.before)))
        self.wanted = [reference.answer(embeds, NEW_TOKENS).ids for embeds, _ in self.prompts]
        self.asked: dict[Keep, float] = {}

    @property
    def text_rows(self) -> int:
        return max(embeds.shape[1] for embeds, _ in self.prompts) - self.parts.vision.full_tokens

    def __call__(self, keep: Keep) -> float:
        if keep not in self.asked:
            method = replace(self.method, counts=lambda *_: keep)
            one = Prefill(method, 0.5)  # any ratio but 1, which would be the plain decoder
            reference = PrefillReference(self.parts.text, one, keep[0])
            same = [
                reference.answer(embeds, start, NEW_TOKENS).ids == want
                for (embeds, start), want in zip(self.prompts, self.wanted, strict=True)
            ]
            self.asked[keep] = sum(same) / len(same)
        return self.asked[keep]


def shape_of(parts: Parts, text_rows: int) -> DecoderShape:
    """What the arithmetic of the decoder depends on."""
    text: Any = parts.text
    mlp = text.layers[0].mlp.down_proj.in_features
    return DecoderShape(text.hidden, text.heads, text.kv_heads, text.head_dim, mlp, text_rows)


if __name__ == "__main__":
    main()
