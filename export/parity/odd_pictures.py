"""Pictures of the kinds that people send, made from a fixed seed.

No squares of RGB alone: thin, small and wide ones, grey and transparent ones, palettes, and what a
phone turned on its side.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

_BANDS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}
_ORIENTATION = 0x0112  # the number of EXIF's field


@dataclass(frozen=True)
class OddPicture:
    """A file that shows one kind; the kind is fit for a file's name."""

    kind: str
    suffix: str
    data: bytes


def make_odd_pictures() -> list[OddPicture]:
    """One file of each kind; the same bytes every time that the same Pillow packs them."""
    return [
        _pack("wide", _draw("RGB", 160, 40)),
        _pack("tall", _draw("RGB", 40, 160)),
        _pack("small", _draw("RGB", 9, 7)),
        _pack("large", _draw("RGB", 500, 333), "JPEG"),
        _pack("line", _draw("RGB", 48, 1)),
        _pack("column", _draw("RGB", 1, 48)),
        _pack("point", _draw("RGB", 1, 1)),
        _pack("grey", _draw("L", 61, 43)),
        _pack("black-and-white", _draw("L", 50, 38).convert("1")),
        _pack("grey-alpha", _draw("LA", 43, 61)),
        _pack("alpha", _draw("RGBA", 90, 50)),
        _pack("palette", _draw("RGB", 50, 70).quantize(16)),
        _pack("palette-alpha", _draw("RGB", 50, 70).quantize(8), transparency=2),
        _pack("cmyk", _draw("CMYK", 70, 52), "JPEG"),
        _pack("turned", _draw("RGB", 80, 50), "JPEG", exif=_turn(6)),
        _pack("mirrored", _draw("RGB", 50, 80), exif=_turn(7)),
    ]


def _draw(mode: str, width: int, height: int) -> Image.Image:
    """Waves, the same in no two bands or corners, with noise that shows how pixels are mixed."""
    generator, bands = np.random.Generator(np.random.PCG64(0)), _BANDS[mode]
    down, across = np.mgrid[0:height, 0:width] / 12.0
    waves = [np.sin((1 + band) * down + across) + np.cos(across / (1 + band)) for band in range(4)]
    pixels = (
        128 + 40 * np.stack(waves[:bands], -1) + generator.normal(0, 30, (height, width, bands))
    )
    packed = np.clip(pixels, 0, 255).astype(np.uint8).tobytes()
    return Image.frombytes(mode, (width, height), packed)


def _turn(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    return exif


def _pack(kind: str, picture: Image.Image, form: str = "PNG", **options: Any) -> OddPicture:
    packed = io.BytesIO()
    picture.save(packed, form, **options)
    return OddPicture(kind, {"PNG": ".png", "JPEG": ".jpg"}[form], packed.getvalue())
