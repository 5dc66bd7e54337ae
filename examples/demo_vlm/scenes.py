"""Scenes: one integer seed gives one 192x192 picture and the record of what stands in it."""

from dataclasses import dataclass, field

import numpy as np
from backgrounds import draw_background
from glyphs import (
    FONTS,
    Box,
    Glyphs,
    draw_handwriting,
    draw_shape,
    draw_text,
    list_handwriting,
)
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from splits import find_split
from vocabulary import (
    BACKGROUNDS,
    COLOUR_NAMES,
    COLOURS,
    DARK_COLOURS,
    IMAGE_SIDE_PX,
    MAX_CHARACTERS,
    SHAPES,
    WORDS,
)

Generator = np.random.Generator
ROLES = ("shape", "handwritten digit", "big word", "big number", "small word", "small number")
BIG_TEXT_PX = (14, 24)
SMALL_TEXT_PX = (8, 12)
HANDWRITING_PX = (10, 12)
SHAPE_PX = (18, 34)
GAP_PX = 3
"""Least distance between the boxes of two items."""
PLACING_TRIES = 60


@dataclass(frozen=True)
class Item:
    """One object of a scene."""

    role: str
    name: str
    """Shape name, printed text or digit."""
    colour: str
    box: Box
    """What nothing else may overlap: the glyphs and, where there is one, their plate."""
    cells: tuple[Box, ...]
    """One box per character; one in all for a shape or a digit."""
    glyphs: Glyphs = field(repr=False)

    @property
    def centre(self) -> tuple[float, float]:
        """Middle of the box, x and y in pixels."""
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2


@dataclass(frozen=True)
class Scene:
    """A picture, RGB [192, 192, 3], and the record of what stands in it."""

    seed: int
    background: str
    items: tuple[Item, ...]
    pixels: NDArray[np.uint8] = field(repr=False)

    def list_items(self, *roles: str) -> list[Item]:
        """Items that play one of the roles, in drawing order."""
        return [item for item in self.items if item.role in roles]


@dataclass(frozen=True)
class Wish:
    """What shall be placed next."""

    role: str
    name: str
    colour: str
    glyphs: Glyphs
    plate_px: int
    """Margin of an opaque plate under the glyphs; 0 for none."""


def draw_scene(seed: int) -> Scene:
    """The scene of a seed."""
    evaluation = find_split(seed) in ("evaluate", "reserved")
    rng = np.random.default_rng([seed, 0])
    background = BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))]
    image = draw_background(background, rng)
    items: list[Item] = []
    for wish in list_wishes(rng, evaluation):
        item = place_wish(wish, items, rng)
        if item is not None:
            paint_item(image, item, wish, rng)
            items.append(item)
    return Scene(seed, background, tuple(items), np.asarray(image, dtype=np.uint8))


def list_wishes(rng: Generator, evaluation: bool) -> list[Wish]:
    """What the scene shall hold, large objects first so that they find room."""
    texts = pick_one_or_both(["big word", "big number"], rng)
    texts += pick_one_or_both(["small word", "small number"], rng)
    shapes, digits = int(rng.integers(1, 6)), int(rng.integers(0, 4))
    request = [wish_text(role, rng) for role in texts]
    request += wish_shapes(shapes, rng)
    return request + wish_digits(digits, rng, evaluation)


def pick_one_or_both(roles: list[str], rng: Generator) -> list[str]:
    """Both roles half of the time, else one of them."""
    return roles if rng.random() < 0.5 else [roles[int(rng.integers(2))]]


def wish_text(role: str, rng: Generator) -> Wish:
    """A printed word from the list, or a number of 2 to 5 digits without a leading zero."""
    if role.endswith("word"):
        text = WORDS[int(rng.integers(len(WORDS)))]
    else:
        digits = rng.integers(0, 10, int(rng.integers(2, MAX_CHARACTERS + 1)))
        digits[0] = rng.integers(1, 10)
        text = "".join(str(digit) for digit in digits)
    low, high = BIG_TEXT_PX if role.startswith("big") else SMALL_TEXT_PX
    font = FONTS[int(rng.integers(len(FONTS)))]
    glyphs = draw_text(text, font, int(rng.integers(low, high + 1)))
    colour = COLOUR_NAMES[int(rng.integers(len(COLOUR_NAMES)))]
    plate_px = int(rng.integers(2, 5)) if rng.random() < 0.6 else 0
    return Wish(role, text, colour, glyphs, plate_px)


