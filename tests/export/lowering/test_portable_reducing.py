"""Policies of the cache and reduction at prefill in standard operators: proved, shipped, alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import edgetok
from edgetok import names
from edgetok.bundle.buffers import cache_bytes_by_flavour
from edgetok.bundle.reader import Bundle
from edgetok.errors import VerificationError
from edgetok.export.caches.evicting.graphs import SlotCompact, rotation_tables
from edgetok.export.lowering import portable_eviction as portable_packing
from edgetok.export.pipeline import export_model
from edgetok.families import open_model
from edgetok.kv import POLICIES, Policy
from edgetok.kv.policies import lococo, snapkv
from edgetok.kv.stores.slots import quantize_rows
from edgetok.prefill import PREFILL_METHODS
from edgetok.runtimes.runtime.runtime import BundleRuntime
from edgetok.runtimes.verify import verify

BEFORE, ROWS, STEPS = 5, 40, 90  # visual rows begin; of a prompt; more than twice the slots
SMALL = {
    "snapkv": snapkv.with_window(8),
    "pyramidkv": replace(snapkv.with_window(8), capacities=POLICIES["pyramidkv"].capacities),
}
LEARNED = "lococo+learned"
slow = pytest.mark.slow

Export = Callable[..., Path]


def policy_of(name: str) -> Policy:
    """As published, but for windows that a tiny cache has room for."""
    if name == LEARNED:
        generator = torch.Generator().manual_seed(0)
        parts = {"weight": (6, 32, 7), "bias": (6,), "eta": (1,)}
        return lococo.learn(
            {
                f"layers.{layer}.{part}": torch.rand(shape, generator=generator)
                for layer in range(2)
                for part, shape in parts.items()
            }
        )
    return replace(SMALL.get(name, POLICIES[name]), name=name)


def slots_of(name: str) -> int:
    return 60 if name == "pyramidkv" else 40


@pytest.fixture(scope="module")
def export(
    tiny_llava: ModuleType, samples: Path, tmp_path_factory: pytest.TempPathFactory
) -> Export:
    """Bundles by policy or prefill method and precision of the cache, each exported once."""
    model = tmp_path_factory.mktemp("deep") / "model"
    tiny_llava.write_tiny_llava(model)
    made: dict[tuple[str, str], Path] = {}

    def make(name: str, kv: str = "fp32") -> Path:
        if (name, kv) not in made:
            out = made[name, kv] = tmp_path_factory.mktemp("portable") / "x.bundle"
            chosen = {"prefill": name}
            if name in (*POLICIES, LEARNED):
                chosen = {"kv_policy": policy_of(name), "kv_slots": slots_of(name)}
            sizes = {"budgets": "full", "prompt_tokens": 48, "new_tokens": 8, "parity_images": 1}
            more = {"samples": samples, "flavour": "portable"}
            export_model(model, out, kv=kv, **sizes, **chosen, **more)
        return made[name, kv]

    return make


def follow(bundle: Path, flavour: str, steps: int = STEPS) -> np.ndarray:
    """Logits [steps, W] of a prompt and of random tokens behind it."""
    runtime = BundleRuntime(Bundle.open(bundle), threads=1, flavour=flavour)
    random = np.random.default_rng(0)
    rows = random.normal(size=(ROWS, runtime.manifest.text.hidden)).astype(np.float32)
    found = [runtime.prefill(runtime.ladder.largest, rows, visual_start=BEFORE).copy()]
    for token in random.integers(4, 290, min(steps, runtime.rows_left)).tolist():
        found.append(runtime.step(token).copy())
    return np.stack(found)


@pytest.mark.parametrize(
    "name",
    [
        n if n in ("streaming", "visual") else pytest.param(n, marks=slow)
        for n in (*POLICIES, LEARNED)
    ],
)
def test_both_flavours_keep_the_same_rows(name: str, export: Export) -> None:
    """Beyond the cache more than twice over; another row would move logits by units."""
    bundle = export(name)
    want = follow(bundle, "ort")
    assert len(want) == STEPS + 1
    np.testing.assert_allclose(follow(bundle, "portable"), want, atol=1e-4)


@pytest.mark.parametrize(
    "name",
    [n if n in ("fastv",) else pytest.param(n, marks=slow) for n in PREFILL_METHODS],
)
def test_both_flavours_take_the_same_rows_away(name: str, export: Export) -> None:
    bundle = export(name)
    want = follow(bundle, "ort")
    np.testing.assert_allclose(follow(bundle, "portable"), want, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "kv"),
    [
        ("streaming", "int8"),
        pytest.param("streaming", "int4", marks=slow),
        pytest.param("visual", "int4", marks=slow),
        pytest.param("h2o", "int8", marks=slow),
        pytest.param(LEARNED, "int8", marks=slow),
        pytest.param("fastv", "int8", marks=slow),
        pytest.param("yopo", "int8", marks=slow),
        pytest.param("pyramiddrop:0.7", "int8", marks=slow),
    ],
)
def test_rows_with_scales_of_their_own(name: str, kv: str, export: Export) -> None:
    """The gate has compared them with rows rounded one by one; here they must go on and on."""
    bundle = export(name, kv)
    found = follow(bundle, "portable")
    exact = follow(export(name), "portable")
    assert len(found) == len(exact)
    cosines = torch.cosine_similarity(torch.tensor(found), torch.tensor(exact), dim=1)
    assert cosines.mean() > {"int8": 0.98, "int4": 0.7}[kv]
    assert cosines[-20:].mean() > {"int8": 0.98, "int4": 0.7}[kv]  # rounding does not pile up
    model = edgetok.load(bundle, threads=1, flavour="portable")
    assert not verify(Bundle.open(bundle), model).failures


@pytest.mark.parametrize(
    ("name", "kv"),
    [
        ("visual", "fp32"),
        ("fastv", "fp32"),
        ("streaming", "int8"),
        pytest.param("streaming", "int4", marks=slow),
        pytest.param("visual", "int4", marks=slow),
        pytest.param("h2o", "int8", marks=slow),
        pytest.param("pyramidkv", "fp32", marks=slow),
        pytest.param("fastv", "int8", marks=slow),
    ],
)
def test_memory_is_what_the_manifest_says(name: str, kv: str, export: Export, held_bytes) -> None:
    bundle = Bundle.open(export(name, kv))
    sizes = cache_bytes_by_flavour(bundle.manifest)
    for flavour, size in sizes.items():
        assert held_bytes(BundleRuntime(bundle, threads=1, flavour=flavour)) == size
    assert (sizes["portable"] > sizes["ort"]) == (kv != "fp32")  # scales of slots


@pytest.mark.parametrize("name", ["visual", "fastv"])
def test_graphs_hold_standard_operators_only(name: str, export: Export) -> None:
    bundle = Bundle.open(export(name))
    spelled = [stage for stage in bundle.manifest.stages if stage.flavour == "portable"]
    kinds = {stage.stage for stage in spelled}
    assert {"prefill", "decode"} <= kinds and (names.COMPACT in kinds) == (name == "visual")
    for stage in spelled:
        model = onnx.load_model_from_string(bundle.graph(stage))
        assert {node.domain for node in model.graph.node} == {""}
        for value in [*model.graph.input, *model.graph.output]:
            assert value.type.tensor_type.elem_type != onnx.TensorProto.UINT8


@pytest.mark.parametrize("bits", [8, 4])
def test_keys_that_move_get_new_scales(bits: int, model_dir: Path) -> None:
    """Turned by 5 positions after dequantizing, and no scale is left behind."""
    text = open_model(model_dir).text
    keys = torch.randn(text.kv_heads, 3, text.head_dim, generator=torch.Generator().manual_seed(0))
    module = SlotCompact.__new__(SlotCompact)
    torch.nn.Module.__init__(module)
    module.bits = bits
    module.cos, module.sin = rotation_tables(text, 8)
    levels, scales = quantize_rows(keys[None], bits)
    by = torch.full((text.kv_heads, 3), 5)
    rotated, _, new, _ = module._renumbered([levels[0], levels[0], scales[0], scales[0]], by)
    half = text.head_dim // 2
    high = torch.floor(rotated.float() / 16)
    flat = rotated.float()
    if bits == 4:
        flat = torch.cat([flat - 16 * high - 8, high], -1)
    got = (flat * new).numpy()
    frequencies = text.rotary.inv_freq.double().numpy()
    complex_ = keys.numpy()[..., :half] + 1j * keys.numpy()[..., half:]
    moved = complex_ * np.exp(-5j * frequencies)
    want = np.concatenate([moved.real, moved.imag], -1)
    assert np.abs(got - want).max() < {8: 0.05, 4: 0.8}[bits]


def test_a_breach_is_seen(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that are packed without their angles."""
    right = portable_packing.attend_prompt

    def unturned(*given: Any) -> Any:
        *rows, cos, sin = given
        return right(*rows, torch.ones_like(cos), torch.zeros_like(sin))

    monkeypatch.setattr(portable_packing, "attend_prompt", unturned)
    with pytest.raises(VerificationError, match=r"portable (prefill|decode|compact)"):
        export_model(
            *(model_dir, tmp_path / "x.bundle"),
            **{"budgets": "full", "prompt_tokens": 48, "new_tokens": 8, "parity_images": 1},
            **{"kv_policy": policy_of("streaming"), "kv_slots": 40, "flavour": "portable"},
        )
