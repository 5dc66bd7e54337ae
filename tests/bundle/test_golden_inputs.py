"""Golden inputs: what is written is read again, and anything else is refused."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from edgetok.bundle.golden_inputs import decode_levels, encode_levels
from edgetok.errors import BundleError

LEVELS = np.random.default_rng(0).integers(0, 256, (3, 5, 4, 3)).astype(np.uint8)


def test_levels_are_read_as_they_were_written() -> None:
    np.testing.assert_array_equal(decode_levels(encode_levels(LEVELS), LEVELS.shape, "x"), LEVELS)


def pack(picture: Image.Image, form: str = "PNG") -> bytes:
    packed = io.BytesIO()
    picture.save(packed, form)
    return packed.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no picture",
        encode_levels(LEVELS)[:120],
        encode_levels(LEVELS[:2]),
        pack(Image.new("L", (4, 15))),
        pack(Image.new("RGB", (15, 4))),
        pack(Image.new("RGB", (4, 15)), "JPEG"),
        pack(Image.new("RGB", (20000, 20000))),
    ],
    ids=["empty", "text", "cut", "fewer parts", "grey", "turned", "jpeg", "huge"],
)
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(BundleError, match=r"golden/x\.png: "):
        decode_levels(data, LEVELS.shape, "golden/x.png")