def wish_shapes(count: int, rng: Generator) -> list[Wish]:
    """Shapes from a palette of a few names and colours, so that some come more than once."""
    names = rng.permutation(SHAPES)[: int(rng.integers(2, 5))]
    colours = rng.permutation(COLOUR_NAMES)[: int(rng.integers(2, 6))]
    request = []
    for _ in range(count):
        name = str(names[int(rng.integers(len(names)))])
        colour = str(colours[int(rng.integers(len(colours)))])
        side_px = int(rng.integers(SHAPE_PX[0], SHAPE_PX[1] + 1))
        request.append(Wish("shape", name, colour, draw_shape(name, side_px), 0))
    return request


def wish_digits(count: int, rng: Generator, evaluation: bool) -> list[Wish]:
    """Handwritten digits on slips of paper; up to five of them differ in ink."""
    inks = rng.permutation(DARK_COLOURS)
    request = []
    for place in range(count):
        digit = int(rng.integers(10))
        known = list_handwriting(digit, evaluation)
        index = int(known[int(rng.integers(len(known)))])
        height_px = int(rng.integers(HANDWRITING_PX[0], HANDWRITING_PX[1] + 1))
        ink = str(inks[place % len(inks)])
        glyphs = draw_handwriting(index, height_px)
        request.append(Wish("handwritten digit", str(digit), ink, glyphs, 2))
    return request


def place_wish(wish: Wish, items: list[Item], rng: Generator) -> Item | None:
    """The wish at a free place, or None when none was found."""
    height, width = wish.glyphs.mask.shape
    margin = max(wish.plate_px, 1)
    for _ in range(PLACING_TRIES):
        left = int(rng.integers(margin + 1, IMAGE_SIDE_PX - width - margin))
        top = int(rng.integers(margin + 1, IMAGE_SIDE_PX - height - margin))
        box = (left - margin, top - margin, left + width + margin, top + height + margin)
        if not any(overlap(box, item.box) for item in items):
            cells = tuple(shift(cell, left, top) for cell in wish.glyphs.cells)
            return Item(wish.role, wish.name, wish.colour, box, cells, wish.glyphs)
    return None


def overlap(one: Box, other: Box) -> bool:
    """Whether two boxes come nearer than the gap."""
    return (
        one[0] < other[2] + GAP_PX
        and other[0] < one[2] + GAP_PX
        and one[1] < other[3] + GAP_PX
        and other[1] < one[3] + GAP_PX
    )


def shift(box: Box, left: int, top: int) -> Box:
    """The box, moved."""
    return box[0] + left, box[1] + top, box[2] + left, box[3] + top


def paint_item(image: Image.Image, item: Item, wish: Wish, rng: Generator) -> None:
    """Draws the item with a plate under it or a thin halo round it, light where its ink is dark."""
    light = item.colour in DARK_COLOURS
    tone = int(rng.integers(225, 251)) if light else int(rng.integers(18, 60))
    mask = Image.fromarray(item.glyphs.mask)
    origin = item.cells[0][0] - item.glyphs.cells[0][0], item.cells[0][1]
    if wish.plate_px:
        image.paste((tone, tone, tone), item.box)
    else:
        padded = Image.new("L", (mask.width + 2, mask.height + 2))
        padded.paste(mask, (1, 1))
        halo = padded.filter(ImageFilter.MaxFilter(3))
        image.paste((tone, tone, tone), (origin[0] - 1, origin[1] - 1), halo)
    jitter = rng.integers(-12, 13, 3)
    red, green, blue = (
        int(np.clip(level + step, 0, 255))
        for level, step in zip(COLOURS[item.colour], jitter, strict=True)
    )
    image.paste((red, green, blue), origin, mask)
