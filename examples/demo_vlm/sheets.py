"""Sheets: pictures packed with objects in rows, on which the tower learns several times as fast.

Most of a scene is background. A sheet draws the same objects in the same way, but full, and no
question is ever asked about it.
"""

import numpy as np
from backgrounds import draw_background
from scenes import (
    ROLES,
    Generator,
    Item,
    Scene,
    Wish,
    paint_item,
    shift,
    wish_digits,
    wish_shapes,
    wish_text,
)
from splits import find_split
from vocabulary import BACKGROUNDS, IMAGE_SIDE_PX

SHARES = {"shape": 0.12, "handwritten digit": 0.2, "big": 0.34, "small": 0.34}
"""How often a row holds each sort of object."""


def draw_sheet(seed: int) -> Scene:
    """The sheet of a seed of the train range."""
    if find_split(seed) != "train":
        raise ValueError(f"sheets are for training only; seed {seed} is in {find_split(seed)!r}")
    rng = np.random.default_rng([seed, 1])
    background = BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))]
    image = draw_background(background, rng)
    items: list[Item] = []
    top = int(rng.integers(1, 5))
    while top < IMAGE_SIDE_PX - 10:
        sort = str(rng.choice(list(SHARES), p=list(SHARES.values())))
        row = fill_row(sort, top, rng)
        for item, wish in row:
            paint_item(image, item, wish, rng)
            items.append(item)
        top = max([top, *(item.box[3] for item, _ in row)])
    return Scene(seed, background, tuple(items), np.asarray(image, dtype=np.uint8))


def fill_row(sort: str, top: int, rng: Generator) -> list[tuple[Item, Wish]]:
    """Objects of one sort from left to right, shoulder to shoulder; those that fit."""
    row: list[tuple[Item, Wish]] = []
    left = int(rng.integers(1, 13))
    while left < IMAGE_SIDE_PX - 8:
        wish = make_wish(sort, rng)
        margin = max(wish.plate_px, 1)
        height, width = wish.glyphs.mask.shape
        drop = top + int(rng.integers(0, 3))
        box = (left, drop, left + width + 2 * margin, drop + height + 2 * margin)
        if box[3] >= IMAGE_SIDE_PX:
            break
        if box[2] >= IMAGE_SIDE_PX:
            left += 8
            continue
        cells = tuple(shift(cell, left + margin, drop + margin) for cell in wish.glyphs.cells)
        row.append((Item(wish.role, wish.name, wish.colour, box, cells, wish.glyphs), wish))
        left = box[2] + int(rng.integers(0, 3))
    return row


def make_wish(sort: str, rng: Generator) -> Wish:
    """One object of a sort."""
    if sort == "shape":
        return wish_shapes(1, rng)[0]
    if sort == ROLES[1]:
        return wish_digits(1, rng, evaluation=False)[0]
    return wish_text(f"{sort} {rng.choice(['word', 'number'])}", rng)
