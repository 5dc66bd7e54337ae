"""Glyphs of the scenes: printed text, handwritten digits and shapes, each as a mask with cells."""

from dataclasses import dataclass
from functools import cache
from math import cos, pi, sin
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_digits
from vocabulary import SHAPES

Generator = np.random.Generator
Mask = NDArray[np.uint8]
Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are exclusive."""

FONTS = ("aileron", "DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono-Bold")
EVALUATION_SHARE = 0.2
"""The last share of `load_digits` is seen in the evaluate and reserved ranges only."""


@dataclass(frozen=True)
class Glyphs:
    """Ink coverage [height, width], 0 to 255, and one box for every character in it."""

    mask: Mask
    cells: tuple[Box, ...]


@cache
def load_font(name: str, capital_height_px: int) -> ImageFont.FreeTypeFont:
    """A font whose capital letters are so many pixels high."""
    for size_px in range(capital_height_px, 3 * capital_height_px):
        font = open_font(name, size_px)
        _, top, _, bottom = font.getbbox("H")
        if bottom - top >= capital_height_px:
            return font
    raise ValueError(f"font {name} has no size with capitals {capital_height_px} px high")


def open_font(name: str, size_px: int) -> ImageFont.FreeTypeFont:
    """A font that ships inside Pillow (aileron) or matplotlib (DejaVu)."""
    if name == "aileron":
        font = ImageFont.load_default(size_px)
        if not isinstance(font, ImageFont.FreeTypeFont):
            raise RuntimeError("Pillow was built without FreeType; install a wheel from PyPI")
        return font
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    # Basic layout: the same advances with or without libraqm in the Pillow build.
    return ImageFont.truetype(
        str(folder / f"{name}.ttf"), size_px, layout_engine=ImageFont.Layout.BASIC
    )


def draw_text(text: str, font_name: str, capital_height_px: int) -> Glyphs:
    """Printed text with one pixel of spacing between characters, tightly cropped."""
    font = load_font(font_name, capital_height_px)
    boxes = [font.getbbox(character) for character in text]
    top = int(min(box[1] for box in boxes))
    height = int(max(box[3] for box in boxes)) - top
    spacing_px = 1 + capital_height_px // 12
    widths = [int(box[2] - box[0]) for box in boxes]
    width = sum(widths) + spacing_px * (len(text) - 1)
    image = Image.new("L", (width, height))
    canvas = ImageDraw.Draw(image)
    cells: list[Box] = []
    left = 0
    for character, box, advance in zip(text, boxes, widths, strict=True):
        canvas.text((left - box[0], -top), character, fill=255, font=font)
        cells.append((left, 0, left + advance, height))
        left += advance + spacing_px
    return Glyphs(np.asarray(image, dtype=np.uint8), tuple(cells))


@cache
def load_handwriting() -> tuple[NDArray[np.uint8], NDArray[np.int64], int]:
    """Digit images [1797, 8, 8] in 0 to 255, their classes, and where evaluation's begin."""
    data = load_digits()
    images = np.clip(data.images * 255.0 / 16.0, 0, 255).astype(np.uint8)
    return images, data.target.astype(np.int64), int(len(images) * (1 - EVALUATION_SHARE))


def list_handwriting(digit: int, evaluation: bool) -> NDArray[np.int64]:
    """Indices of the handwritten images of a digit that a scene may show."""
    _, classes, boundary = load_handwriting()
    found = np.flatnonzero(classes == digit)
    return found[found >= boundary] if evaluation else found[found < boundary]


def draw_handwriting(index: int, height_px: int) -> Glyphs:
    """A handwritten digit, so many pixels high, cropped to its ink."""
    images, _, _ = load_handwriting()
    ink = images[index]
    columns = np.flatnonzero(ink.max(axis=0) > 40)
    rows = np.flatnonzero(ink.max(axis=1) > 40)
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    width_px = max(3, round(ink.shape[1] * height_px / ink.shape[0]))
    resized = Image.fromarray(ink).resize((width_px, height_px), Image.Resampling.BICUBIC)
    mask = np.asarray(resized, dtype=np.uint8)
    return Glyphs(mask, ((0, 0, width_px, height_px),))


def draw_shape(shape: str, side_px: int) -> Glyphs:
    """A filled shape, drawn four times as large and reduced for smooth edges."""
    scale = 4
    image = Image.new("L", (side_px * scale, side_px * scale))
    canvas = ImageDraw.Draw(image)
    end = side_px * scale - 1
    if shape == "circle":
        canvas.ellipse((0, 0, end, end), fill=255)
    else:
        canvas.polygon([(x * end, y * end) for x, y in outline_shape(shape)], fill=255)
    reduced = image.resize((side_px, side_px), Image.Resampling.BOX)
    return Glyphs(np.asarray(reduced, dtype=np.uint8), ((0, 0, side_px, side_px),))


def outline_shape(shape: str) -> list[tuple[float, float]]:
    """Corners of a polygon in the unit square."""
    if shape == "star":
        radii = [0.5 if corner % 2 == 0 else 0.21 for corner in range(10)]
        return [
            (0.5 + radius * sin(pi * corner / 5), 0.5 - radius * cos(pi * corner / 5))
            for corner, radius in enumerate(radii)
        ]
    corners: dict[str, list[tuple[float, float]]] = {
        "square": [(0.06, 0.06), (0.94, 0.06), (0.94, 0.94), (0.06, 0.94)],
        "triangle": [(0.5, 0.04), (1.0, 0.94), (0.0, 0.94)],
        "diamond": [(0.5, 0.0), (0.86, 0.5), (0.5, 1.0), (0.14, 0.5)],
        "cross": [
            (0.33, 0), (0.67, 0), (0.67, 0.33), (1, 0.33), (1, 0.67), (0.67, 0.67),
            (0.67, 1), (0.33, 1), (0.33, 0.67), (0, 0.67), (0, 0.33), (0.33, 0.33),
        ],
    }  # fmt: skip
    if shape not in corners:
        raise ValueError(f"no shape is called {shape!r}; choose one of {', '.join(SHAPES)}")
    return corners[shape]
