"""LoCoCo's mixing (arXiv 2406.05317): rows that would go enter those that just stay.

Of the rows of a layer the heaviest stay as they are, `m` less than stay in all. The next `m` are
slots: each becomes (1 - eta) times itself plus eta times a mixture of all rows that are not among
the heaviest. Weights of a mixture are the softmax of one channel of a 1-D convolution that runs
over those rows, in their order, and sees key and value side by side.

Keys are mixed as they were rotated, as in the released code, on which weights are learned. So a
mixed key has no angle of its own; the place, the score and all that is remembered of it are its
slot's.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from edgetok.errors import InputError
from edgetok.kv.mixer import Mixer
from edgetok.kv.select import take
from edgetok.tokens.selectors import raster_indices

PARTS = ("weight", "bias", "eta")


def read_mixers(weights: Mapping[str, Tensor]) -> tuple[Mixer, ...]:
    """One mixer per layer from tensors named `layers.0.weight`, `.bias` and `.eta`, and so on.

    Raises:
        InputError: naming the tensor that is missing or misfit.
    """
    count = max(1, len(weights) // len(PARTS))
    wanted = {f"layers.{i}.{part}" for i in range(count) for part in PARTS}
    if wanted != set(weights):
        odd = sorted(wanted ^ set(weights))[0]
        raise InputError(
            f"the KV weights have {len(weights)} tensors, and {odd!r} is missing or too much; each "
            f"layer has {', '.join(PARTS)}, named layers.0.weight and so on"
        )
    return tuple(_read_mixer(weights, f"layers.{i}") for i in range(count))


def _read_mixer(weights: Mapping[str, Tensor], layer: str) -> Mixer:
    weight, bias, eta = (weights[f"{layer}.{part}"].float() for part in PARTS)
    _require(f"{layer}.weight", weight, "[m, 2 * head width, odd width]", _is_filter(weight))
    _require(f"{layer}.bias", bias, f"[{len(weight)}]", bias.shape == weight.shape[:1])
    _require(f"{layer}.eta", eta, "one number", eta.numel() == 1)
    if not 0 <= float(eta) <= 1:
        raise InputError(f"{layer}.eta of the KV weights is {float(eta):g}; it must lie in 0..1")
    return Mixer(weight.contiguous(), bias.contiguous(), float(eta))


def _is_filter(weight: Tensor) -> bool:
    return weight.ndim == 3 and min(weight.shape) > 0 and weight.shape[2] % 2 == 1


def _require(name: str, found: Tensor, wanted: str, fits: bool) -> None:
    if not fits:
        raise InputError(f"{name} of the KV weights is {list(found.shape)}, not {wanted}")
    if not bool(found.isfinite().all()):
        raise InputError(f"{name} of the KV weights holds NaN or infinity")


def require_mixers_fit(
    mixers: tuple[Mixer, ...], keep: tuple[int, ...], recent: int, head: int
) -> None:
    """Refuse mixers that a model or its cache has no use for.

    Args:
        keep: rows that each layer keeps, of which the last `recent` stay as they are.
        head: channels of a key.

    Raises:
        InputError: naming the tensor, what it has and what would fit.
    """
    if len(mixers) != len(keep):
        raise InputError(
            f"the KV weights have {len(mixers)} layers and this decoder has {len(keep)}; "
            "they belong to another model"
        )
    for layer, (mixer, rows) in enumerate(zip(mixers, keep, strict=True)):
        if mixer.weight.shape[1] != 2 * head:
            raise InputError(
                f"layers.{layer}.weight of the KV weights reads {mixer.weight.shape[1]} channels; "
                f"keys and values of this decoder have {2 * head} together"
            )
        if mixer.slots >= rows - recent:
            raise InputError(
                f"layers.{layer}.weight of the KV weights mixes {mixer.slots} rows; a full layer "
                f"keeps {rows}, the last {recent} as they are, so {rows - recent - 1} can be "
                "mixed at most: raise --kv-slots"
            )


def mix_rows(
    mixer: Mixer,
    rows: tuple[Tensor, Tensor],
    count: Tensor,
    chosen: Tensor,
    heavy: Tensor,
) -> tuple[Tensor, Tensor]:
    """Keys and values of the rows that stay, those of the slots mixed.

    Args:
        rows: keys and values, float32 [G, n, H] each.
        count: scalar, true rows.
        chosen: int64 [G, keep], rows that stay, ascending.
        heavy: int64 [G, keep - m], those of them that stay as they are, ascending.

    Returns:
        float32 [G, keep, H] each, in the order of `chosen`.
    """
    total = rows[0].shape[1]
    is_heavy = (torch.arange(total) == heavy[..., None]).any(1)  # [G, n]
    left = (torch.arange(total) < count) & ~is_heavy
    others = raster_indices(left, total - heavy.shape[1])
    keys, values = (take(part, others) for part in rows)
    weights = mixer.weigh(torch.cat([keys, values], -1), left.gather(1, others))
    stays = is_heavy.gather(1, chosen)
    slots = chosen.gather(1, raster_indices(~stays, mixer.slots))
    order = _order(stays, heavy.shape[1])
    mixed = [
        (1 - mixer.eta) * take(part, slots) + mixer.eta * (weights @ of_others)
        for part, of_others in zip(rows, (keys, values), strict=True)
    ]
    found = [
        take(torch.cat([take(part, heavy), made], 1), order)
        for part, made in zip(rows, mixed, strict=True)
    ]
    return found[0], found[1]


def _order(stays: Tensor, heavy: int) -> Tensor:
    """Where each chosen row is found after one another: the heavy ones, then the slots."""
    flags = stays.float()
    return torch.where(stays, flags.cumsum(-1) - 1, heavy + (1 - flags).cumsum(-1) - 1).long()
