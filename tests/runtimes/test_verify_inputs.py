"""`verify` makes ids and pixels again, and names what differs from transformers' at export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from edgetok.bundle.golden_inputs import (
    INPUTS_FILE,
    GoldenInputs,
    decode_levels,
    encode_inputs,
    encode_levels,
    load_inputs,
)
from edgetok.bundle.reader import Bundle
from edgetok.bundle.writer import BundleWriter
from edgetok.errors import BundleError
from edgetok.runtimes.checks import Check
from edgetok.runtimes.load import load
from edgetok.runtimes.verify import verify

Rewrite = Callable[[dict[str, bytes | None]], Bundle]


@pytest.fixture
def rewrite(bundle: Path, tmp_path: Path) -> Rewrite:
    """The exported bundle with other bytes in some files; None in place of bytes takes one away."""
    opened = Bundle.open(bundle)

    def write(files: dict[str, bytes | None]) -> Bundle:
        with BundleWriter(tmp_path / "other.bundle") as writer:
            for path in opened.manifest.files:
                data = files.get(path, (bundle / path).read_bytes())
                if data is not None:
                    writer.write(path, data)
            writer.publish(replace(opened.manifest, files={}))
        return Bundle.open(tmp_path / "other.bundle")

    return write


def find_failures(opened: Bundle) -> list[Check]:
    with load(opened, threads=1) as model:
        return list(verify(opened, model).failures)


def test_inputs_of_an_export_are_made_again(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    with load(opened, threads=1) as model:
        checks = verify(opened, model).checks
    count = {what: [c.what for c in checks].count(what) for what in {c.what for c in checks}}
    inputs = load_inputs(opened)
    assert count["ids of texts"] == len(inputs.prompts) > 10
    assert count["ids of later turns"] == len(inputs.turns) > 10
    assert count["pixels of odd pictures"] == len(inputs.pictures) == 6
    assert all(check.passed for check in checks)


def test_older_bundles_have_none(rewrite: Rewrite) -> None:
    opened = rewrite({INPUTS_FILE: None})
    assert load_inputs(opened) == GoldenInputs(prompts=[], turns=[], pictures=[])
    assert find_failures(opened) == []


@pytest.mark.parametrize("kind", ["prompts", "turns"])
def test_other_ids_are_named(rewrite: Rewrite, bundle: Path, kind: str) -> None:
    inputs = load_inputs(Bundle.open(bundle))
    listed = list(getattr(inputs, kind))
    listed[3] = replace(listed[3], ids=[*listed[3].ids[:-1], listed[3].ids[-1] + 1])
    (failed,) = find_failures(
        rewrite({INPUTS_FILE: encode_inputs(replace(inputs, **{kind: listed}))})
    )
    what = {"prompts": "ids of texts", "turns": "ids of later turns"}[kind]
    assert (failed.case, failed.what, failed.value) == ("text 3", what, 1)


def test_other_pixels_are_named(rewrite: Rewrite, bundle: Path) -> None:
    """A single pixel that is two levels off."""
    opened = Bundle.open(bundle)
    picture, vision = load_inputs(opened).pictures[2], opened.manifest.vision
    shape = (vision.parts, vision.height_px, vision.width_px, 3)
    levels = decode_levels(opened.read(picture.levels), shape, picture.levels).copy()
    levels[0, 5, 7, 1] = np.where(levels[0, 5, 7, 1] > 2, levels[0, 5, 7, 1] - 2, 4)
    (failed,) = find_failures(rewrite({picture.levels: encode_levels(levels)}))
    assert (failed.case, failed.what) == (f"picture {picture.kind}", "pixels of odd pictures")


def test_what_the_device_refuses_is_named(rewrite: Rewrite, bundle: Path) -> None:
    """A picture that is none, as it would be for a Pillow without its decoder."""
    picture = load_inputs(Bundle.open(bundle)).pictures[0]
    (failed,) = find_failures(rewrite({picture.image: b"no picture"}))
    assert (failed.case, failed.value) == (f"picture {picture.kind}", float("inf"))


def test_a_list_that_names_other_files_is_refused(rewrite: Rewrite, bundle: Path) -> None:
    inputs = load_inputs(Bundle.open(bundle))
    pictures = [replace(inputs.pictures[0], image="golden/none.png")]
    with pytest.raises(BundleError, match=r"`golden/none.png` is not in the bundle"):
        load_inputs(rewrite({INPUTS_FILE: encode_inputs(replace(inputs, pictures=pictures))}))
