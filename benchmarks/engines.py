r"""Which portable graphs TensorRT for RTX takes, built for a GPU that need not be there.

    pip install "edgetok[rtx]"
    python benchmarks/engines.py --weights fp32 int8 --json docs/results/engines.json

The tower and every method's compress graph are parsed and built into an engine. Nothing is run:
that needs a GPU.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import common
import tensorrt_rtx as trt

from edgetok.errors import UsageError
from edgetok.export.external import FILE
from edgetok.export.graphs import Graph, GraphBuilder
from edgetok.families import open_model
from edgetok.families.parts import Parts
from edgetok.ladder import build_ladder
from edgetok.methods import METHODS


class _Silent(trt.ILogger):  # type: ignore[misc]
    """What matters is asked of the parser."""

    def log(self, severity: Any, message: str) -> None:
        if severity <= trt.ILogger.ERROR:
            print(message, file=sys.stderr)


def main() -> None:
    options = common.arguments(
        __doc__, methods=tuple(METHODS), weights=("fp32",), tokens=64, target="SM86"
    )
    parts = open_model(options.model)
    rows = []
    for weights in options.weights:
        for name in options.methods:
            for stage, graph, folder in _graphs(parts, name, weights, options.tokens):
                row = {"method": name, "stage": stage, "weights": weights}
                rows.append(row | _build(graph, folder, options.target))
                print(rows[-1], file=sys.stderr, flush=True)
    common.report(
        f"engines of TensorRT for RTX {trt.__version__}, {options.target}", rows, options.json
    )


def _graphs(parts: Parts, name: str, weights: Any, k: int) -> Iterator[tuple[str, Graph, Path]]:
    """The compress graph of a method, and its tower: probes differ from method to method."""
    try:
        method = METHODS[name].for_tower(parts.vision.prefix_tokens)
    except UsageError as error:
        print(error, file=sys.stderr)
        return
    k = max(b for b in method.budgets(parts.vision.full_tokens, parts.vision.grid) if b <= k)
    builder = GraphBuilder(parts, method, build_ladder((k,), 96, 16), weights, None)
    with tempfile.TemporaryDirectory() as folder:
        for stage, bucket in (("tower", None), ("compress", k)):
            graph = builder.build_one(stage, bucket, "portable")
            (Path(folder) / FILE).parent.mkdir(exist_ok=True)
            (Path(folder) / FILE).write_bytes(b"".join(builder.store.chunks()))
            yield stage, graph, Path(folder)


def _build(graph: Graph, folder: Path, target: str) -> dict[str, Any]:
    path = folder / "graph.onnx"  # beside weights/, which it names
    path.write_bytes(graph.data)
    started, logger = time.monotonic(), _Silent()
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        errors = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        return {"engine": f"parser: {errors[0][:200]}"}
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, target), 0)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        return {"engine": "not built"}
    seconds = round(time.monotonic() - started, 1)
    return {"engine": "built", "KiB": engine.nbytes // 1024, "seconds": seconds}


if __name__ == "__main__":
    main()
