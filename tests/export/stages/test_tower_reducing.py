"""Towers that reduce their rows: graphs against Hugging Face's layers with steps in plain loops."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

import edgetok
from edgetok import names
from edgetok.bundle.manifest import Flavour
from edgetok.bundle.reader import Bundle
from edgetok.errors import UsageError, VerificationError
from edgetok.export.lowering import ort as ort_lowering
from edgetok.export.lowering import portable
from edgetok.export.lowering.flavours import OrtLowering
from edgetok.export.lowering.fusion import fuse
from edgetok.export.lowering.trace import quiet, trace
from edgetok.export.parity import tower_reducing as parity_inside
from edgetok.export.parity.ledger import LIMITS, Ledger
from edgetok.export.parity.undecided import nudged
from edgetok.export.pipeline import export_model
from edgetok.export.reference.tower_reducing import ReducingReference
from edgetok.export.stages import tower_reducing as reducing
from edgetok.families import open_model
from edgetok.families.parts import VisionParts
from edgetok.methods import TOWER_METHODS
from edgetok.methods.inside import Inside
from edgetok.runtimes.load import load
from edgetok.runtimes.verify import verify
from edgetok.tokens import Look, Plan

FORBIDDEN = {"NonZero", "Unique", "If", "Loop", "Scan", "Compress", "ScatterElements"}
FLAVOURS: tuple[Flavour, ...] = ("ort", "portable")
EIGHTIETH = 1e-4  # of the 255 levels of a pixel, in units of a normalised one
RANDOM = 2  # of the pictures that towers are compared on
SMALL = {"prompt_tokens": 64, "new_tokens": 8, "parity_images": 1}


@pytest.fixture(scope="module")
def loops() -> ModuleType:
    path = Path(__file__).parents[2] / "methods/tower_loops.py"
    spec = importlib.util.spec_from_file_location("tower_loops_of_export", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=["clip", "siglip"])
def vision(
    request: pytest.FixtureRequest, tiny_llava: ModuleType, tmp_path_factory: Any
) -> VisionParts:
    """Towers of 36 and of 49 patches, with and without a CLS token, five blocks deep."""
    side_px = {"clip": 48, "siglip": 56}[request.param]
    path = tmp_path_factory.mktemp("model")
    tiny_llava.write_tiny_llava(path, tower=request.param, side_px=side_px, vision_layers=6)
    return open_model(path).vision


def freeze(
    vision: VisionParts, inside: Inside, budget: int, flavour: Flavour = "ort"
) -> onnx.ModelProto:
    attention = (ort_lowering if flavour == "ort" else portable).fused_attention
    tower = reducing.ReducingTower(vision, inside, budget, attention).eval()
    with quiet():
        if flavour == "ort":
            return ir.to_proto(fuse(trace(tower, tower.inputs, tower.outputs, "tower")))
        traced = trace(tower, tower.inputs, tower.outputs, "tower", portable.OPSET)
        return ir.to_proto(portable.lower(traced, "tower", {}))


def with_loops(inside: Inside, loops: ModuleType, name: str) -> Inside:
    """The same schedule, the step itself in plain Python."""

    def reduce(look: Look, keep: int) -> Plan:
        weights, centres, sizes = loops.STEPS[name](look, keep)
        weights = torch.tensor(weights, dtype=torch.float32)
        indices = torch.tensor(centres, dtype=torch.int64)
        return Plan(indices, torch.tensor(sizes).float(), weights.shape[1], weights)

    def observe(look: Look) -> torch.Tensor:
        return torch.tensor(loops.flowcut_score(look)).float()

    return replace(inside, reduce=reduce, observe=observe if inside.observe else None)


def three_budgets(inside: Inside, vision: VisionParts) -> list[int]:
    possible = inside.budgets(reducing.encoder_of(vision))[:-1]
    return sorted({possible[len(possible) * part // 8] for part in (2, 4, 7)})


# Three rounds of soft clusters by squared distance enlarge the last bits of a sum.
TOLERANCE = {"expedit": 5e-4}


def compare(
    vision: VisionParts,
    inside: Inside,
    reference: ReducingReference,
    budgets: Iterable[int],
    flavours: tuple[Flavour, ...],
    decided: int = RANDOM,
    tolerance: float = 1e-5,
) -> None:
    """Towers of some budgets against a reference, on random pictures and on adversarial ones.

    Behind the first `decided` of them, those that PyTorch itself merges otherwise when pixels move
    by millionths are held to the mean over patches, as export does (`parity_inside`); of those
    that are made up, whose patches are all alike, when pixels move by an eightieth of a level.
    """
    for budget in budgets:
        wanted = [(pixels, reference.run(pixels, budget)) for pixels in pictures(vision)]
        for flavour in flavours:
            model = freeze(vision, inside, budget, flavour)
            require_static(model)
            session = ort.InferenceSession(
                model.SerializeToString(), providers=["CPUExecutionProvider"]
            )
            for number, (pixels, want) in enumerate(wanted):
                found = [value.name for value in session.get_outputs()]
                values = session.run(found, {names.PIXELS: pixels.numpy()})
                got = dict(zip(found, values, strict=True))
                made_up = number >= RANDOM
                if number < decided or not is_undecided(
                    reference, pixels, budget, got, want, made_up=made_up
                ):
                    require_equal(got, want, tolerance)


def is_undecided(
    reference: ReducingReference,
    pixels: torch.Tensor,
    budget: int,
    got: Any,
    want: Any,
    *,
    made_up: bool,
) -> bool:
    plain = {name: value.numpy() for name, value in want.items()}
    off, encode = parity_inside._distance(got, plain), SimpleNamespace(encode=reference.run)
    if off <= 1e-4:
        return False
    if not parity_inside.is_undecided(encode, pixels, budget, plain, off):
        moved = nudged(pixels, EIGHTIETH) if made_up else ()
        runs = ({n: v.numpy() for n, v in reference.run(p, budget).items()} for p in moved)
        if all(parity_inside._distance(run, plain) < off / 2 for run in runs):
            return False
    means = [side[names.TOWER_SIZES] @ side[names.FEATURES] for side in (got, plain)]
    np.testing.assert_allclose(means[0], means[1], rtol=0, atol=0.02 * np.abs(means[1]).max())
    return True


def pictures(vision: VisionParts) -> Iterator[torch.Tensor]:
    """Random pixels; nothing; one patch everywhere; and one pixel that outshines all."""
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(RANDOM, 1, 3, *vision.image_px, generator=generator)
    yield from images
    yield torch.zeros_like(images[0])
    side = vision.image_px[0] // vision.grid[0]
    yield images[0, :, :, :side, :side].repeat(1, 1, *vision.grid)
    outlier = images[1].clone()
    outlier[0, :, side + 1, side + 1] = 100.0
    yield outlier


def require_equal(got: Any, want: dict[str, torch.Tensor], tolerance: float) -> None:
    np.testing.assert_array_equal(got[names.TOWER_KEPT], want[names.TOWER_KEPT])
    for value in (names.TOWER_SIZES, names.FEATURES):
        scale = max(1.0, float(want[value].abs().max()))
        np.testing.assert_allclose(got[value], want[value], rtol=0, atol=tolerance * scale)


def require_static(model: onnx.ModelProto) -> None:
    assert not {node.op_type for node in model.graph.node} & FORBIDDEN
    for value in [*model.graph.input, *model.graph.output]:
        dims = value.type.tensor_type.shape.dim
        assert all(dim.HasField("dim_value") for dim in dims), value.name


def compare_with_loops(
    vision: VisionParts, name: str, which: slice, flavours: tuple[Flavour, ...], loops: ModuleType
) -> None:
    inside = TOWER_METHODS[name].inside
    assert inside is not None
    reference = ReducingReference(vision, with_loops(inside, loops, name))
    budgets, tolerance = three_budgets(inside, vision)[which], TOLERANCE.get(name, 1e-5)
    compare(vision, inside, reference, budgets, flavours, tolerance=tolerance)


@pytest.mark.parametrize("name", ["tome", "mctf"])
def test_towers_equal_hugging_face_with_loops(
    name: str, vision: VisionParts, loops: ModuleType
) -> None:
    compare_with_loops(vision, name, slice(1, 2), ("ort",), loops)


@pytest.mark.slow
@pytest.mark.parametrize("name", TOWER_METHODS)
def test_every_tower_does_at_three_budgets_in_both_flavours(
    name: str, vision: VisionParts, loops: ModuleType
) -> None:
    compare_with_loops(vision, name, slice(3), FLAVOURS, loops)


@pytest.mark.slow
@pytest.mark.parametrize("tower", ["clip", "siglip"])
@pytest.mark.parametrize("name", TOWER_METHODS)
def test_towers_of_24_x_24_patches_keep_what_pytorch_keeps(
    name: str, tower: str, tiny_llava: ModuleType, tmp_path: Path
) -> None:
    """The grid of the demo model; the steps are the methods' own, in eager PyTorch.

    Of so many rows, some are all but equally alike in random pictures too.
    """
    tiny_llava.write_tiny_llava(tmp_path, tower=tower, side_px=192, vision_layers=6)
    vision, inside = open_model(tmp_path).vision, TOWER_METHODS[name].inside
    assert inside is not None
    possible = inside.budgets(reducing.encoder_of(vision))
    nearest = {min(possible, key=lambda b, to=k: abs(b - to)) for k in (32, 64, 192)}
    reference = ReducingReference(vision, inside)
    tolerance = TOLERANCE.get(name, 1e-5)
    compare(vision, inside, reference, sorted(nearest), FLAVOURS, 0, tolerance)


def test_all_tokens_are_the_plain_tower(vision: VisionParts) -> None:
    """At K = N nothing is reduced: the features are those of the model itself."""
    inside = TOWER_METHODS["tome"].inside
    assert inside is not None
    pixels = torch.randn(1, 3, *vision.image_px, generator=torch.Generator().manual_seed(3))
    n = vision.full_tokens
    session = ort.InferenceSession(
        freeze(vision, inside, n).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    features, kept, sizes = session.run(None, {names.PIXELS: pixels.numpy()})
    with torch.no_grad():
        out = vision.model(pixels, output_hidden_states=True)
    want = out.hidden_states[len(vision.blocks)][0, vision.prefix_tokens :].numpy()
    np.testing.assert_allclose(features, want, atol=1e-5 * float(np.abs(want).max()))
    assert kept.tolist() == list(range(n)) and sizes.tolist() == [1.0] * n


class Forking:
    """A reference that merges otherwise as soon as a pixel moves, or never."""

    def __init__(self, *, forks: bool) -> None:
        self.forks = forks

    def encode(self, pixels: torch.Tensor, budget: int) -> dict[str, torch.Tensor]:
        first = 1 if self.forks and bool((pixels != 1).any()) else 0
        kept = torch.tensor([first, 3])
        features = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
        sizes = torch.tensor([3.0, 1.0])
        return {names.FEATURES: features, names.TOWER_KEPT: kept, names.TOWER_SIZES: sizes}


@pytest.mark.parametrize("forks", [True, False])
@pytest.mark.parametrize("pooled", [True, False])
def test_only_what_pytorch_leaves_open_may_merge_otherwise(forks: bool, pooled: bool) -> None:
    """A graph that kept another patch passes if PyTorch wavers and the mean agrees."""
    ledger = Ledger(LIMITS["fp32"])
    reference: Any = Forking(forks=forks)
    got = {n: v.numpy() for n, v in reference.encode(torch.ones(1), 2).items()}
    got[names.TOWER_KEPT] = np.array([2, 3])
    got[names.FEATURES] = got[names.FEATURES] * (1 if pooled else [[1, -1], [1, -1]])
    want = reference.encode(torch.ones(1), 2)
    followed = parity_inside.check_reducing_tower(*(ledger, reference, torch.ones(1), 2, got, want))
    assert followed is not forks
    assert all(check.passed for check in ledger.checks()) is (forks and pooled)


class Soft(Forking):
    """A reference of soft groups: rows move with the pixels, by as much as it is told."""

    def __init__(self, *, by: float) -> None:
        super().__init__(forks=False)
        self.by = by

    def encode(self, pixels: torch.Tensor, budget: int) -> dict[str, torch.Tensor]:
        found = super().encode(pixels, budget)
        moved = self.by if bool((pixels != 1).any()) else 0.0
        return found | {names.FEATURES: found[names.FEATURES] + moved}


@pytest.mark.parametrize(("by", "held"), [(2e-3, True), (1e-5, False)])
def test_rows_may_be_off_as_far_as_pytorch_moves_them(by: float, held: bool) -> None:
    ledger = Ledger(LIMITS["fp32"])
    reference: Any = Soft(by=by)
    want = reference.encode(torch.ones(1), 2)
    got = {name: value.numpy() for name, value in want.items()}
    got[names.FEATURES] = got[names.FEATURES] + np.float32(1e-3)
    followed = parity_inside.check_reducing_tower(*(ledger, reference, torch.ones(1), 2, got, want))
    assert followed is not held
    assert all(check.passed for check in ledger.checks()) is held


# --- bundles --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def merged(model_dir: Path, samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with ToMe inside its tower, two rungs."""
    out = tmp_path_factory.mktemp("bundles") / "tome.bundle"
    export_model(model_dir, out, method="tome", budgets="5,full", samples=samples, **SMALL)
    return out


