"""The gate's pictures: classes that a plan repeats pass, and those that it does not are named."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from msgspec.structs import replace
from PIL import Image

from edgetok.bundle.processor import ImagePlan
from edgetok.errors import VerificationError
from edgetok.export.parity.inputs import GOLDEN_KINDS, find_levels
from edgetok.export.parity.odd_pictures import make_odd_pictures
from edgetok.export.parity.pictures import LIMIT, PictureReport, compare_pictures
from edgetok.export.pipeline import export_model
from edgetok.families.encoder_images import Processing
from edgetok.families.image_plan import plan_of

CLIP = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}
ALPHA = ["grey-alpha", "alpha", "palette-alpha"]


def compare(kind: str, plan: ImagePlan | None = None, **settings: Any) -> PictureReport:
    """A class of transformers against the plan of its values, or another one."""
    processor = getattr(transformers, kind)(**settings)
    plan = plan or plan_of(processor.to_dict())
    report, _ = compare_pictures(plan, Processing(processor, {}), kind)
    return report


def test_pictures_are_of_all_kinds() -> None:
    opened = {each.kind: Image.open(io.BytesIO(each.data)) for each in make_odd_pictures()}
    assert {"L", "LA", "RGB", "RGBA", "P", "1", "CMYK"} <= {p.mode for p in opened.values()}
    assert {1, 48, 160} <= {side for picture in opened.values() for side in picture.size}
    turned = {kind for kind, picture in opened.items() if picture.getexif().get(0x0112, 1) != 1}
    assert turned == {"turned", "mirrored"}
    assert set(GOLDEN_KINDS) <= opened.keys()
    again = [each.data for each in make_odd_pictures()]
    assert again == [each.data for each in make_odd_pictures()]


def test_a_class_that_the_plan_repeats_passes() -> None:
    report = compare("CLIPImageProcessorPil", **CLIP)
    assert (report.processor, report.compared) == ("CLIPImageProcessorPil", 16)
    assert report.max_abs <= report.limit == LIMIT
    assert report.not_compared == []


def test_what_a_class_refuses_is_reported() -> None:
    """ViT's takes no alpha."""
    report = compare("ViTImageProcessorPil", size={"height": 32, "width": 24})
    assert (report.compared, report.not_compared) == (13, ALPHA)


@pytest.mark.parametrize(
    "changes",
    [
        {"resample": "bilinear"},
        {"crop_px": [32, 31]},
        {"resize_shortest_px": 37},
        {"resize_shortest_px": None, "resize_px": [32, 32], "crop_px": None},
        {"square_rgb": [0, 0, 0]},
        {"mean": [0.48145466, 0.4578275, 0.40822]},
        {"rescale": 1 / 256},
    ],
    ids=str,
)
def test_any_other_plan_is_a_breach(changes: dict[str, Any]) -> None:
    processor = transformers.CLIPImageProcessorPil(**CLIP)
    plan = replace(plan_of(processor.to_dict()), **changes)
    with pytest.raises(
        VerificationError,
        match=r"^the picture '[a-z-]+' has pixels (up to .*, and so more than 1e-06, away from|"
        r"of shape \[1, 3, \d+, \d+\], not of \[1, 3, 32, 32\], the shape of) those of CLIP\w+. "
        r"Nothing was published.*docs/images.md names$",
    ):
        compare("CLIPImageProcessorPil", plan, **CLIP)


@pytest.mark.parametrize(
    ("kind", "reading"),
    [
        ("turned", lambda opened: opened),  # as a class alone would, without `load_image`
        ("alpha", lambda opened: opened.convert("RGB")),
    ],
)
def test_the_way_a_file_is_read_is_compared_too(kind: str, reading: Any) -> None:
    """That pictures are upright and on white makes a difference that the limit sees."""
    processor = transformers.CLIPImageProcessorPil(**CLIP)
    _, compared = compare_pictures(plan_of(processor.to_dict()), Processing(processor, {}), "CLIP")
    (found,) = [each for each in compared if each.picture.kind == kind]
    other = processor(reading(Image.open(io.BytesIO(found.picture.data))), return_tensors="np")
    assert np.abs(other["pixel_values"] - found.pixels).max() > 0.01


def test_levels_are_pixels_before_they_are_normalised() -> None:
    settings = CLIP | {"do_normalize": False, "do_rescale": False}
    plain = transformers.CLIPImageProcessorPil(**settings)
    normalising = transformers.CLIPImageProcessorPil(**CLIP)
    for each in make_odd_pictures():
        opened = Image.open(io.BytesIO(each.data))
        levels, pixels = (
            p(images=opened, return_tensors="np")["pixel_values"] for p in (plain, normalising)
        )
        found = find_levels(pixels, plan_of(normalising.to_dict()))
        np.testing.assert_array_equal(found, levels.transpose(0, 2, 3, 1))


def test_a_checkpoint_of_another_class_is_not_published(model_dir: Path, tmp_path: Path) -> None:
    """LeViT's class resizes to 256/224 of the size that its file says, which no plan knows."""
    model = Path(shutil.copytree(model_dir, tmp_path / "model"))
    config = json.loads((model / "preprocessor_config.json").read_text())
    other = config | {"image_processor_type": "LevitImageProcessor"}
    (model / "preprocessor_config.json").write_text(json.dumps(other))
    out = tmp_path / "out" / "x.bundle"
    out.parent.mkdir()
    with pytest.raises(VerificationError, match="those of LevitImageProcessorPil"):
        export_model(model, out, budgets="full", parity_images=1)
    assert not any((tmp_path / "out").iterdir())
