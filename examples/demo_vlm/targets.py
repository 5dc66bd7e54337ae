"""What stands in each patch of a scene: the auxiliary targets that the tower learns from."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scenes import ROLES, Item, Scene
from torch import Tensor
from vocabulary import (
    BACKGROUNDS,
    CHARACTERS,
    COLOUR_NAMES,
    DIGITS,
    GRID,
    IMAGE_SIDE_PX,
    MAX_CHARACTERS,
    PATCH_SIDE_PX,
    SHAPES,
)

FIRST_SHAPE = len(BACKGROUNDS)
FIRST_DIGIT = FIRST_SHAPE + len(SHAPES)
FIRST_CHARACTER = FIRST_DIGIT + len(DIGITS)
WHATS = FIRST_CHARACTER + len(CHARACTERS)
FIELDS: dict[str, int] = {
    "what": WHATS,
    "colour": len(COLOUR_NAMES) + 1,
    "order": MAX_CHARACTERS + 1,
    "role": len(ROLES) + 1,
    "across": 12,
    "down": 12,
    "anchor": 2,
}
"""Targets of a point and their number of classes.

0 stands for 'none' in colour, order and role. Across and down are the place of the middle of what
stands there, in steps of 16 pixels, so that a question about places finds its answer in any patch.
The anchor is the one patch that holds that middle, so that counting things is counting patches.
"""
FIELD_PLACES = {name: place for place, name in enumerate(FIELDS)}
WHAT_PLACE, COLOUR_PLACE = FIELD_PLACES["what"], FIELD_PLACES["colour"]
PLACE_STEP_PX = 16
POINTS = 2
"""A patch is asked at two points, since a patch can hold two small characters."""
COLOURED = len(SHAPES) * len(COLOUR_NAMES)
TEXT_ROLES = ROLES[2:]
BAG = WHATS + COLOURED + len(TEXT_ROLES) * len(CHARACTERS)
"""Targets of the CLS token: which things, shapes in a colour, and characters of each sort of text
are anywhere in the picture. They make it look at what questions are about, as a caption would."""
IGNORED = -100


@dataclass(frozen=True)
class Lesson:
    """Pixels and targets of scenes or of windows cut from them."""

    pixels: Tensor
    """uint8 [batch, 3, side, side]"""
    points: Tensor
    """int64 [batch, patches, POINTS, len(FIELDS)]"""
    bag: Tensor
    """float32 [batch, BAG]"""
    positions: Tensor
    """int64 [batch, patches]: places in the 24x24 grid"""


def map_owners(scene: Scene) -> NDArray[np.int64]:
    """Number of the cell at each point [GRID, GRID, POINTS], all items' cells counted from 1.

    0 is background.
    """
    owner = np.zeros((IMAGE_SIDE_PX, IMAGE_SIDE_PX), dtype=np.int64)
    number = 0
    for item in scene.items:
        for left, top, right, bottom in item.cells:
            number += 1
            region = owner[top:bottom, left : right + (item.role not in ROLES[:2])]
            if item.role == "shape":
                region[item.glyphs.mask > 127] = number
            else:
                region[:] = number
    half = PATCH_SIDE_PX // 2
    sampled: NDArray[np.int64] = owner[half::PATCH_SIDE_PX, half // 2 :: half]
    return sampled.reshape(GRID, GRID, POINTS)


def list_cells(scene: Scene) -> list[tuple[int, int]]:
    """Item and order of each cell that `map_owners` numbers; the first entry is background's."""
    cells = [
        (place, order) for place, item in enumerate(scene.items) for order in range(len(item.cells))
    ]
    return [(-1, 0), *cells]


def describe_points(scene: Scene) -> NDArray[np.int64]:
    """Targets at each point and the left edge of its string [GRID, GRID, POINTS, FIELDS + 1]."""
    anchor, owners = FIELD_PLACES["anchor"], map_owners(scene)
    rows = [[BACKGROUNDS.index(scene.background)] + [0] * len(FIELDS)]
    anchors = [(-1, -1)]
    for place, order in list_cells(scene)[1:]:
        rows.append(describe_cell(scene.items[place], order))
        anchors.append(find_anchor(scene.items[place]))
    described: NDArray[np.int64] = np.asarray(rows, dtype=np.int64)[owners]
    here = np.moveaxis(np.indices((GRID, GRID)), 0, -1)[:, :, None]
    described[..., anchor] = (np.asarray(anchors)[owners] == here).all(-1)
    fill_background_places(described)
    return described


