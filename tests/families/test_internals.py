"""What edgetok uses of transformers' insides, on the version that is installed.

`CALLS` are the calls that releases make, as their sources have them, so that each is answered
whichever version is installed; the last ones carry what no release passes yet.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import (
    DPTConfig,
    DPTForDepthEstimation,
    Gemma3TextConfig,
    Gemma3TextModel,
    Lfm2Config,
    Lfm2Model,
    LlamaConfig,
    LlamaModel,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLForConditionalGeneration,
)

from edgetok.families import internals

ROOT = Path(__file__).parents[2]
SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 8,
    "num_attention_heads": 2, "num_key_value_heads": 1,
}  # fmt: skip
# transformers.<module>: where it may be imported, beside internals.py.
PUBLIC = {
    "transformers.utils": {"loading.py"},  # logging
    "transformers.image_transforms": {"parts.py"},
    "transformers.image_utils": {"pictures.py"},
}
LIGHT = {
    "transformers.utils.chat_template_utils": {"render_template.py"}
}  # a process without torch


def tiny() -> Any:
    torch.manual_seed(0)
    return LlamaModel(LlamaConfig(**SIZES)).eval()


def sources() -> list[Path]:
    folders = ("export/**/*.py", "edgetok/families/*.py", "runtimes/**/*.py", "calibration/*.py")
    return [path for folder in folders for path in ROOT.glob(folder)]


def test_one_module_knows_what_moves() -> None:
    """Classes come from `transformers` itself; what stands below it, and caches, from here."""
    for path in sources():
        if path.name == "internals.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                assert node.attr != "_attn_implementation", path
            if not isinstance(node, ast.ImportFrom) or not node.module:
                continue
            if node.module.startswith("transformers."):
                assert path.name in (PUBLIC | LIGHT)[node.module], (path, node.module)
            if node.module == "transformers":
                assert not any(n.name.endswith("Cache") for n in node.names), path


# Caches


@torch.no_grad()
def test_a_cache_under_its_name_gives_what_a_whole_prompt_gives() -> None:
    model, ids = tiny(), torch.tensor([[1, 2, 3, 4]])
    cache = internals.DynamicCache()
    told: dict[str, Any] = {internals.name_cache_argument(model): cache, "use_cache": True}
    model(ids[:, :3], **told)
    assert cache.get_seq_length() == 3 and cache.layers[1].keys.shape == (1, 1, 3, 16)
    last = model(ids[:, 3:], **told).last_hidden_state[0, 0]
    torch.testing.assert_close(last, model(ids, use_cache=False).last_hidden_state[0, -1])
    layer = model.layers[0]
    assert internals.name_cache_argument(layer) == internals.name_cache_argument(layer.self_attn)


@torch.no_grad()
def test_a_cache_begins_as_a_decoder_begins_its_own() -> None:
    kinds = ["sliding_attention", "full_attention"]
    config = Gemma3TextConfig(**SIZES, head_dim=16, sliding_window=2, layer_types=kinds)
    model = Gemma3TextModel(config).eval()
    own = model(torch.tensor([[1, 2, 3, 4]]), use_cache=True)
    theirs = getattr(own, "cache", None) or own.past_key_values
    begun = internals.begin_cache(model)
    assert [type(layer) for layer in begun.layers] == [type(layer) for layer in theirs.layers]


class Halved(internals.StoringCache):
    def store(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        assert layer == 0
        return keys / 2, values / 2


# Rows [1, G, n, H] of a layer: up to 5.23, with a fourth one up to 5.4, from 5.24 on.
UPDATES: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "5.20": ((0,), {}),
    "5.3": ((0, {"sin": None}), {}),
    "5.24": ((0,), {"kwargs": {"use_cache": True}}),
    "by name": ((), {"layer_idx": 0}),
    "not yet": ((0,), {"unheard_of": 1}),
}


@pytest.mark.parametrize("release", UPDATES)
def test_rows_enter_caches_however_a_release_hands_them_over(release: str) -> None:
    more, told = UPDATES[release]
    rows, cache = torch.ones(1, 1, 2, 4), Halved()
    assert torch.equal(cache.update(rows, 3 * rows, *more, **told)[1], 3 * rows)
    keys, values = cache.update(rows, 3 * rows, *more, **told)
    assert torch.equal(keys, torch.full((1, 1, 4, 4), 0.5)) and (values == 1.5).all()
    passed = internals.TracedCache().update(rows, 3 * rows, *more, **told)
    assert torch.equal(passed[0], rows) and torch.equal(passed[1], 3 * rows)


class Recorded(internals.TracedCache):
    def __init__(self) -> None:
        self.rows: list[Tensor] = []

    def convolve(self, rows: Tensor) -> Tensor:
        self.rows.append(rows)
        return torch.cat([torch.zeros(1, rows.shape[1], 2), rows], dim=2)


# How a short convolution asks for a state, and hands rows over.
CONVOLUTIONS: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {
    "5.20": ("has_previous_state", (0,), {}),
    "5.21": ("get_conv_state", (0,), {"state_idx": 0}),
    "not yet": ("get_conv_state", (0, 0), {"unheard_of": 1}),
}


@pytest.mark.parametrize("release", CONVOLUTIONS)
def test_rows_of_convolutions_are_handed_over_whatever_a_release_asks(release: str) -> None:
    question, place, told = CONVOLUTIONS[release]
    cache, rows = Recorded(), torch.ones(1, 3, 1)
    assert not getattr(cache, question)(*place, **told)
    seen = cache.update_conv_state(rows, *place, conv_kernel_size=3, **told)
    assert seen.shape == (1, 3, 3) and torch.equal(cache.rows[0], rows)


@torch.no_grad()
@pytest.mark.parametrize("count", [1, 5])
def test_layers_ask_a_traced_cache_for_nothing_else(count: int) -> None:
    """The installed release, rows one by one too: zeros before the first are what it pads with."""
    torch.manual_seed(0)
    kinds = ["conv", "full_attention"]
    config = Lfm2Config(**SIZES, conv_L_cache=3, layer_types=kinds, block_auto_adjust_ff_dim=False)
    model, rows = Lfm2Model(config).eval(), torch.randn(1, count, 32)
    cos, sin = model.rotary_emb(rows, position_ids=torch.arange(count)[None])
    cache, given = Recorded(), {"position_embeddings": (cos, sin), "attention_mask": None}
    for layer in model.layers:
        told = {internals.name_cache_argument(layer): cache}
        torch.testing.assert_close(layer(rows, **told, **given), layer(rows, **given))
    assert [rows.shape for rows in cache.rows] == [(1, 32, count)]


# Attention


@torch.no_grad()
def test_attention_is_routed_for_a_time() -> None:
    model, seen = tiny(), []

    def attend(_: Any, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        seen.append((query.shape, key.shape, value.shape, scaling))
        return torch.zeros_like(query).transpose(1, 2)

    internals.register_attention("counted", attend)
    before = model.config._attn_implementation
    with pytest.raises(ZeroDivisionError), internals.using_attention(model.config, "counted"):
        model(torch.tensor([[1, 2]]))
        raise ZeroDivisionError
    assert seen == [((1, 2, 2, 16), (1, 1, 2, 16), (1, 1, 2, 16), 0.25)] * 2
    assert model.config._attn_implementation == before


@pytest.mark.parametrize(
    "told",
    [{}, {"scaling": None}, {"dropout": 0.0, "is_causal": True}, {"unheard_of": 1}],
    ids=str,
)
def test_registered_attention_takes_what_it_does_not_know(told: dict[str, Any]) -> None:
    internals.register_attention("echo", lambda _m, query, _k, _v, scaling: query * scaling)
    attend, rows = internals.ALL_ATTENTION_FUNCTIONS["echo"], torch.ones(1, 2, 3, 4)
    out, maps = attend(torch.nn.Identity(), rows, rows, rows, None, **told)
    assert torch.equal(out, rows / 2) and maps is None


def towers() -> dict[str, Any]:
    """An attention module of each file whose attention is run apart of its model."""
    torch.manual_seed(0)
    vision = {"depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 32}
    vision |= {"out_hidden_size": 32, "patch_size": 4, "fullatt_block_indexes": [1]}
    more = {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4}
    text = SIZES | {"rope_parameters": rope, "head_dim": 16}
    qwen, newer = Qwen2_5_VLForConditionalGeneration, Qwen3VLForConditionalGeneration
    told = newer.config_class(text_config=text, vision_config=vision | more)
    depth = DPTConfig(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32,
        image_size=16, patch_size=4, backbone_out_indices=[0, 1, 2, 3], fusion_hidden_size=8,
        neck_hidden_sizes=[8, 8, 8, 8],
    )  # fmt: skip
    return {
        "qwen2_5_vl": qwen(qwen.config_class(text_config=text, vision_config=vision)).model.visual,
        "qwen3_vl": newer(told).model.visual,
        "dpt": DPTForDepthEstimation(depth).dpt,
    }


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {name: model.eval() for name, model in towers().items()}


@torch.no_grad()
@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "dpt"])
def test_attention_is_run_apart_of_its_model(models: dict[str, Any], name: str) -> None:
    model = models[name]
    attention = (
        model.encoder.layer[0].attention.attention if name == "dpt" else model.blocks[0].attn
    )
    query, key, value = torch.randn(3, 1, 2, 5, 16)
    mask = torch.randn(1, 1, 1, 5)
    want = ((query @ key.transpose(2, 3) / 4 + mask).softmax(-1) @ value).transpose(1, 2)
    with internals.using_attention(model.config, "eager"):
        got, maps = internals.run_attention(attention, query, key, value, mask)
    torch.testing.assert_close(got.reshape(want.shape), want)
    assert maps is not None and maps.shape == (1, 2, 5, 5)


# Rotation and places


@torch.no_grad()
def test_queries_arrive_unrotated_for_a_time() -> None:
    model, seen = tiny(), []
    internals.register_attention(
        "kept", lambda _m, query, _k, _v, _s: seen.append(query) or torch.zeros(1, 3, 2, 16)
    )
    layer, rows = model.layers[0], torch.randn(1, 3, 32)
    angles = model.rotary_emb(rows, position_ids=torch.arange(3)[None])
    with internals.using_attention(model.config, "kept"):
        with internals.without_rotation([layer]):
            layer(rows, position_embeddings=angles, attention_mask=None)
        layer(rows, position_embeddings=angles, attention_mask=None)
    plain = layer.self_attn.q_proj(layer.input_layernorm(rows)).reshape(1, 3, 2, 16)
    torch.testing.assert_close(seen[0], plain.transpose(1, 2))
    assert not torch.allclose(seen[1], seen[0])


@torch.no_grad()
@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_a_tower_turns_halves(models: dict[str, Any], name: str) -> None:
    rows, angles = torch.randn(3, 2, 16), torch.randn(3, 8).repeat(1, 2)
    turned = torch.cat([-rows[..., 8:], rows[..., :8]], dim=-1)
    want = rows * angles.cos()[:, None] + turned * angles.sin()[:, None]
    attention = models[name].blocks[0].attn
    query, key = internals.rotate_vision(attention, rows, 2 * rows, angles.cos(), angles.sin())
    torch.testing.assert_close(query, want)
    torch.testing.assert_close(key, 2 * want)


def test_windows_are_read_one_after_another() -> None:
    """Windows of 2 x 2 groups over 4 lines and 2 columns of groups of 2 x 2 patches of 4 px."""
    order = internals.find_window_order(8, 4, cell=2, window_px=16, patch_px=4)
    assert order.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    order = internals.find_window_order(4, 8, cell=2, window_px=16, patch_px=4)
    assert order.tolist() == [0, 1, 4, 5, 2, 3, 6, 7]


def test_places_of_the_tables_own_grid_are_its_rows(models: dict[str, Any]) -> None:
    """Group by group: 2 x 2 patches of each."""
    tower = models["qwen3_vl"]
    rows = internals.interpolate_places(tower, 4, 4)
    order = [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]
    torch.testing.assert_close(rows, tower.pos_embed.weight.detach()[order])


def test_a_patch_processor_cuts_what_has_its_size() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 4, 3), np.uint8)
    told = {"do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    processor = internals.open_patch_processor(4, told | {"do_rescale": True})
    out = processor(images=Image.fromarray(pixels), max_num_patches=2, return_tensors="pt")
    want = (pixels.reshape(2, 48) / 255 - 0.5) / 0.5
    np.testing.assert_allclose(out["pixel_values"][0].numpy(), want, atol=1e-6)
