"""Pictures of every odd kind, and how far our image processor is from a family's on each."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from edgetok.errors import InputError
from edgetok.images.preprocess import preprocess

EXACT = 1e-6
# Where torchvision is installed, transformers resamples with it: mostly one of 256 levels away.
FAST = 0.08
REFUSED = "refused"
DEEP = ("16 bits", "32 bits")


def odd_pictures() -> dict[str, bytes | Image.Image]:
    """By kind: the bytes of files, and Pillow pictures where no file holds such a thing."""
    found = {f"{w} x {h}": _pack(_noise("RGB", w, h)) for w, h in _SIZES}
    found |= {kind: _pack(_noise(kind)) for kind in ("RGB", "L", "LA", "RGBA", "P", "1")}
    found["JPEG of CMYK"] = _pack(_noise("CMYK"), "JPEG")
    palette = Image.new("P", (24, 30))
    palette.putdata(list(np.random.default_rng(2).integers(0, 4, 24 * 30)))
    palette.putpalette([0, 0, 0, 200, 10, 10, 5, 250, 5, 1, 1, 90])
    found["P, a colour of it transparent"] = _pack(palette, transparency=1)
    found["P, alpha by colour"] = _pack(palette, transparency=bytes([255, 0, 128, 30]))
    found["RGB, a colour of it transparent"] = _pack(_noise("RGB"), transparency=(1, 2, 3))
    found["L, a level of it transparent"] = _pack(_noise("L"), transparency=7)
    for orientation in (3, 6, 7):
        exif = Image.Exif()
        exif[0x0112] = orientation
        found[f"EXIF {orientation}"] = _pack(_noise("RGB"), "JPEG", exif=exif)
    found["16 bits"] = _pack(Image.fromarray(_draw((30, 40), 65536).astype(np.uint16)))
    found["32 bits"] = Image.fromarray(_draw((30, 40), 1 << 20).astype(np.int32))
    found["huge"] = Image.new("RGB", (9000, 9000))
    return found


_SIZES = ((1, 60), (60, 1), (1, 1), (3, 200), (200, 3), (1, 3000), (3000, 1), (900, 700))


def compare(parts: Any, processor: Any) -> dict[str, float | str]:
    """Per kind, the largest difference of a pixel, or `refused`."""
    return {kind: _compare(parts, processor, picture) for kind, picture in odd_pictures().items()}


def tolerance(processor: Any) -> float:
    """By which pixels may differ from this processor's."""
    return EXACT if type(processor).__name__.endswith("Pil") else FAST


def _compare(parts: Any, processor: Any, picture: bytes | Image.Image) -> float | str:
    try:
        got = preprocess(picture, parts.image)
    except InputError as error:
        assert len(str(error)) > 20
        return REFUSED
    opened = Image.open(io.BytesIO(picture)) if isinstance(picture, bytes) else picture
    opened = ImageOps.exif_transpose(opened)
    want = parts.process(processor, opened).numpy()
    assert got.shape == want.shape
    return float(np.abs(got - want).max())


def _draw(shape: tuple[int, ...], levels: int = 256) -> Any:
    return np.random.default_rng(0).integers(0, levels, shape)


def _noise(mode: str, width: int = 40, height: int = 30) -> Image.Image:
    bands = {"RGB": 3, "RGBA": 4, "CMYK": 4, "LA": 2}.get(mode)
    shape = (height, width) if bands is None else (height, width, bands)
    pixels = _draw(shape).astype(np.uint8)
    if mode in ("1", "P"):
        return Image.fromarray(pixels).convert(mode)
    return Image.frombytes(mode, (width, height), pixels.tobytes())


def _pack(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    target = io.BytesIO()
    picture.save(target, kind, **options)
    return target.getvalue()
