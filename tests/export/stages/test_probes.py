"""What the tower's graph says of other blocks is what Hugging Face's attention maps say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

from edgetok import names
from edgetok.errors import UsageError
from edgetok.export.lowering import ort as ort_lowering
from edgetok.export.lowering import portable
from edgetok.export.lowering.fusion import fuse
from edgetok.export.lowering.trace import OPSET, quiet, trace
from edgetok.export.reference.model import Reference
from edgetok.export.stages import probes
from edgetok.export.stages.tower import Tower
from edgetok.families import open_model
from edgetok.methods import METHODS, find_method
from edgetok.tokens import Features

OF_ANY_TOWER = (
    names.KEYS,
    names.RECEIVED_ATTENTION,
    names.OBJECT_ATTENTION,
    names.GLOBAL_ATTENTION,
    names.NEXT_KEYS,
    names.FLOW_SCORE,
)
OF_CLS = (
    names.CLS_ATTENTION,
    names.EARLY_CLS_ATTENTION,
    names.LATE_CLS_ATTENTION,
    names.NEXT_CLS_ATTENTION,
    names.NEXT_CLS_LOGITS,
    names.NEXT_WIDE_ATTENTION,
    names.CLS_FEATURE,
)


@pytest.mark.parametrize(
    ("tower", "needs"), [("clip", OF_ANY_TOWER + OF_CLS), ("siglip", OF_ANY_TOWER)]
)
@pytest.mark.parametrize("flavour", ["ort", "portable"])
def test_probes_equal_the_attention_maps(
    flavour: str, tower: str, needs: tuple[str, ...], tiny_llava: ModuleType, tmp_path: Path
) -> None:
    parts = open_model(tiny_llava.write_tiny_llava(tmp_path / "model", tower=tower))
    pixels = torch.randn(3, 1, 3, 32, 32)
    if flavour == "ort":
        model = fuse(_trace(Tower(parts.vision, needs, ort_lowering.TowerAttention), pixels))
    else:
        stage = Tower(parts.vision, needs, portable.TowerAttention)
        model = portable.lower(_trace(stage, pixels, portable.OPSET), "tower", {})
        assert {node.domain for node in model.graph} == {""}
    graph = ir.to_proto(model).SerializeToString()
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    reference = Reference(parts, replace(METHODS["pool"], needs=needs))
    for image in pixels:
        got = session.run(list(needs), {names.PIXELS: image.numpy()})
        want = reference.encode(image)
        for name, value in zip(needs, got, strict=True):
            assert value.shape == tuple(want[name].shape), name
            np.testing.assert_allclose(value, want[name], atol=2e-5, err_msg=name)


def _trace(stage: Tower, pixels: torch.Tensor, opset: int = OPSET) -> ir.Model:
    with quiet():
        return trace(stage.eval(), {names.PIXELS: pixels[0]}, stage.outputs, "tower", opset)


def test_global_attention_asks_the_most_attended() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 2, 101, 8, generator=generator)
    query[..., 0] = key[:, :, 41, 0] = 8.0  # patch 40, behind one CLS row, draws nearly everything
    found = probes.probe_global(query, key, 1.0, prefix_tokens=1)
    maps = torch.softmax(query[0] @ key[0].transpose(1, 2), -1).mean(0)[1:, 1:]
    assert maps.mean(0)[40] > probes.GLOBAL_FACTOR * maps.mean()
    torch.testing.assert_close(found, maps[40])


def test_blocks_are_those_of_the_papers_on_clip_large(model_dir: Path) -> None:
    vision = open_model(model_dir).vision
    large = replace(vision, blocks=vision.blocks[:1] * 23)  # LLaVA runs 23 of the 24
    assert (list(large.late_blocks), large.object_block) == (list(range(16, 23)), 8)
    assert (list(vision.late_blocks), vision.object_block) == ([1], 0)


def test_the_cls_free_form_ranks_by_received_attention() -> None:
    scores = torch.rand(16, generator=torch.Generator().manual_seed(3))
    method = find_method("fastervlm").for_tower(0)
    features = Features(torch.rand(16, 4), (4, 4), {names.RECEIVED_ATTENTION: scores})
    assert method.needs == (names.RECEIVED_ATTENTION,)
    assert method.verdict == "own formulation"
    kept = method.compress(features, 5).indices.tolist()
    assert kept == sorted(scores.topk(5).indices.tolist())
    assert find_method("fastervlm").for_tower(1) is METHODS["fastervlm"]
    assert find_method("fopru").for_tower(0) is METHODS["fopru"]


def test_what_only_a_cls_token_tells_is_refused_without_one() -> None:
    with pytest.raises(UsageError, match=r"vtc-cls reads late_cls_attention.*has no CLS token"):
        find_method("vtc-cls").for_tower(0)
