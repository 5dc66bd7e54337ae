"""What graphs look like: fused, static, free of control flow and of traces of the machine."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
import torch

from edgetok import names
from edgetok.errors import UsageError
from edgetok.export.cases import Case
from edgetok.export.reference.model import Reference
from edgetok.export.stages.decoder import rotary_tables
from edgetok.families import open_model
from edgetok.ladder import build_ladder
from edgetok.methods import METHODS, Method, find_method

FORBIDDEN = {"NonZero", "Unique", "If", "Loop", "Scan", "Compress"}


def _graphs(bundle: Path) -> dict[str, onnx.ModelProto]:
    files = sorted((bundle / "onnx/ort").glob("*.onnx"))
    return {file.stem: onnx.load(file, load_external_data=False) for file in files}


def test_decode_step_is_fused(bundle: Path) -> None:
    """Per layer: packed projection, attention, output, gate, up, down, and few small nodes."""
    decode = Counter(node.op_type for node in _graphs(bundle)["decode"].graph.node)
    layers = 2
    assert decode["GroupQueryAttention"] == layers
    assert decode["MatMul"] == 5 * layers  # q, k and v are one
    assert decode["SkipSimplifiedLayerNormalization"] == 2 * layers - 1
    assert decode["QuickGelu"] == layers
    assert not {"Sigmoid", "Cos", "Sin", "Neg", "Concat", "Pow", "Reshape"} & decode.keys()
    assert sum(decode.values()) <= 10 * layers + 7


def test_graphs_are_static_and_free_of_control_flow(bundle: Path) -> None:
    for name, model in _graphs(bundle).items():
        assert not FORBIDDEN & {node.op_type for node in model.graph.node}, name
        for value in [*model.graph.input, *model.graph.output]:
            dims = value.type.tensor_type.shape.dim
            assert all(dim.HasField("dim_value") for dim in dims), (name, value.name)


def test_graphs_tell_nothing_of_the_machine(bundle: Path) -> None:
    for file in (bundle / "onnx/ort").glob("*.onnx"):
        data = file.read_bytes()
        for secret in (b"/home", b"/tmp", b"site-packages", b".py", str(Path.cwd()).encode()):
            assert secret not in data, (file.name, secret)


def test_tied_embedding_is_stored_once(bundle: Path) -> None:
    """Embed, decode and the head of prefill point at one place of the weights file."""
    places = []
    for name in ("embed", "decode", "prefill_4"):
        for tensor in _graphs(bundle)[name].graph.initializer:
            where = {entry.key: entry.value for entry in tensor.external_data}
            if where and list(tensor.dims)[1:] == [64] and tensor.dims[0] > 256:
                places.append(where["offset"])
    assert len(places) >= 3 and len(set(places)) == 1


def test_rotary_tables_equal_the_model(model_dir: Path) -> None:
    text = open_model(model_dir).text
    cos, sin = rotary_tables(text, 40)
    inverse = 10000.0 ** -(torch.arange(8, dtype=torch.float64) / 8)
    angles = torch.arange(40, dtype=torch.float64)[:, None] * inverse
    torch.testing.assert_close(cos.double(), angles.cos(), atol=1e-5, rtol=0)
    torch.testing.assert_close(sin.double(), angles.sin(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", ["fastervlm", "visionzip", "random", "pool"])
def test_kept_tokens_equal_torch_on_many_images(
    building: ModuleType, model_dir: Path, tmp_path: Path, method: str
) -> None:
    """The acceptance runs 500 real scenes (benchmarks/parity.py); here 20 random images."""
    _compare_kept(building, model_dir, tmp_path, find_method(method))


@pytest.mark.slow
@pytest.mark.parametrize("tower", ["clip", "siglip"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_what_torch_keeps(
    building: ModuleType, tiny_llava: ModuleType, tmp_path: Path, method: str, tower: str
) -> None:
    path = tiny_llava.write_tiny_llava(tmp_path / "model", tower=tower)
    try:
        form = find_method(method).for_tower(open_model(path).vision.prefix_tokens)
    except UsageError:
        pytest.skip("reads what only a CLS token tells")
    _compare_kept(building, path, tmp_path, form)


def _compare_kept(building: ModuleType, model_dir: Path, tmp_path: Path, method: Method) -> None:
    parts = open_model(model_dir)
    reference = Reference(parts, method)
    possible = [budget for budget in method.budgets(16, (4, 4)) if 4 <= budget < 16]
    ladder = build_ladder((possible[0], possible[len(possible) // 2]), 32, 4)
    builder = building.make_builder(parts, ladder, method=method)
    runner = building.run_graphs(builder, tmp_path, builder.build(lambda *_: None))
    images = torch.randn(20, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for number, pixels in enumerate(images):
        ids = [1, *range(4 + number, 12 + number)]  # other words for each image
        case = Case(b"", "", "", pixels, ids[:2], ids[2:], range(3, 8))
        seen = runner.run("tower", None, {names.PIXELS: pixels.numpy()})
        seen |= runner.read_prompt(ids, case.question)
        for budget in ladder.budgets:
            want = reference.compress(reference.look(case), budget)
            got = runner.run("compress", budget, seen)
            np.testing.assert_array_equal(got[names.KEPT], want[names.KEPT].numpy())
            np.testing.assert_allclose(
                got[names.VISUAL_TOKENS], want[names.VISUAL_TOKENS].numpy(), atol=1e-4
            )
