r"""Answers of the C library with all weights packed, beside those without: what the rounding costs.

    make cpp
    python benchmarks/cpp_packed.py --json docs/results/cpp_packed.json

MatMulNBits rounds activations to 8 bits where its weights are packed. Decode packs always; this
asks the demo model's questions with and without the packing of every other graph.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import common
from cpp_library import Bundle, Library, Model

from edgetok.runtimes.load import load

PRECISIONS = ("fp32/fp32", "int8/int8", "int4/int8")


def main() -> None:
    options = common.arguments(__doc__, count=500, budget=64, precisions=PRECISIONS)
    library = Library(common.ROOT / "build/cpp/shared/libedgetok.so")
    samples = common.demo_samples("calibrate", options.count)
    rows = []
    for name in options.precisions:
        weights, kv = name.split("/")
        bundle = common.demo_bundle(
            options.model, weights=weights, kv=kv, budgets="16,64,128,full", new_tokens=32
        )
        asked = [_ask(library, bundle, samples, options.budget, packed) for packed in (False, True)]
        rows.append(_row(name, samples, *asked))
    common.report(f"{options.count} questions at {options.budget} tokens", rows, options.json)


def _ask(
    library: Library, folder: Path, samples: Any, budget: int, packed: bool
) -> list[tuple[list[int], str]]:
    """Tokens and text of each answer."""
    processor = load(folder, budgets=[budget]).processor
    model = Model(Bundle(library, folder), budgets=[budget], threads=2, packed=packed)
    images: dict[Path, Any] = {}
    out = []
    for sample in samples:
        prompt = processor.encode(sample.prompt)
        if sample.image not in images:
            images = {sample.image: model.image_of(Path(sample.image).read_bytes())}
        tokens = model.generate(
            images[sample.image], prompt.before, prompt.after, budget=budget
        ).tokens
        out.append((tokens, processor.tokenizer.decode(tokens)))
    return out


def _row(name: str, samples: Any, mapped: Any, packed: Any) -> dict[str, Any]:
    count = len(samples)

    def right(answers: Any) -> float:
        pairs = zip(answers, samples, strict=True)
        return 100 * sum(text.strip() == s.answer for (_, text), s in pairs) / count

    same = sum(a[0] == b[0] for a, b in zip(mapped, packed, strict=True))
    return {
        "bundle": name,
        "same tokens, %": 100 * same / count,
        "right, %": right(mapped),
        "right packed, %": right(packed),
    }


if __name__ == "__main__":
    main()
