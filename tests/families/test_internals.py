"""What edgetok uses of transformers' insides, on the version that is installed."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaModel

from edgetok.families.internals import (
    DynamicCache,
    find_attention,
    name_cache_argument,
    register_attention,
    using_attention,
)

ROOT = Path(__file__).parents[2]
MOVING = {"DynamicCache", "ALL_ATTENTION_FUNCTIONS", "ALL_MASK_ATTENTION_FUNCTIONS", "Cache"}


def tiny() -> LlamaModel:
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 8}
    torch.manual_seed(0)
    return LlamaModel(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=2)).eval()


def test_one_module_imports_what_moves() -> None:
    importing = set()
    for path in (*ROOT.glob("export/**/*.py"), *ROOT.glob("edgetok/families/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            moved = isinstance(node, ast.ImportFrom) and MOVING & {n.name for n in node.names}
            if moved and (node.module or "").startswith("transformers"):
                importing.add(path.name)
    assert importing == {"internals.py"}


@torch.no_grad()
def test_a_cache_under_its_name_gives_what_a_whole_prompt_gives() -> None:
    model, ids = tiny(), torch.tensor([[1, 2, 3, 4]])
    cache = DynamicCache()
    told: dict[str, Any] = {name_cache_argument(model): cache, "use_cache": True}
    model(ids[:, :3], **told)
    assert cache.get_seq_length() == 3 and cache.layers[1].keys.shape == (1, 2, 3, 16)
    last = model(ids[:, 3:], **told).last_hidden_state[0, 0]
    torch.testing.assert_close(last, model(ids, use_cache=False).last_hidden_state[0, -1])
    assert name_cache_argument(model.layers[0]) == name_cache_argument(model.layers[0].self_attn)


@torch.no_grad()
def test_attention_is_routed_for_a_time() -> None:
    model, seen = tiny(), []

    def attend(module: Any, query: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, None]:
        seen.append(query.shape)
        return torch.zeros_like(query).transpose(1, 2), None

    register_attention("counted", attend)
    before = model.config._attn_implementation
    with pytest.raises(ZeroDivisionError), using_attention(model.config, "counted"):
        assert find_attention(model.config) is attend
        model(torch.tensor([[1, 2]]))
        raise ZeroDivisionError
    assert seen == [(1, 2, 2, 16)] * 2
    assert model.config._attn_implementation == before
