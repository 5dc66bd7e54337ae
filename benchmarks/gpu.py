r"""A bundle on a GPU: the same answers as on the CPU, and its speed beside Hugging Face's there.

    python benchmarks/gpu.py --model LLAVA_DIR --devices cuda --json docs/results/gpu.json
    python benchmarks/gpu.py --devices rtx tensorrt          # engines, where TensorRT is installed
    python benchmarks/gpu.py --dry-run yes                   # the script itself, on any machine

For each device every rung answers the same prompts as ONNX Runtime does on the CPU, and the script
says how many answers are equal, token for token. Then each round runs every contestant once, in
turn: time to first token with a new image, and time per token behind it. Hugging Face runs eagerly
and compiled, in the precision of the engines. The dry run has one round of two prompts on the CPU,
and compiles without generating code.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import common
import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

import edgetok

Times = tuple[float, float]  # of the first token and of each further one, ms


def main() -> None:
    options = common.arguments(
        __doc__,
        devices=("cuda",),
        prompts=200,
        rounds=9,
        new_tokens=32,
        budgets=(64, 128, 192, 576),
        precision="fp16",
        weights="fp32",
        kv="fp32",
        dry_run="no",
    )
    if options.dry_run == "yes":
        options.devices, options.prompts, options.rounds = ("cpu",), 2, 1
        options.new_tokens, options.precision = 4, "fp32"
    elif not torch.cuda.is_available():
        sys.exit("no GPU that PyTorch can use; --dry-run yes tries the script itself on the CPU")
    bundle = _export(options)
    samples = common.demo_samples("evaluate", options.prompts)[: options.prompts]
    models = {device: _load(bundle, device, options) for device in options.devices}
    rows = [
        row
        for device, model in models.items()
        for row in _compare(device, model, edgetok.load(bundle), samples, options)
    ]
    rows += _race(models, samples[0], options)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU: a dry run"
    common.report(f"{gpu}, {options.prompts} prompts, {options.rounds} rounds", rows, options.json)


def _export(options: Any) -> Path:
    flavour = "portable" if {"rtx", "tensorrt"} & set(options.devices) else "ort"
    return common.demo_bundle(
        options.model,
        weights=options.weights,
        kv=options.kv,
        flavour=flavour,
        budgets=tuple(options.budgets),
    )


def _load(bundle: Path, device: str, options: Any) -> Any:
    return edgetok.load(bundle, device, precision=options.precision)


def _compare(
    device: str, model: Any, plain: Any, samples: Sequence[Any], options: Any
) -> list[dict[str, Any]]:
    """How many answers of each rung are those of the CPU."""
    rows = []
    for budget in options.budgets:
        equal = 0
        for sample in samples:
            asked = {"budget": budget, "max_new_tokens": options.new_tokens}
            found, want = (
                each.generate(sample.image, sample.prompt, **asked).token_ids
                for each in (model, plain)
            )
            equal += tuple(found) == tuple(want)
        rows.append({"what": f"{device} at {budget}", "equal answers": f"{equal}/{len(samples)}"})
    return rows


def _race(models: dict[str, Any], sample: Any, options: Any) -> list[dict[str, Any]]:
    runs: dict[str, Callable[[], Times]] = {
        f"Hugging Face {how}": _hugging_face(how, sample, options) for how in ("eager", "compiled")
    }
    for device, model in models.items():
        for budget in options.budgets:
            runs[f"edgetok {device} at {budget}"] = _edgetok(model, sample, budget, options)
    times: dict[str, list[Times]] = {name: [] for name in runs}
    for number in range(options.rounds + 2):  # two to warm up: compilers, kernels, recorded steps
        for name, run in runs.items():
            measured = run()
            times[name] += [measured] if number >= 2 else []
    base = times["Hugging Face eager"]
    return [_row(name, found, base) for name, found in times.items()]


def _row(name: str, found: Sequence[Times], base: Sequence[Times]) -> dict[str, Any]:
    """Medians, and medians of each round's ratio to Hugging Face's eager run."""
    pairs = list(zip(found, base, strict=True))
    return {
        "what": name,
        "first token, ms": statistics.median(first for first, _ in found),
        "faster": statistics.median(b[0] / f[0] for f, b in pairs),
        "ms per token": statistics.median(each for _, each in found),
        "decode faster": statistics.median(b[1] / f[1] for f, b in pairs),
    }


def _edgetok(model: Any, sample: Any, budget: int, options: Any) -> Callable[[], Times]:
    def run() -> Times:
        model.forget()  # the same question again would find its rows in the cache
        asked = {"budget": budget, "max_new_tokens": options.new_tokens}
        timings = model.generate(sample.image, sample.prompt, **asked).timings_ms
        return timings["ttft"], timings["decode_per_token"]

    return run


def _hugging_face(how: str, sample: Any, options: Any) -> Callable[[], Times]:
    kind = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    device, dtype = "cuda" if torch.cuda.is_available() else "cpu", kind[options.precision]
    model = LlavaForConditionalGeneration.from_pretrained(
        options.model, dtype=dtype, attn_implementation="eager" if how == "eager" else "sdpa"
    )
    model = model.to(device).eval()
    forward: Callable[..., Any] = model
    if how == "compiled":
        backend = "eager" if options.dry_run == "yes" else "inductor"
        forward = torch.compile(model, backend=backend, dynamic=True)
    processor = AutoProcessor.from_pretrained(options.model)
    content = [{"type": "image"}, {"type": "text", "text": sample.prompt}]
    messages = [{"role": "user", "content": content}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)

    @torch.no_grad()
    def run() -> Times:
        started = _now()
        image = Image.open(sample.image).convert("RGB")
        given = processor(images=image, text=text, return_tensors="pt", add_special_tokens=False)
        given = given.to(device, dtype)  # ids keep their type
        out = forward(**given, use_cache=True, logits_to_keep=1)
        token = out.logits[:, -1:].argmax(-1)
        first = _now()
        for _ in range(options.new_tokens - 1):
            out = forward(input_ids=token, past_key_values=out.past_key_values, use_cache=True)
            token = out.logits[:, -1:].argmax(-1)
        return 1e3 * (first - started), 1e3 * (_now() - first) / (options.new_tokens - 1)

    return run


def _now() -> float:
    """The time when all work that was begun is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