def test_a_bundle_has_a_tower_per_rung_over_one_weights_file(merged: Path) -> None:
    manifest = Bundle.open(merged).manifest
    towers = {s.budget: s for s in manifest.stages if s.stage == "tower"}
    assert sorted(budget for budget in towers if budget) == [5, 16]
    assert {t.name: t.shape for t in towers[5].outputs} == {
        names.FEATURES: [5, 64],
        names.TOWER_KEPT: [5],
        names.TOWER_SIZES: [5],
    }
    assert [path for path in manifest.files if path.startswith("weights/")] == ["weights/model.bin"]
    reducing_one, plain = (matrices_of(merged / towers[budget].file) for budget in (5, 16))
    assert len(reducing_one & plain) >= 12  # six matrices in each of two blocks, stored once
    report = json.loads((merged / "reports/parity.json").read_text())
    assert {c["budget"] for c in report["checks"] if c["stage"] == "tower"} == {5, 16}


def matrices_of(path: Path) -> set[str]:
    """Offsets of the external matrices of a graph."""
    graph = onnx.load(path, load_external_data=False).graph
    return {
        next(entry.value for entry in tensor.external_data if entry.key == "offset")
        for tensor in graph.initializer
        if tensor.external_data and len(tensor.dims) == 2
    }


def test_each_rung_encodes_for_itself(merged: Path) -> None:
    model = edgetok.load(merged)
    image = np.random.default_rng(0).integers(0, 255, (20, 20, 3), dtype=np.uint8)
    small = model.generate(image, "What?", budget=5, max_new_tokens=4)
    large = model.generate(image, "What?", max_new_tokens=4)
    assert len(small.kept) == 5 and large.kept == tuple(range(16))
    assert "tower" in small.timings_ms and small.signals == {}
    encoded = model.encode(image, budget=5)
    assert model.generate(encoded, "What?", budget=5, max_new_tokens=4).token_ids == small.token_ids
    # Another rung starts from the pixels again.
    assert model.generate(encoded, "What?", max_new_tokens=4).token_ids == large.token_ids
    assert model.generate(image, "What?", signal="elbow", max_new_tokens=1).budget == 16
    with pytest.raises(UsageError, match="no rung of 7"):
        model.encode(image, budget=7)


