"""Time to first token and decode speed of every rung, beside Hugging Face in the same process.

    python benchmarks/speed.py --json docs/results/speed.json

Each round runs every contestant once, in turn, so that drift of the machine hits all alike; the
ratio column is the median of the rounds' ratios. The bound of a decode step is its weight bytes
over the memory bandwidth that a plain copy reaches here.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import common
import torch
from bounds import bandwidth_gb_s, decode_bytes
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

import edgetok

NEW_TOKENS = 32
FULL = 576


def main() -> None:
    options = common.arguments(__doc__, rounds=9, method="visionzip")
    sample = common.demo_samples("evaluate", 4)[0]
    bandwidth = bandwidth_gb_s()
    bounds: dict[str, float] = {}
    runs: dict[str, Callable[[], tuple[float, float]]] = {
        "Hugging Face eager": _hugging_face(options.model, sample, "eager"),
        "Hugging Face sdpa": _hugging_face(options.model, sample, "sdpa"),
    }
    for weights, kv in (("fp32", "fp32"), ("int8", "int8"), ("int4", "int8")):
        budgets = (64, 128, 192, FULL)
        bundle = common.demo_bundle(
            options.model, method=options.method, weights=weights, kv=kv, budgets=budgets
        )
        model = edgetok.load(bundle)
        for budget in budgets:
            name = f"edgetok {weights}/{kv} at {budget}"
            runs[name] = _edgetok(model, sample, budget)
            bounds[name] = 1e3 * decode_bytes(bundle) / (1e9 * bandwidth)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(options.rounds + 1):
        for name, run in runs.items():
            times[name].append(run())
    base = times["Hugging Face sdpa"][1:]  # the first round warms up
    rows = []
    for name, values in times.items():
        bound = {"bound, ms": bounds[name]} if name in bounds else {}
        rows.append(_row(name, values[1:], base) | bound)
    title = f"one image and question, greedy; a copy moves {bandwidth:.1f} GB/s"
    common.report(title, rows, options.json)


def _row(name: str, values: list[Any], base: list[Any]) -> dict[str, Any]:
    ratios = [b[0] / v[0] for v, b in zip(values, base, strict=True)]
    steps = [b[1] / v[1] for v, b in zip(values, base, strict=True)]
    return {
        "what": name,
        "first token, ms": statistics.median(v[0] for v in values),
        "faster": statistics.median(ratios),
        "ms per token": statistics.median(v[1] for v in values),
        "decode faster": statistics.median(steps),
    }


def _edgetok(model: Any, sample: Any, budget: int) -> Callable[[], tuple[float, float]]:
    def run() -> tuple[float, float]:
        model.forget()  # the same question again would find its rows in the cache
        answer = model.generate(
            sample.image, sample.prompt, budget=budget, max_new_tokens=NEW_TOKENS
        )
        return answer.timings_ms["ttft"], answer.timings_ms["decode_per_token"]

    return run


def _hugging_face(path: Any, sample: Any, attention: str) -> Callable[[], tuple[float, float]]:
    model = LlavaForConditionalGeneration.from_pretrained(
        path, dtype=torch.float32, attn_implementation=attention
    ).eval()
    processor = AutoProcessor.from_pretrained(path)
    content = [{"type": "image"}, {"type": "text", "text": sample.prompt}]
    messages = [{"role": "user", "content": content}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)

    @torch.no_grad()
    def run() -> tuple[float, float]:
        started = time.perf_counter()
        image = Image.open(sample.image).convert("RGB")
        inputs = processor(images=image, text=text, return_tensors="pt", add_special_tokens=False)
        out = model(**inputs, use_cache=True, logits_to_keep=1)
        token = out.logits[:, -1:].argmax(-1)
        first = time.perf_counter()
        for _ in range(NEW_TOKENS - 1):
            out = model(input_ids=token, past_key_values=out.past_key_values, use_cache=True)
            token = out.logits[:, -1:].argmax(-1)
        done = time.perf_counter()
        return 1e3 * (first - started), 1e3 * (done - first) / (NEW_TOKENS - 1)

    return run


if __name__ == "__main__":
    main()
