"""SmolVLM, SmolVLM2 (arXiv 2504.05299) and Idefics3 (arXiv 2408.12637): pixel shuffle and tiles.

Hugging Face: `SmolVLMForConditionalGeneration`, `Idefics3ForConditionalGeneration`. A visual token
is a cell of `scale_factor` x `scale_factor` patches. An image is looked at in one part, as with
`do_image_splitting` false, or stretched over a grid of tiles that is chosen at export: Hugging
Face's processor takes the grid from the image's size. At the full budget each tile stands after
the words that say where it is, the thumbnail comes last; smaller budgets have the tokens alone.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from edgetok.bundle.processor import ImagePlan, Tiles
from edgetok.errors import InputError, UsageError
from edgetok.families.decoder import find_text
from edgetok.families.image_plan import load_settings, read_values
from edgetok.families.loading import load_checkpoint
from edgetok.families.parts import (
    Framing,
    Grid,
    Layout,
    Parts,
    TextParts,
    VisionParts,
    merge_cells,
    stretch,
)
from edgetok.families.pictures import repeat_pictures
from edgetok.families.prompt_plan import read_gaps, read_prompt, surround_image

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from edgetok.families.checkpoint import Checkpoint

_IMAGE, _AROUND, _GLOBAL = "<image>", "<fake_token_around_image>", "<global-img>"


def open_smolvlm(checkpoint: Checkpoint, framing: Framing) -> Parts:
    """Load a SmolVLM or SmolVLM2 and point at its parts.

    Raises:
        InputError: if its image processor does not fit its tower.
        UsageError: if the grid has one tile, which would be the thumbnail again.
    """
    from transformers import SmolVLMForConditionalGeneration

    return _open(checkpoint, SmolVLMForConditionalGeneration, framing)


def open_idefics3(checkpoint: Checkpoint, framing: Framing) -> Parts:
    """Load an Idefics3 and point at its parts.

    Raises:
        InputError, UsageError: as `open_smolvlm`.
    """
    from transformers import Idefics3ForConditionalGeneration

    return _open(checkpoint, Idefics3ForConditionalGeneration, framing)


def _open(checkpoint: Checkpoint, kind: Any, framing: Framing) -> Parts:
    tiles = framing.tiles
    if tiles == (1, 1):
        raise UsageError("one tile is the whole picture; leave --tiles out, or give two or more")
    model = load_checkpoint(kind, checkpoint)
    config, side_px = model.config, model.config.vision_config.image_size
    vision = _find_vision(model, tiles)
    text = find_text(model.model.text_model, model.lm_head, model)
    before = _AROUND + _GLOBAL if tiles is None else _AROUND
    around, token = surround_image(_IMAGE, before, _AROUND), config.image_token_id
    parts = Parts(
        family=checkpoint.model_type,
        path=checkpoint.path,
        model=model,
        vision=vision,
        projector=model.model.connector.modality_projection,
        text=text,
        image=plan_image(load_settings(checkpoint), side_px, tiles),
        prompt=read_prompt(checkpoint, token, around, pictures=framing.images),
        layout=None if tiles is None else _lay_out(checkpoint, vision, text, token),
        process=_processing(side_px, tiles),
        fixed=_fix(side_px, tiles),
    )
    return repeat_pictures(parts, read_gaps(checkpoint, token, around, framing.images))


def _find_vision(model: Any, tiles: Grid | None) -> VisionParts:
    tower, config = model.model.vision_model, model.config.vision_config
    cell = model.config.scale_factor
    side = config.image_size // config.patch_size // cell
    places = _find_positions(tower, config.image_size)

    def embed(pixels: Tensor) -> Tensor:
        patches = tower.embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
        rows: Tensor = patches + tower.embeddings.position_embedding(places)
        return rows

    def finish(patches: Tensor) -> Tensor:
        return merge_cells(tower.post_layernorm(patches), (side, side), cell)

    return VisionParts(
        model=tower,
        embed=embed,
        blocks=tuple(tower.encoder.layers),
        prefix_tokens=0,
        grid=(side, side),
        image_px=(config.image_size, config.image_size),
        width=config.hidden_size,
        heads=config.num_attention_heads,
        tiles=tiles,
        cell=cell,
        feature_width=config.hidden_size * cell**2,
        finish=finish,
    )


def _find_positions(tower: Any, side_px: int) -> Tensor:
    """The position of each patch of a whole image, int64 [n].

    Hugging Face finds them by fractions of the side, whose rounding is part of the model.
    """
    import torch

    found: list[Tensor] = []
    table = tower.embeddings.position_embedding
    hook = table.register_forward_hook(lambda _module, inputs, _out: found.append(inputs[0]))
    patches = side_px // tower.embeddings.patch_size
    try:
        tower.embeddings(
            pixel_values=torch.zeros(1, 3, side_px, side_px),
            patch_attention_mask=torch.ones(1, patches, patches, dtype=torch.bool),
        )
    finally:
        hook.remove()
    return found[0][0]


def _lay_out(
    checkpoint: Checkpoint, vision: VisionParts, text: TextParts, image_token_id: int
) -> Layout:
    """Tiles after the words that the processor writes before each, then the thumbnail."""
    import torch
    from tokenizers import Tokenizer

    assert vision.tiles is not None  # noqa: S101
    part = vision.grid[0] * vision.grid[1]
    words = spell_tiles(vision.tiles, _IMAGE * part)
    inside = words.removeprefix(_AROUND).removesuffix(_AROUND)
    tokenizer = Tokenizer.from_file(str(checkpoint.path / "tokenizer.json"))
    ids = tokenizer.encode(inside, add_special_tokens=False).ids
    n = vision.full_tokens
    tokens = iter([*range(part, n), *range(part)])  # the thumbnail is the first of our parts
    others = [index for index in ids if index != image_token_id]
    separators = iter(range(n, n + len(others)))
    order = [next(tokens if index == image_token_id else separators) for index in ids]
    with torch.no_grad():
        rows = text.embed(torch.tensor(others))
    return Layout(tuple(order), rows)


def spell_tiles(tiles: Grid, image: str) -> str:
    """What the family's processor writes for an image of so many tiles.

    >>> spell_tiles((1, 2), "I").replace("<fake_token_around_image>", "|")
    '|<row_1_col_1>I|<row_1_col_2>I\\n\\n|<global-img>I|'
    """
    rows, columns = tiles
    words = ""
    for row in range(rows):
        for column in range(columns):
            words += f"{_AROUND}<row_{row + 1}_col_{column + 1}>{image}"
        words += "\n"
    return f"{words}\n{_AROUND}{_GLOBAL}{image}{_AROUND}"


def plan_image(config: dict[str, Any], side_px: int, tiles: Grid | None) -> ImagePlan:
    """The plan of a processor of these values, for a grid of tiles or images in one part.

    Raises:
        InputError: if it makes other parts than the tower wants.
    """
    longest = config.get("size", {}).get("longest_edge")
    part = config.get("max_image_size", {}).get("longest_edge")
    if part != side_px or longest is None:
        raise InputError(
            f"the image processor makes parts of {part} pixels from pictures of {longest}, but the "
            f"tower wants {side_px}"
        )
    return ImagePlan(
        resize_shortest_px=None,
        resize_px=[side_px, side_px],
        crop_px=None,
        resize_longest_px=int(longest) if tiles is None else None,
        tiles=None if tiles is None else Tiles(grid=list(tiles), fit="stretch"),
        **read_values(config),
    )


def _processing(side_px: int, tiles: Grid | None) -> Callable[[Any, Any], Tensor]:
    return _process_whole if tiles is None else partial(_process_tiles, side_px, tiles)


def _fix(side_px: int, tiles: Grid | None) -> dict[str, Any]:
    if tiles is None:
        return {"do_image_splitting": False}
    return {"do_image_splitting": True, "size": [tiles[0] * side_px, tiles[1] * side_px]}


def _process_whole(processor: Any, picture: Any) -> Tensor:
    out = processor(images=picture, do_image_splitting=False, return_tensors="pt")
    pixels: Tensor = out["pixel_values"]
    return pixels[0].float()


def _process_tiles(side_px: int, tiles: Grid, processor: Any, picture: Any) -> Tensor:
    import torch

    height, width = tiles[0] * side_px, tiles[1] * side_px
    canvas = stretch(processor, picture, (height, width))
    out = processor(
        images=canvas,
        do_image_splitting=True,
        size={"longest_edge": max(height, width)},
        return_tensors="pt",
    )
    pixels = out["pixel_values"][0].float()
    return torch.cat([pixels[-1:], pixels[:-1]])  # the thumbnail first
