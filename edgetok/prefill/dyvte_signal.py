"""DyVTE (arXiv 2411.19628) with its exit decided by each prompt: visual tokens leave when a signal
says that they are not needed.

At a few candidate layers a scalar is read; the first one above zero has all visual tokens leave,
and text rows go on at their positions. Prefill is cut into static graphs between candidates, each
with visual rows and without, and the host goes from one to the next.

The paper's router is `W2 gelu(W1 [mean of the text rows behind the image ; last row])`, of which
the second logit less the first is the signal. Its weights were published for no model here: they
are given as safetensors (`--exit-weights`) with `exits.E.hidden` [h, 2 D], `exits.E.out` [2, h] and
`exits.E.out_bias` [2] for every candidate layer E; the layers of the file are the candidates. The
bundle then names its method "dyvte-signal+learned".

Frozen form: own formulation. Without weights the signal is the ratio less the share of attention,
mean over heads, that the last row gives to visual rows in the layer before the candidate; the
candidates lie at a quarter, a half and three quarters of the depth. The paper asks at every layer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from edgetok.errors import InputError, UsageError
from edgetok.prefill.look import Look
from edgetok.prefill.method import PrefillMethod
from edgetok.prefill.schedules import Counts, scale

if TYPE_CHECKING:
    from torch import Tensor

DEPTHS = (1 / 4, 1 / 2, 3 / 4)
PARTS = ("hidden", "out", "out_bias")
_NAME = re.compile(r"exits\.(0|[1-9]\d{0,3})\.(hidden|out|out_bias)")


def counts(layers: int, visual: int, ratio: float) -> Counts:
    """No cut is certain."""
    return (visual,) * layers


def exits(layers: int) -> tuple[int, ...]:
    return tuple(sorted({scale(depth, layers, of=1) for depth in DEPTHS}))


def weigh(look: Look, ratio: float) -> Tensor:
    """[1]: above zero where the last row has turned from the image."""
    return ratio - look.before.from_last().mean(0).sum().reshape(1)


def route(look: Look, hidden: Tensor, out: Tensor, bias: Tensor) -> Tensor:
    """[1]: the router's second logit less its first."""
    import torch

    is_text = look.is_text.unsqueeze(1)
    mean = (look.text * is_text).sum(0) / is_text.sum().clamp(min=1.0)
    last = look.text.index_select(0, (look.is_text.sum() - 1).clamp(min=0).long().reshape(1))[0]
    inner = torch.nn.functional.gelu(torch.cat([mean, last]) @ hidden.T)
    logits = inner @ out.T + bias
    return (logits[1] - logits[0]).reshape(1)


def learn(weights: Mapping[str, Tensor]) -> PrefillMethod:
    """The method with trained routers.

    Raises:
        InputError: naming the tensor that is missing or misfit.
    """
    routers = read_routers(weights)
    candidates = tuple(sorted(routers))
    widths = {hidden.shape[1] for hidden, _, _ in routers.values()}
    if len(widths) > 1:
        raise InputError(f"the exit weights read rows of different widths: {sorted(widths)}")

    def exits(layers: int) -> tuple[int, ...]:
        if candidates[0] < 1 or candidates[-1] >= layers:
            raise UsageError(
                f"the exit weights are of layers {', '.join(map(str, candidates))}, and this "
                f"decoder can lose its visual tokens before layers 1 to {layers - 1}"
            )
        return candidates

    def signal(look: Look, ratio: float) -> Tensor:
        return route(look, *routers[look.layer])

    return replace(
        METHOD,
        name="dyvte-signal+learned",
        reads=(),
        exits=exits,
        signal=signal,
        width=widths.pop() // 2,
    )


def read_routers(weights: Mapping[str, Tensor]) -> dict[int, tuple[Tensor, Tensor, Tensor]]:
    """Routers by layer from their named weights; see the module's docstring."""
    odd = next((name for name in weights if not _NAME.fullmatch(name)), None)
    layers = sorted({int(name.split(".")[1]) for name in weights if odd is None})
    wanted = [f"exits.{layer}.{part}" for layer in layers for part in PARTS]
    odd = odd or next((name for name in wanted if name not in weights), None)
    if odd is not None or not layers:
        raise InputError(
            f"the exit weights have {len(weights)} tensors, and {odd or 'exits.1.hidden'!r} is "
            f"missing or too much; a layer has {', '.join(PARTS)}, named exits.8.hidden and so on"
        )
    return {layer: _read_router(weights, layer) for layer in layers}


def _read_router(weights: Mapping[str, Tensor], layer: int) -> tuple[Tensor, Tensor, Tensor]:
    hidden, out, bias = (weights[f"exits.{layer}.{part}"].float() for part in PARTS)
    plain = hidden.ndim == 2 and 0 not in hidden.shape and hidden.shape[1] % 2 == 0
    _require(f"exits.{layer}.hidden", hidden, "[h, 2 * hidden width]", plain)
    inner = len(hidden)
    _require(f"exits.{layer}.out", out, f"[2, {inner}]", tuple(out.shape) == (2, inner))
    _require(f"exits.{layer}.out_bias", bias, "[2]", tuple(bias.shape) == (2,))
    return hidden, out, bias


def _require(name: str, found: Tensor, wanted: str, fits: bool) -> None:
    if not fits:
        raise InputError(f"{name} of the exit weights is {list(found.shape)}, not {wanted}")
    if not bool(found.isfinite().all()):
        raise InputError(f"{name} of the exit weights holds NaN or infinity")


METHOD = PrefillMethod(
    name="dyvte-signal",
    paper="arXiv 2411.19628",
    verdict="own formulation",
    summary="drops all visual tokens at the first of a few depths where a signal says so",
    positions="kept",
    reads=("previous attention",),
    ratio=0.1,
    ratio_is="attention of the last row to visual rows below which they leave",
    counts=counts,
    exits=exits,
    signal=weigh,
    learn=learn,
)