def test_a_rung_loads_without_the_others(merged: Path) -> None:
    image = np.zeros((20, 20, 3), np.uint8)
    alone = load(merged, budgets=(5,))
    assert len(alone.generate(image, "What?", max_new_tokens=2).kept) == 5


def test_verify_passes_on_the_golden_cases(merged: Path) -> None:
    opened = Bundle.open(merged)
    report = verify(opened, load(opened))
    report.require_passed()
    assert {check.budget for check in report.checks if check.what == "kept"} == {5, 16}


@pytest.mark.slow
@pytest.mark.parametrize(("tower", "method"), [("clip", "tome"), ("siglip", "crossget-b")])
def test_quantized_towers_merge_too(
    tower: str, method: str, tiny_llava: ModuleType, samples: Path, tmp_path: Path
) -> None:
    model = tiny_llava.write_tiny_llava(tmp_path / "model", tower=tower)
    out = tmp_path / "q.bundle"
    options = {"weights": "int8", "kv": "int8", "samples": samples, **SMALL}
    report = export_model(model, out, method=method, budgets="6,full", **options)
    assert all(check["passed"] for check in report.parity["checks"])
    image = np.zeros((20, 20, 3), np.uint8)
    assert len(edgetok.load(out).generate(image, "What?", budget=6, max_new_tokens=2).kept) == 6


