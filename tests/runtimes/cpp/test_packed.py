"""Weights are mapped from the files that were checked, and packed once for all rungs on request."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edgetok

DEMO = Path(__file__).parents[3] / "examples" / "demo_vlm"


@pytest.fixture(scope="module")
def bundle(tiny_vlm, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("packed") / "tiny.bundle"
    return tiny_vlm.write(folder, tiny_vlm.Recipe(stop_ids=()))


def test_packed_weights_answer_as_mapped_ones(library, capi, bundle):
    python = edgetok.load(bundle, threads=1)
    packed = capi.Model(capi.Bundle(library, bundle), packed=True)
    picture = np.random.default_rng(3).integers(0, 256, (9, 14, 3), np.uint8)
    prompt = python.processor.encode("What is this?")
    for budget in python.ladder.budgets:
        want = python.generate(picture, "What is this?", budget=budget)
        found = packed.generate(packed.image(picture), prompt.before, prompt.after, budget=budget)
        assert found.tokens == list(want.token_ids)


@pytest.mark.parametrize("packed", [False, True])
def test_weights_exchanged_after_the_check_are_refused(library, capi, tiny_vlm, tmp_path, packed):
    folder = tiny_vlm.write(tmp_path / "tiny.bundle")
    opened = capi.Bundle(library, folder)
    weights = next((folder / "weights").iterdir())
    other = tmp_path / "other"
    other.write_bytes(bytes(weights.stat().st_size))
    other.replace(weights)
    with pytest.raises(capi.Failure, match="was changed after the bundle was opened") as caught:
        capi.Model(opened, packed=packed)
    assert caught.value.status == 3


def _measure(build: Path, bundle: Path, image: Path, *words: object) -> list[dict[str, float]]:
    """A row per loaded rung, after its answers."""
    packed = [word for word in words if word == "--packed"]
    budgets = [word for word in words if word != "--packed"]
    command = [build / "edgetok-cpp", "measure", *packed, bundle, image, "1 276", "203 318", 3]
    done = subprocess.run(
        [str(word) for word in (*command, *budgets)], stdout=subprocess.PIPE, check=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_rungs_share_what_is_packed(build, tmp_path):
    from edgetok.export.pipeline import export_model

    bundle, image = tmp_path / "demo.bundle", tmp_path / "noise.png"
    noise = np.random.default_rng(0).integers(0, 256, (384, 384, 3), np.uint8)
    Image.fromarray(noise).save(image)
    budgets = "16,64,128,full"
    export_model(DEMO / "checkpoint", bundle, method="visionzip", budgets=budgets, parity_images=1)
    for packed in ([], ["--packed"]):
        smallest, *_, largest = _measure(build, bundle, image, *packed)
        for row in (smallest, largest):
            (alone,) = _measure(build, bundle, image, *packed, row["budget"])
            assert row["resident_bytes"] <= 1.1 * alone["resident_bytes"], (packed, row, alone)
