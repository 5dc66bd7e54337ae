"""Towers that transformers takes from timm (`TimmWrapperModel`): run whole, not block by block.

Such a tower tells its features and nothing of its attention, so methods that read attention, keys
or a CLS row are refused for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgetok.errors import IncompatibleError
from edgetok.families.parts import Grid, VisionParts

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from edgetok.families.checkpoint import Checkpoint

_INSTALL = "install it with `pip install 'edgetok[timm]'`"


def require_timm(checkpoint: Checkpoint) -> None:
    """Refuse a model whose tower comes from timm where that cannot be imported.

    Raises:
        IncompatibleError: saying what to install, or what is wrong with what is there.
    """
    try:
        import timm  # noqa: F401
    except ModuleNotFoundError as error:
        raise IncompatibleError(
            f"models of type {checkpoint.model_type!r} have a vision tower from timm, and there is "
            f"no {error.name}; {_INSTALL}"
        ) from error
    except (ImportError, OSError, RuntimeError) as error:  # a torchvision of another torch
        raise IncompatibleError(
            f"models of type {checkpoint.model_type!r} have a vision tower from timm, which cannot "
            f"be imported here: {str(error)[:200]}; it needs a torchvision that was built for this "
            "torch"
        ) from error


def find_whole_tower(
    tower: Any,
    grid: Grid,
    image_px: Grid,
    width: int,
    *,
    finish: Callable[[Tensor], Tensor],
    cell: int = 1,
    feature_width: int | None = None,
    stems: tuple[nn.Module, ...] = (),
) -> VisionParts:
    """The parts of a `TimmWrapperModel` that makes rows or a map of patches.

    Args:
        tower: its `forward_features` gives [P, prefix + n, V] or [P, V, lines, columns].
        grid, cell, feature_width, finish: as of `VisionParts`.
        width: V.
        stems: modules that `finish` multiplies by, beside the tower's own.
    """
    patches = grid[0] * grid[1] * cell**2

    def embed(pixels: Tensor) -> Tensor:
        rows: Tensor = tower.timm_model.forward_features(pixels)
        rows = rows.flatten(2).transpose(1, 2) if rows.ndim == 4 else rows
        return rows[:, rows.shape[1] - patches :]

    return VisionParts(
        model=tower,
        embed=embed,
        blocks=(),
        prefix_tokens=0,
        grid=grid,
        image_px=image_px,
        width=width,
        heads=1,
        cell=cell,
        feature_width=feature_width,
        finish=finish,
        stems=(tower, *stems),
    )
