"""Scales of an int8 or int4 KV cache: one per layer, head and channel, measured on samples.

Keys are stored after rotary embedding, which turns each channel pair (i, i + H/2) by an angle that
grows with the position. A scale measured at the positions of a few samples would clip others, so
both channels of a pair get the envelope: the largest radius of the pair, whatever its angle
(methods-model.md 3.0). Values are not rotated and keep their own largest magnitude.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from edgetok.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from edgetok.families.parts import TextParts

LEVELS = {8: 127, 4: 7}  # without the lowest one: symmetric
SMALLEST_SCALE = 1e-8  # of a channel that is zero in every sample: it then stays zero


def measure_kv_scales(
    text: TextParts, rows: Iterable[Tensor | Mapping[str, Any]], bits: int = 8
) -> list[tuple[Tensor, Tensor]]:
    """Run the decoder over embedded prompts and measure its cache.

    Args:
        rows: float32 [1, rows, D] each, text and visual tokens as the decoder sees them; or all
            that the decoder's `forward` takes, where it must be told more.
        bits: of the cache, 8 or 4.

    Returns:
        Per layer the key and value scales, float32 [1, G, 1, H].

    Raises:
        InputError: if there are no rows at all, or a layer of them is not finite.
    """
    import torch

    largest: list[tuple[Tensor, Tensor]] = []
    for embeds in rows:
        with torch.no_grad():
            given = {"inputs_embeds": embeds} if isinstance(embeds, torch.Tensor) else embeds
            cache = text.model(**given, use_cache=True).past_key_values
        found = [
            (
                pair_radius(layer.keys, text.rotary_dim).amax(2, keepdim=True),
                layer.values.abs().amax(2, keepdim=True),
            )
            for layer in cache.layers
            if hasattr(layer, "keys")  # a convolution has none
        ]
        if largest:
            found = [
                (torch.maximum(a, c), torch.maximum(b, d))
                for (a, b), (c, d) in zip(largest, found, strict=True)
            ]
        largest = found
    if not largest:
        raise InputError("no samples to measure KV scales on; give at least one image and prompt")
    _require_finite(largest)
    return [(_to_scale(key, bits), _to_scale(value, bits)) for key, value in largest]


def require_scales(scales: list[tuple[Tensor, Tensor]]) -> None:
    """Refuse scales that a cache cannot be divided by.

    Raises:
        InputError: naming the first layer with a scale that is 0, negative or not finite.
    """
    for layer, pair in enumerate(scales):
        for what, scale in zip(("key", "value"), pair, strict=True):
            if not bool((scale.isfinite() & (scale > 0)).all()):
                raise InputError(
                    f"a {what} scale of layer {layer} is {float(scale.min())}; scales of a KV "
                    "cache must be above 0 and finite, measure them again on other samples"
                )


def _require_finite(largest: list[tuple[Tensor, Tensor]]) -> None:
    for layer, pair in enumerate(largest):
        for what, found in zip(("keys", "values"), pair, strict=True):
            if not bool(found.isfinite().all()):
                raise InputError(
                    f"the {what} of layer {layer} are NaN or infinite on the samples, so the KV "
                    "cache gets no scales; look for a broken image or checkpoint, or use kv fp32 "
                    "(--kv fp32)"
                )


def pair_radius(keys: Tensor, turned: int | None = None) -> Tensor:
    """Radius of each rotary pair, at both of its channels: [1, G, rows, H] -> the same shape.

    Channels after the first `turned`, all if None, are not in pairs and have their magnitude.
    """
    import torch

    turned = keys.shape[-1] if turned is None else turned
    half = turned // 2
    radius = torch.hypot(keys[..., :half], keys[..., half:turned])
    return torch.cat([radius, radius, keys[..., turned:].abs()], dim=-1)


def _to_scale(largest: Tensor, bits: int) -> Tensor:
    return (largest / LEVELS[bits]).clamp(min=SMALLEST_SCALE)