def fill_background_places(described: NDArray[np.int64]) -> None:
    """The background has no middle: there, a point's place is its own."""
    rows, columns = np.indices(described.shape[:2]) * PATCH_SIDE_PX // PLACE_STEP_PX
    background = described[..., FIELD_PLACES["role"]] == 0
    for name, values in (("across", columns), ("down", rows)):
        place = FIELD_PLACES[name]
        described[..., place] = np.where(background, values[..., None], described[..., place])


def find_anchor(item: Item) -> tuple[int, int]:
    """Row and column of the patch that holds the item's middle."""
    across, down = item.centre
    return int(down // PATCH_SIDE_PX), int(across // PATCH_SIDE_PX)


def describe_cell(item: Item, order: int) -> list[int]:
    """Targets of one cell of an item, in the order of FIELDS, and its string's left edge."""
    role = ROLES.index(item.role) + 1
    colour = COLOUR_NAMES.index(item.colour) + 1
    place = [int(middle // PLACE_STEP_PX) for middle in item.centre]
    if item.role == "shape":
        return [FIRST_SHAPE + SHAPES.index(item.name), colour, 0, role, *place, 0, 0]
    if item.role == "handwritten digit":
        return [FIRST_DIGIT + int(item.name), colour, 0, role, *place, 0, 0]
    what = FIRST_CHARACTER + CHARACTERS.index(item.name[order])
    return [what, colour, order + 1, role, *place, 0, item.cells[0][0]]


def cut_lesson(scenes: list[Scene], side: int, windows: int, rng: np.random.Generator) -> Lesson:
    """Windows of `side` patches from each scene; with side 24 it is the whole scene once."""
    pixels, points, positions = [], [], []
    grid = np.arange(GRID * GRID).reshape(GRID, GRID)
    for scene in scenes:
        described = describe_points(scene)
        for _ in range(windows):
            row, column = (int(place) for place in rng.integers(0, GRID - side + 1, 2))
            patches = np.s_[row : row + side, column : column + side]
            area = [slice(s.start * PATCH_SIDE_PX, s.stop * PATCH_SIDE_PX) for s in patches]
            pixels.append(scene.pixels[area[0], area[1]])
            points.append(hide_cut_strings(described[patches], column * PATCH_SIDE_PX))
            positions.append(grid[patches].reshape(-1))
    stacked = torch.from_numpy(np.stack(points)).flatten(1, 2)
    return Lesson(
        pixels=torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous(),
        points=stacked,
        bag=fill_bag(stacked),
        positions=torch.from_numpy(np.stack(positions)),
    )


def hide_cut_strings(described: NDArray[np.int64], left_px: int) -> NDArray[np.int64]:
    """Targets of a window, where a string that begins outside has no order to be known."""
    labels = described[..., :-1].copy()
    cut = (labels[..., 2] > 0) & (described[..., -1] < left_px)
    labels[..., 2][cut] = IGNORED
    return labels


def fill_bag(points: Tensor) -> Tensor:
    """Which things, shapes in colours, and characters of sorts of text occur [batch, BAG]."""
    what, colour, role = (
        points[..., FIELD_PLACES[name]].flatten(1) for name in ("what", "colour", "role")
    )
    bag = torch.zeros(len(points), BAG + 1)
    bag.scatter_(1, what, 1.0)
    is_shape = (what >= FIRST_SHAPE) & (what < FIRST_DIGIT)
    coloured = WHATS + (what - FIRST_SHAPE) * len(COLOUR_NAMES) + colour - 1
    bag.scatter_(1, torch.where(is_shape, coloured, BAG), 1.0)
    sort = role - 1 - ROLES.index(TEXT_ROLES[0])
    printed = WHATS + COLOURED + sort * len(CHARACTERS) + what - FIRST_CHARACTER
    bag.scatter_(1, torch.where(what >= FIRST_CHARACTER, printed, BAG), 1.0)
    return bag[:, :BAG]
