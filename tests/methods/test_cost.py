"""The stated FLOPs against those that run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from edgetok.methods import METHODS, Method
from edgetok.methods.cost import reckon_flops

KEY_WIDTH, PROMPT_ROWS = 16, 9  # of tests/methods/conftest.py
PRODUCTS = {"mm", "addmm", "bmm"}
# Sorting, moving and naming numbers is no arithmetic.
FREE = {
    *("index_select", "topk", "slice", "cat", "view", "unsqueeze", "expand", "clone", "t"),
    *("transpose", "permute", "arange", "full", "zeros", "ones", "select", "squeeze", "_to_copy"),
    *("stack", "detach", "alias", "_unsafe_view", "constant_pad_nd", "copy_", "full_like", "eye"),
    *("zeros_like", "ones_like", "empty", "lift_fresh", "unbind", "fill_", "scalar_tensor"),
}


class FlopCounter(TorchDispatchMode):
    """Two for each multiplication of a product, one for each number made or read elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        name = function._schema.name.split("::")[1]
        if name in PRODUCTS:
            self.flops += 2 * args[-2].numel() * args[-1].shape[-1]
        elif name not in FREE:
            tensors = [t for t in tree_leaves((args, out)) if isinstance(t, torch.Tensor)]
            self.flops += max((t.numel() for t in tensors), default=0)
        return out


@pytest.mark.parametrize(
    ("grid", "k", "width"), [((16, 16), 32, 24), ((24, 24), 64, 96), ((24, 24), 192, 24)]
)
@pytest.mark.parametrize("method", [m for m in METHODS.values() if m.cost], ids=lambda m: m.name)
def test_stated_flops_are_those_that_run(
    method: Method, grid: tuple[int, int], k: int, width: int, features_of: Any
) -> None:
    n = grid[0] * grid[1]
    k = min(method.budgets(n, grid), key=lambda budget: abs(budget - k))
    features = features_of("random", grid, method.needs, width)
    with FlopCounter() as counter:
        method.compress(features, k).apply(features.rows())
    sizes = {"N": n, "K": k, "D": width, "H": KEY_WIDTH, "T": PROMPT_ROWS}
    stated = reckon_flops(method.cost, **sizes)
    assert stated == pytest.approx(counter.flops, rel=0.3)


def test_every_method_behind_the_tower_states_its_cost() -> None:
    silent = [m.name for m in METHODS.values() if m.where == "behind the tower" and not m.cost]
    assert silent == []


def test_unknown_letters_are_refused() -> None:
    assert reckon_flops("0.5 N³ + 2 K N", N=4, K=3) == 56
    with pytest.raises(ValueError, match="'Q' stands for no size; known are N, K"):
        reckon_flops("2 Q", N=1, K=1)
