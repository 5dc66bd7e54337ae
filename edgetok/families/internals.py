"""What edgetok uses of the insides of transformers, which move from one release to the next.

Attention is registered and run, rotation is found, and caches are made through this module alone.
What transformers calls here takes arguments that are not known yet: the tests call it as each
supported release does.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

__all__ = ["DynamicCache"]

# A module of a model, query [1, heads, n, H], key and value [1, G, m, H] and the factor of scores
# -> [1, n, heads, H], or heads put together.
Attend = Callable[[nn.Module, Tensor, Tensor, Tensor, float], Tensor]


def register_attention(name: str, attend: Attend) -> None:
    """Let models whose configuration names it attend so, whatever their mask."""

    def take(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *_: Any,
        scaling: float | None = None,
        **__: Any,
    ) -> tuple[Tensor, None]:
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        return attend(module, query, key, value, scale), None

    ALL_ATTENTION_FUNCTIONS.register(name, take)


def run_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Attend as the configuration of an attention module says -> [1, n, heads, H], and maps if any.

    Shapes as in `Attend`; `mask` is added to scores.
    """
    eager = _file_of(module).eager_attention_forward
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(module.config._attn_implementation, eager)
    rows, maps = attend(module, query, key, value, mask, scaling=module.scaling, dropout=0.0)
    return rows, maps


@contextmanager
def using_attention(config: Any, name: str) -> Iterator[None]:
    """Let a model attend by a registered name, or `eager`, for a time."""
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before


def rotate_vision(
    attention: nn.Module, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor
) -> tuple[Tensor, Tensor]:
    """Queries and keys [n, heads, H] of a tower turned by tables [n, H], as its own file does."""
    query, key = _file_of(attention).apply_rotary_pos_emb_vision(query, key, cos, sin)
    return query, key


@contextmanager
def without_rotation(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Let queries and keys of decoder layers reach attention as they were projected."""
    files = {_file_of(module) for layer in layers for module in layer.modules()}
    with ExitStack() as stack:
        for file in files:
            if hasattr(file, "apply_rotary_pos_emb"):
                stack.enter_context(replaced(file, "apply_rotary_pos_emb", _keep))
        yield


def _keep(query: Tensor, key: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    return query, key


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Give an object another attribute for a time."""
    missing = object()
    own = vars(owner).get(name, missing)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own is missing:
            delattr(owner, name)
        else:
            setattr(owner, name, own)


def _file_of(module: nn.Module) -> Any:
    """The Python module in which a layer's class stands."""
    return sys.modules[type(module).__module__]


def name_cache_argument(layer: Any) -> str:
    """What a layer or model calls its cache: `past_key_values` up to transformers 5.23."""
    known = inspect.signature(layer.forward).parameters
    return "cache" if "cache" in known else "past_key_values"


def begin_cache(model: Any) -> DynamicCache:
    """An empty cache, as a decoder begins one that is given none."""
    return DynamicCache(config=model.config)


class StoringCache(DynamicCache):  # type: ignore[misc]  # transformers is not typed
    """A cache whose rows change as they are stored; a first prompt attends to itself exactly."""

    def store(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """What is kept of new rows [1, G, n, H]."""
        raise NotImplementedError

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *more: Any, **told: Any
    ) -> tuple[Tensor, Tensor]:
        """Append rows; what the call attends to."""
        is_first = self.get_seq_length(layer_idx) == 0
        stored = self.store(layer_idx, key_states, value_states)
        held = super().update(*stored, layer_idx, *more, **told)
        return (key_states, value_states) if is_first else held


class TracedCache:
    """Stands in for a cache while layers are traced: nothing stays in it but what subclasses keep.

    It says of each layer that it holds nothing, so that layers with convolutions always hand
    their rows over.
    """

    def convolve(self, rows: Tensor) -> Tensor:
        """Rows [1, D, n] of the next convolution -> with those before them in front."""
        raise NotImplementedError

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> Any:
        """Rows of attention as they are."""
        return key_states, value_states

    def update_conv_state(self, conv_states: Tensor, *_: Any, **__: Any) -> Tensor:
        """What transformers calls for the rows of a convolution."""
        return self.convolve(conv_states)

    def get_conv_state(self, *_: Any, **__: Any) -> None:
        """How transformers asks from 5.21 on."""

    def has_previous_state(self, *_: Any, **__: Any) -> bool:
        """How transformers asked up to 5.20."""
        return False


def find_window_order(lines: int, columns: int, cell: int, window_px: int, patch_px: int) -> Tensor:
    """Which groups of patches a tower with windows reads one after another, int64 [N]."""
    from transformers.vision_utils import get_vision_window_index

    grid = torch.tensor([[1, lines, columns]])
    order: Tensor = get_vision_window_index(grid, cell, window_px, patch_px)[0]
    return order


def interpolate_places(tower: Any, lines: int, columns: int) -> Tensor:
    """Rows [n, V] of a tower's table of places, interpolated for a grid of patches."""
    from transformers.vision_utils import get_vision_interpolation_indices_and_weights

    index, weights = get_vision_interpolation_indices_and_weights(
        torch.tensor([[1, lines, columns]]),
        num_grid_per_side=tower.num_grid_per_side,
        mode=tower.interpolation_mode,
        align_corners=tower.interpolation_align_corners,
        spatial_merge_size=tower.spatial_merge_size,
    )
    rows: Tensor = (tower.pos_embed(index) * weights[:, :, None]).sum(1).detach()
    return rows


def open_patch_processor(patch_px: int, told: dict[str, Any]) -> Any:
    """SigLIP 2's processor, on Pillow, of images that have their size already."""
    from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

    return Siglip2ImageProcessorPil(**told, do_resize=False, patch_size=patch_px)
