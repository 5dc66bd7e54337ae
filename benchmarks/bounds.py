"""What this machine can do at best: bytes that a copy moves, arithmetic of a large product."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch

from edgetok.bundle.reader import Bundle

_SIDE = 1536  # of the square product: as large as the largest of a prefill


def bandwidth_gb_s() -> float:
    """Gigabytes that a plain copy reads and writes in a second."""
    source = np.ones(32 << 20, np.float64)
    target = np.empty_like(source)
    return 2 * source.nbytes / _best_s(lambda: np.copyto(target, source)) / 1e9


def rate_gflop_s(threads: int) -> float:
    """Billions of float32 operations of a square product in a second."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    side = torch.randn(_SIDE, _SIDE)
    seconds = _best_s(lambda: torch.mm(side, side))
    torch.set_num_threads(before)
    return 2 * _SIDE**3 / seconds / 1e9


def decode_bytes(bundle: Path) -> int:
    """Weight bytes that one decode step reads; the embedding table is read in one row only."""
    opened = Bundle.open(bundle)
    graph = onnx.load_from_string(opened.graph(opened.stage("decode", None))).graph
    read = {name for node in graph.node if node.op_type != "Gather" for name in node.input}
    found = [t for t in graph.initializer if t.external_data and t.name in read]
    return sum(int(e.value) for t in found for e in t.external_data if e.key == "length")


def _best_s(run: Callable[[], object], times: int = 5) -> float:
    found = []
    for _ in range(times):
        started = time.perf_counter()
        run()
        found.append(time.perf_counter() - started)
    return min(found)
