"""Backgrounds of the scenes: plain, procedural textures, crops of two photographs."""

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images
from vocabulary import IMAGE_SIDE_PX

Plane = NDArray[np.float64]
"""float64 [192, 192], or a colour [3]"""
Generator = np.random.Generator


@cache
def load_photographs() -> dict[str, Image.Image]:
    """scikit-learn's two sample photographs, by the name a question gives them."""
    bundle = load_sample_images()
    names = {"china.jpg": "temple", "flower.jpg": "flower"}
    files = [str(name).replace("\\", "/").split("/")[-1] for name in bundle.filenames]
    return {
        names[file]: Image.fromarray(pixels)
        for file, pixels in zip(files, bundle.images, strict=True)
    }


def draw_background(kind: str, rng: Generator) -> Image.Image:
    """One background of the named kind, RGB [192, 192]."""
    if kind in ("flower", "temple"):
        return crop_photograph(load_photographs()[kind], rng)
    low, high = pick_two_tones(rng)
    mask = _TEXTURES[kind](rng)[..., None]
    pixels = low + mask * (high - low) + rng.normal(0, rng.uniform(0, 3), mask.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def crop_photograph(photograph: Image.Image, rng: Generator) -> Image.Image:
    """A square crop, 300 to 420 pixels wide in the original, mirrored half of the time."""
    side = int(rng.integers(300, 421))
    left = int(rng.integers(0, photograph.width - side + 1))
    top = int(rng.integers(0, photograph.height - side + 1))
    crop = photograph.crop((left, top, left + side, top + side))
    crop = crop.resize((IMAGE_SIDE_PX, IMAGE_SIDE_PX), Image.Resampling.BILINEAR)
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else crop


def pick_two_tones(rng: Generator) -> tuple[Plane, Plane]:
    """Two muted tones, apart enough to see the texture, dull enough to leave objects in front."""
    base = rng.uniform(120, 215) + rng.uniform(-22, 22, 3)
    step = rng.uniform(16, 34) * rng.choice([-1.0, 1.0])
    return base, base + step + rng.uniform(-8, 8, 3)


def _coordinates() -> tuple[Plane, Plane]:
    line: Plane = np.arange(IMAGE_SIDE_PX, dtype=np.float64)
    columns, rows = np.meshgrid(line, line)
    return rows, columns


def _plain(rng: Generator) -> Plane:
    return np.zeros((IMAGE_SIDE_PX, IMAGE_SIDE_PX))


def _stripes(rng: Generator) -> Plane:
    rows, columns = _coordinates()
    angle, period_px = rng.uniform(0, np.pi), rng.uniform(8, 22)
    wave: Plane = (rows * np.sin(angle) + columns * np.cos(angle)) / period_px + rng.random()
    return (wave % 1 < 0.5).astype(np.float64)


def _dots(rng: Generator) -> Plane:
    rows, columns = _coordinates()
    period_px = rng.uniform(10, 20)
    offset = rng.uniform(0, period_px, 2)
    y, x = (rows + offset[0]) % period_px, (columns + offset[1]) % period_px
    distance: Plane = np.hypot(y - period_px / 2, x - period_px / 2)
    return (distance < period_px * 0.28).astype(np.float64)


def _checks(rng: Generator) -> Plane:
    rows, columns = _coordinates()
    side_px = rng.uniform(7, 18)
    offset = rng.uniform(0, 2 * side_px, 2)
    cells: Plane = (rows + offset[0]) // side_px + (columns + offset[1]) // side_px
    return cells % 2


def _clouds(rng: Generator) -> Plane:
    total = np.zeros((IMAGE_SIDE_PX, IMAGE_SIDE_PX))
    for cells, weight in ((5, 0.6), (11, 0.3), (23, 0.15)):
        coarse = Image.fromarray(rng.random((cells, cells)).astype(np.float32))
        smooth = coarse.resize((IMAGE_SIDE_PX, IMAGE_SIDE_PX), Image.Resampling.BICUBIC)
        total += weight * np.asarray(smooth, dtype=np.float64)
    stretched: Plane = 1.6 * (total - total.min()) / np.ptp(total)
    return stretched


_TEXTURES = {
    "plain": _plain,
    "stripes": _stripes,
    "dots": _dots,
    "checks": _checks,
    "clouds": _clouds,
}