# Of 16 patches in 4 rows of 4, in a tower of two blocks.
UNMEETABLE = {
    "fopru-row": (7, "4 or 8"),  # whole rows of the grid
    "llavolta": (5, "4 or 8"),  # runs of equal length
    "vflowopt": (2, "5"),  # its quarters
    "recoverable": (1, "3"),  # a kept, a centre and the rest
    "visionzip": (1, "2"),  # a kept and a merged token
    "tome": (3, "4"),  # half of the rows in each block
    "mctf": (4, "9"),  # and ten rows at least
    "evit": (1, "2"),  # one place is the sum's
    "mustdrop-windows": (10, "8 or 16"),  # eight less for each window
    "expedit": (6, "4 or 9"),  # cells in the grid's proportions
}


@pytest.mark.parametrize("name", UNMEETABLE)
def test_export_names_the_budgets_nearest_to_one_that_cannot_be_met(
    name: str, model_dir: Path, tmp_path: Path
) -> None:
    budget, nearest = UNMEETABLE[name]
    with pytest.raises(UsageError, match=f"{name} cannot make {budget} of 16.*is {nearest}$"):
        export_model(model_dir, tmp_path / "x.bundle", method=name, budgets=[budget, 16], **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_breach_of_a_merge_publishes_nothing(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attention that forgets the sizes is what a porting mistake looks like."""
    right = ort_lowering.fused_attention
    wrong = staticmethod(lambda q, k, v, s, _: right(q, k, v, s, None))
    monkeypatch.setattr(OrtLowering, "fused_attention", wrong)
    with pytest.raises(VerificationError, match="features"):
        export_model(model_dir, tmp_path / "x.bundle", method="tome", budgets="5", **SMALL)
    assert list(tmp_path.iterdir()) == []
