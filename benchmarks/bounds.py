"""What this machine can do at best: bytes that a copy moves, arithmetic of a large product."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import torch

from edgetok.bundle.reader import Bundle

_SIDES = (512, 1024, 2048)  # of square products: the best of them counts


def bandwidth_gb_s() -> float:
    """Gigabytes that a plain copy reads and writes in a second."""
    source = np.ones(32 << 20, np.float64)
    target = np.empty_like(source)
    return 2 * source.nbytes / _best_s(lambda: np.copyto(target, source)) / 1e9


def read_gb_s(count: int, threads: int) -> float:
    """Gigabytes in a second at which `count` bytes are read again and again.

    What fits into a cache of the processor is read from there, as the weights of a small model are.
    """
    values = torch.ones(max(1, count // 4))
    with _threads(threads):
        return count / _best_s(values.sum) / 1e9


def rate_gflop_s(threads: int) -> float:
    """Billions of float32 operations of a square product in a second."""
    with _threads(threads):
        return max(_product_gflop_s(side) for side in _SIDES)


def _product_gflop_s(side: int) -> float:
    square = torch.randn(side, side)
    return 2 * side**3 / _best_s(lambda: torch.mm(square, square)) / 1e9


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def decode_bytes(bundle: Path) -> int:
    """Weight bytes that one decode step reads; the embedding table is read in one row only."""
    opened = Bundle.open(bundle)
    graph = onnx.load_from_string(opened.graph(opened.stage("decode", None))).graph
    read = {name for node in graph.node if node.op_type != "Gather" for name in node.input}
    found = [t for t in graph.initializer if t.external_data and t.name in read]
    return sum(int(e.value) for t in found for e in t.external_data if e.key == "length")


def _best_s(run: Callable[[], object], times: int = 20) -> float:
    found = []
    for _ in range(times):
        started = time.perf_counter()
        run()
        found.append(time.perf_counter() - started)
    return min(found)
