"""LLaVA-NeXT (arXiv 2401.13601) and LLaVA-OneVision (arXiv 2408.03326): images cut into tiles.

Hugging Face: `LlavaNextForConditionalGeneration`, `LlavaOnevisionForConditionalGeneration`. The
grid of tiles is chosen at export. LLaVA-OneVision looks at an image in one part, as at each of
several in a prompt, if none is chosen; LLaVA-NeXT knows no such form, and gets 2 x 2 tiles. At the
full budget the language model reads the thumbnail, then all tiles as one image with an
`image_newline` after each line. What the image does not fill of the grid stays there as black
patches: Hugging Face cuts it off, so that the number of tokens varies with the image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgetok.bundle.processor import ImagePlan, Tiles
from edgetok.errors import InputError
from edgetok.families.decoder import find_text
from edgetok.families.image_plan import load_settings, read_values
from edgetok.families.llava import check_layout, find_vision
from edgetok.families.loading import load_checkpoint
from edgetok.families.parts import Framing, Grid, Layout, Parts
from edgetok.families.pictures import repeat_pictures
from edgetok.families.prompt_plan import read_gaps, read_prompt

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from edgetok.families.checkpoint import Checkpoint

_ONEVISION_TILES = 10  # with more, Hugging Face shrinks the features: from 9 * 1.1 ** 2 on


def open_next(checkpoint: Checkpoint, framing: Framing) -> Parts:
    """Load a LLaVA-NeXT and point at its parts.

    Raises:
        InputError: if the tower or the feature selection is not of the LLaVA layout.
    """
    from transformers import LlavaNextForConditionalGeneration

    return _open(checkpoint, LlavaNextForConditionalGeneration, framing.tiles or (2, 2))


def open_onevision(checkpoint: Checkpoint, framing: Framing) -> Parts:
    """Load a LLaVA-OneVision and point at its parts.

    Raises:
        InputError: as `open_next`, or if there are more tiles than its features are kept whole for.
    """
    from transformers import LlavaOnevisionForConditionalGeneration

    tiles = framing.tiles
    if tiles is not None and tiles[0] * tiles[1] > _ONEVISION_TILES:
        raise InputError(
            f"{tiles[0]} x {tiles[1]} tiles; LLaVA-OneVision reads at most {_ONEVISION_TILES}"
        )
    return _open(checkpoint, LlavaOnevisionForConditionalGeneration, tiles, framing.images)


def _open(checkpoint: Checkpoint, kind: Any, tiles: Grid | None, pictures: int = 1) -> Parts:
    check_layout(checkpoint)
    model = load_checkpoint(kind, checkpoint)
    config = model.config
    vision = find_vision(model, tiles)
    newline, token = model.model.image_newline.detach()[None], config.image_token_id
    parts = Parts(
        family=checkpoint.model_type,
        path=checkpoint.path,
        model=model,
        vision=vision,
        projector=model.model.multi_modal_projector,
        text=find_text(model.model.language_model, model.lm_head, model),
        image=plan_image(load_settings(checkpoint), config.vision_config.image_size, tiles),
        prompt=read_prompt(checkpoint, token, pictures=pictures),
        layout=Layout(order_lines(vision.grid, tiles), newline),
        process=_processing(config.vision_config.image_size, tiles),
        fixed=_fix(config.vision_config.image_size, tiles),
    )
    return repeat_pictures(parts, read_gaps(checkpoint, token, str, pictures))


def order_lines(grid: Grid, tiles: Grid | None) -> tuple[int, ...]:
    """Which token each row is; N, the newline, ends each line of all tiles together.

    An image in one part has a newline at its end alone.
    """
    rows, columns = grid
    part = rows * columns
    if tiles is None:
        return (*range(part), part)
    newline = part * (1 + tiles[0] * tiles[1])
    order = [*range(part)]
    for line in range(tiles[0] * rows):
        for place in range(tiles[1] * columns):
            tile = (line // rows) * tiles[1] + place // columns
            order.append(part * (1 + tile) + (line % rows) * columns + place % columns)
        order.append(newline)
    return tuple(order)


def plan_image(config: dict[str, Any], side_px: int, tiles: Grid | None) -> ImagePlan:
    """The plan of a processor of these values, for a grid of tiles or images in one part."""
    values = read_values(config)
    return ImagePlan(
        resize_shortest_px=None,
        resize_px=[side_px, side_px],
        crop_px=None,
        tiles=None if tiles is None else Tiles(grid=list(tiles), fit="pad"),
        square_rgb=[int(255 * mean) for mean in values["mean"]] if tiles is None else None,
        **values,
    )


def _fix(side_px: int, tiles: Grid | None) -> dict[str, Any]:
    """One grid for all images; none where there are two of them, of which neither is cut."""
    if tiles is None:
        return {"batch_num_images": 2}
    return {"image_grid_pinpoints": [[tiles[0] * side_px, tiles[1] * side_px]]}


def _processing(side_px: int, tiles: Grid | None) -> Callable[[Any, Any], Tensor]:
    def process_tiles(processor: Any, picture: Any) -> Tensor:
        out = processor(images=picture, return_tensors="pt", **_fix(side_px, tiles))
        pixels: Tensor = out["pixel_values"]
        return pixels[0].float()

    def process_whole(processor: Any, picture: Any) -> Tensor:
        pixels: Tensor = processor(images=[[picture] * 2], return_tensors="pt")["pixel_values"]
        return pixels[0].float()

    return process_whole if tiles is None else process_tiles
