"""Prefill milliseconds of graphs that take visual tokens away, beside the plain prefill.

    python benchmarks/prefill.py --json docs/results/prefill.json

All graphs are float32 over one weights file, in one process, one thread each by default, with the
cache bound in place as the runtime binds it. Every round runs each graph once, in turn, so that
drift of the machine hits all alike; the speed-up is the median of the rounds' ratios to the plain
prefill of the same rung and round. `predicted` is said before anything runs: the inverse of the
share of FLOPs that `edgetok.calibration.planner` counts for the rows of each layer. `GFLOP` are
those of matrix products and attention in the graph itself, probes among them, 2 per
multiplication, causal attention as half a square.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from tower import flops

from edgetok import names
from edgetok.calibration.planner import DecoderShape
from edgetok.export.graph import Graph
from edgetok.export.lowering.fusion import infer_shapes
from edgetok.families import open_model
from edgetok.families.parts import Parts
from edgetok.ladder import build_ladder
from edgetok.prefill import find_prefill

PLAIN = "none"
BUILDING = common.load_building()
PROMPT_TOKENS, NEW_TOKENS = 96, 32
Key = tuple[str, int]


def main() -> None:
    defaults = {"rounds": 15, "threads": 1, "budgets": (192, 576)}
    options = common.arguments(__doc__, **defaults, prefill=("fastv", "pyramiddrop"))
    parts = open_model(options.model)
    keys = [(name, k) for k in options.budgets for name in (PLAIN, *options.prefill)]
    guesses = {key: predict(parts, *key) for key in keys}
    for key, guess in guesses.items():
        print(*key, f"predicted {guess:.2f} times as fast", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        graphs = build(parts, keys, Path(folder))
        work = {key: count(graph, Path(folder)) for key, graph in graphs.items()}
        bound = {
            key: Prompt(graph, removed_by(parts, *key), Path(folder), options.threads)
            for key, graph in graphs.items()
        }
        times = measure(bound, options.rounds)
    rows = [row(key, guesses[key], times, work) for key in keys]
    threads = f"{options.threads} thread{'s' if options.threads > 1 else ''}"
    title = f"prefill of {PROMPT_TOKENS} text rows and an image, float32, {threads}"
    common.report(title, rows, options.json)


def predict(parts: Parts, name: str, budget: int) -> float:
    """How many times as fast the arithmetic of the layers alone would make it."""
    text: Any = parts.text
    mlp = text.layers[0].mlp.down_proj.in_features
    shape = DecoderShape(
        text.hidden, text.heads, text.kv_heads, text.head_dim, mlp, text_rows=PROMPT_TOKENS
    )
    prefill, layers = find_prefill(name), len(text.layers)
    full = (budget,) * layers
    return shape.flops(full) / shape.flops(prefill.counts(layers, budget) if prefill else full)


def removed_by(parts: Parts, name: str, budget: int) -> list[int]:
    """Rows that are gone before each layer."""
    prefill, layers = find_prefill(name), len(parts.text.layers)
    return prefill.removed(layers, budget) if prefill else [0] * layers


def build(parts: Parts, keys: list[Key], folder: Path) -> dict[Key, Graph]:
    """A graph per method and rung, all over one weights file."""
    ladder = build_ladder(tuple(sorted({k for _, k in keys})), PROMPT_TOKENS, NEW_TOKENS)
    shared = BUILDING.make_builder(parts, ladder)
    graphs = {}
    for name, budget in keys:
        cache = BUILDING.keep_rows(ladder, find_prefill(name))
        builder = BUILDING.make_builder(parts, ladder, cache)
        builder.store = shared.store
        (graphs[name, budget],) = BUILDING.build(builder, f"prefill_{budget}")
    BUILDING.write_weights(shared, folder)
    return graphs


def count(graph: Graph, folder: Path) -> float:
    model = ir.from_proto(onnx.load_from_string(graph.data))
    infer_shapes(model)
    return flops(model)


class Prompt:
    """One prefill graph with a full prompt of random rows; it writes its cache in place."""

    def __init__(self, graph: Graph, removed: list[int], folder: Path, threads: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.disable_prepacking", "1")  # as the runtime has it
        place = "session.model_external_initializers_file_folder_path"
        options.add_session_config_entry(place, str(folder))
        providers = ["CPUExecutionProvider"]
        self.session = ort.InferenceSession(graph.data, options, providers=providers)
        self.binding = self.session.io_binding()
        outputs = {spec.name for spec in graph.stage.outputs}
        for spec in graph.stage.inputs:
            value = ort.OrtValue.ortvalue_from_numpy(fill(spec, graph, np.array(removed)))
            self.binding.bind_ortvalue_input(spec.name, value)
            if (present := spec.name.replace("past_", "present_")) in outputs:
                self.binding.bind_ortvalue_output(present, value)
                outputs.remove(present)
        for name in outputs:
            self.binding.bind_output(name)

    def run(self) -> None:
        self.session.run_with_iobinding(self.binding)


def fill(spec: Any, graph: Graph, removed: Any) -> Any:
    """An input of a full prompt."""
    rows = next(t.shape[1] for t in graph.stage.inputs if t.name == names.INPUT_EMBEDS)
    value = np.zeros(spec.shape, spec.dtype)
    if spec.name == names.INPUT_EMBEDS:
        value[:] = np.random.default_rng(0).standard_normal(spec.shape, np.float32)
    elif spec.name == names.PAST_LENGTHS:
        value[:] = rows - 1 - removed
    elif spec.name == names.LAST_ROW:
        value[:] = rows - 1 - removed[-1]
    elif spec.name == names.VISUAL_START:
        value[:] = PROMPT_TOKENS // 2
    return value


def measure(prompts: dict[Key, Prompt], rounds: int) -> dict[Key, list[float]]:
    """Milliseconds of each graph in each round; the first round, which warms up, is left out."""
    times: dict[Key, list[float]] = {key: [] for key in prompts}
    for _ in range(rounds + 1):
        for key, prompt in prompts.items():
            started = time.perf_counter()
            prompt.run()
            times[key].append(1e3 * (time.perf_counter() - started))
    return {key: values[1:] for key, values in times.items()}


def row(
    key: Key, guess: float, times: dict[Key, list[float]], work: dict[Key, float]
) -> dict[str, Any]:
    base = PLAIN, key[1]
    ratios = [b / v for v, b in zip(times[key], times[base], strict=True)]
    return {
        "prefill": key[0],
        "visual tokens": key[1],
        "ms": statistics.median(times[key]),
        "predicted": guess,
        "times as fast": statistics.median(ratios),
        "slowest ratio": min(ratios),
        "fastest ratio": max(ratios),
        "GFLOP": work[key] / 1e9,
        "of the plain FLOPs": work[key] / work[base],
    }


if __name__ == "__main__":
    main()
