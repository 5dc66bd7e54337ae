"""The demo model with compressors inside its tower: bundles answer as eager PyTorch does."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import edgetok
from edgetok.bundle.reader import Bundle
from edgetok.calibration.samples import Sample
from edgetok.export.cases import make_cases
from edgetok.export.pipeline import export_model
from edgetok.export.reference.model import Reference
from edgetok.families import open_model
from edgetok.methods import find_method
from edgetok.runtimes.verify import verify

FOLDER = Path(__file__).parents[2] / "examples" / "demo_vlm"
CHECKPOINT = FOLDER / "checkpoint"
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Sample]]:
    """Five questions of the calibrate split, one of each kind."""
    sys.path.insert(0, str(FOLDER))
    try:
        from make import make_samples

        folder, samples = tmp_path_factory.mktemp("scenes"), []
        for scene, questions in make_samples("calibrate", 5, 2):
            image = folder / f"{scene.seed}.png"
            Image.fromarray(scene.pixels).save(image)
            samples += [Sample(image, q.prompt, q.answer, q.kind) for q in questions]
        yield samples
    finally:
        sys.path.remove(str(FOLDER))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tome", "pitome", "topk"])
def test_bundles_that_merge_inside_the_tower_answer_as_pytorch_does(
    name: str, asked: list[Sample], tmp_path: Path
) -> None:
    out, options = tmp_path / "inside.bundle", {"parity_images": 1, "new_tokens": 12}
    report = export_model(CHECKPOINT, out, method=name, budgets="64", **options)
    assert all(check["passed"] for check in report.parity["checks"])
    bundle, model = Bundle.open(out), edgetok.load(out)
    verify(bundle, model).require_passed()
    parts = open_model(CHECKPOINT)
    method: Any = find_method(name).for_tower(parts.vision.prefix_tokens, len(parts.vision.blocks))
    reference = Reference(parts, method)
    right = 0
    for sample, case in zip(asked, make_cases(parts, asked), strict=True):
        seen = reference.compress(reference.look(case, 64), 64)
        embeds = reference.embed(case.before, seen["visual_tokens"], case.after)
        want = reference.answer(embeds, 12).ids
        found = model.generate(sample.image, sample.prompt, max_new_tokens=12)
        stops = parts.text.stop_ids
        assert list(found.token_ids) == [i for i in want if i not in stops] or (
            list(found.token_ids) == want
        )
        right += found.text.strip().lower() == str(sample.answer).lower()
    assert right >= 1  # it reads pictures: a broken chain answers none of the five
