r"""Whether the portable graphs answer like those of the `ort` flavour, in ONNX Runtime on a CPU.

    python benchmarks/flavours.py --prompts 200 --json docs/results/flavours.json

A bundle with both flavours is asked the same questions about pictures of the evaluate split. Of
float32 graphs the answers should be equal; quantized ones differ in how they round, and are set
beside float32 as well.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common

import edgetok
from edgetok.calibration.samples import Sample

NEW_TOKENS = 16
PRECISIONS = ("fp32+fp32", "fp32+int8", "int8+int8")  # of weights and cache, the exact one first
Answers = dict[int, list[tuple[int, ...]]]


def main() -> None:
    options = common.arguments(
        __doc__,
        prompts=200,
        method="visionzip",
        threads=0,
        budgets=(64, 576),
        precisions=PRECISIONS,
    )
    samples = common.demo_samples("evaluate", options.prompts)
    rows: list[dict[str, Any]] = []
    exact: Answers = {}
    for weights, kv in (pair.split("+") for pair in options.precisions):
        bundle = common.demo_bundle(
            options.model,
            method=options.method,
            weights=weights,
            kv=kv,
            budgets=tuple(options.budgets),
            flavour="portable",
        )
        ort, portable = (_ask(bundle, flavour, samples, options) for flavour in ("ort", "portable"))
        exact = exact or ort
        for budget in options.budgets:
            rows.append(
                {"weights": weights, "kv": kv, "tokens": budget}
                | {"portable like ort": _alike(portable[budget], ort[budget])}
                | {"portable like fp32": _alike(portable[budget], exact[budget])}
                | {"ort like fp32": _alike(ort[budget], exact[budget])}
            )
            print(rows[-1], file=sys.stderr, flush=True)
    common.report(f"equal answers, percent of {len(samples)}", rows, options.json)


def _ask(bundle: Path, flavour: Any, samples: Sequence[Sample], options: Any) -> Answers:
    model = edgetok.load(bundle, threads=options.threads or None, flavour=flavour)
    found: Answers = {budget: [] for budget in options.budgets}
    seen: dict[Path, Any] = {}
    for sample in samples:
        if sample.image not in seen:
            seen = {sample.image: model.encode(sample.image)}
        for budget in options.budgets:
            answer = model.generate(
                seen[sample.image], sample.prompt, budget=budget, max_new_tokens=NEW_TOKENS
            )
            found[budget].append(tuple(answer.token_ids))
    return found


def _alike(got: list[tuple[int, ...]], wanted: list[tuple[int, ...]]) -> float:
    same = sum(a == b for a, b in zip(got, wanted, strict=True))
    return round(100 * same / len(wanted), 1)


if __name__ == "__main__":
    main()
