"""What a method may look at: the tower's features and the probes it asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from edgetok import names


@dataclass(frozen=True, eq=False)
class Features:
    """The output of the vision tower for one image, or for the pictures of one prompt.

    Args:
        x: [N, V] float32, what the projector reads, patches in raster order, CLS removed; or
            [N, D], what it makes of them, for methods of the projected space.
        grid: rows and columns of patches; their product is N, or the rows of one part.
        probes: by their name in `edgetok.names`, those the method `needs` and no others.
        vision: [N, V] the tower's rows, where `x` holds the projector's.
        tiles: rows and columns of tiles, for a picture that was cut into some. The rows are then
            those of the whole picture (the thumbnail), followed by each tile's, raster within
            and among tiles; every part has the same `grid`. None for a picture in one part.
        pictures: how many there are, one after another in `x` and in every probe; a CLS row each.
    """

    x: Tensor
    grid: tuple[int, int]
    probes: Mapping[str, Tensor] = field(default_factory=dict)
    vision: Tensor | None = None
    tiles: tuple[int, int] | None = None
    pictures: int = 1

    def __post_init__(self) -> None:
        if self.picture_tokens * self.pictures != self.x.shape[0]:
            tiled = f" and its {self.tiles} tiles" if self.tiles else ""
            several = f" in {self.pictures} pictures" if self.pictures > 1 else ""
            raise ValueError(
                f"{self.x.shape[0]} features do not fill a grid of {self.grid}{tiled}{several}"
            )

    @property
    def part_tokens(self) -> int:
        """Patches of one part: the picture, or each of thumbnail and tiles."""
        return self.grid[0] * self.grid[1]

    @property
    def n_parts(self) -> int:
        """1, or the tiles and the thumbnail."""
        return 1 if self.tiles is None else 1 + self.tiles[0] * self.tiles[1]

    @property
    def picture_tokens(self) -> int:
        """Patches of one picture, its tiles included."""
        return self.part_tokens * self.n_parts

    @property
    def n_tokens(self) -> int:
        """N, the patches."""
        return self.x.shape[0]

    @property
    def cls_attention(self) -> Tensor:
        """[N], attention of the CLS token, mean over heads."""
        return self.probe(names.CLS_ATTENTION)

    @property
    def keys(self) -> Tensor:
        """[N, H], keys of the feature layer, mean over heads."""
        return self.probe(names.KEYS)

    @property
    def cls_feature(self) -> Tensor:
        """[pictures, V], the CLS row of each beside `x`."""
        return self.probe(names.CLS_FEATURE)

    @property
    def received_attention(self) -> Tensor:
        """[N], attention that each patch receives, mean over heads and queries."""
        return self.probe(names.RECEIVED_ATTENTION)

    @property
    def tower_rows(self) -> Tensor:
        """[N, V], the tower's rows, whatever space `x` is in."""
        return self.x if self.vision is None else self.vision

    @property
    def question(self) -> tuple[Tensor, Tensor]:
        """[T, D] embeddings of the prompt's tokens and [T], 1 where they are the user's own."""
        return self.probe(names.TEXT_EMBEDS), self.probe(names.TEXT_MASK)

    def probe(self, name: str) -> Tensor:
        """The probe of this name.

        Raises:
            LookupError: if the tower was not asked for it.
        """
        if name not in self.probes:
            asked = ", ".join(sorted(self.probes)) or "none"
            raise LookupError(f"probe {name!r} was not requested ({asked}); add it to `needs`")
        return self.probes[name]

    def rows(self) -> Tensor:
        """What plans act on: `x` [N, V], or with the CLS row of each picture behind it."""
        if names.CLS_FEATURE not in self.probes:
            return self.x
        return torch.cat([self.x, self.cls_feature])
