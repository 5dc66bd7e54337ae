"""Explainability scorer (arXiv 2506.01097): attention of the question, and what was learned of it.

Inputs: projected tokens [N, D]; embeddings [T, D] of the prompt's tokens with a mask [T] of the
user's own text.

Each word of the question divides its attention among the tokens: one head without learned
projections, softmax of cosine times sqrt(D), which is the product of rows that an RMS norm has
scaled. Its mean over the words is the score; the K highest are kept, in raster order. Scores are
compared on a grid of 1/65536 of the largest.

The paper trains a small convolutional network for each model, from the attention of the first
decoder layer to the relevance that gradients give. Neither code nor weights were released. The
slot for such weights is `learn`, and `--scorer FILE` of `edgetok export`: safetensors with
`layers.0.filters` [C, 1, W], `layers.0.filter_bias` [C], `layers.0.mixture` [E, C, 1] and
`layers.0.mixture_bias` [E], and so on; the first C and the last E are 1, widths W are odd, ReLU
between layers. The score enters with mean 1, and what comes out ranks the tokens. The bundle then
names its method "explainability+learned".

Frozen form: own formulation. Without weights it is the scorer's input alone, and that input leaves
out the first layer's projections and positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from edgetok import names, tokens
from edgetok.errors import InputError
from edgetok.methods.method import Method

if TYPE_CHECKING:
    from torch import Tensor

PARTS = ("filters", "filter_bias", "mixture", "mixture_bias")


def ask(features: tokens.Features) -> Tensor:
    """[N], the mean attention of the question's words, of sum 1; zeros without a question."""
    text, mask = features.question
    attention = tokens.attended(text, features.x, features.x.shape[1] ** 0.5)
    return (attention * tokens.shares(mask).unsqueeze(1)).sum(0)


def reduce(features: tokens.Features, budget: int) -> tokens.Plan:
    kept = tokens.topk(tokens.on_relative_grid(ask(features)), budget)
    return tokens.Plan.gather(kept, features.n_tokens)


def learn(weights: Mapping[str, Tensor]) -> Method:
    """The method with the weights of a trained scorer.

    Raises:
        InputError: naming the tensor that is missing or misfit.
    """
    layers = read_layers(weights)

    def reduce(features: tokens.Features, budget: int) -> tokens.Plan:
        scores = tokens.on_relative_grid(ask(features))
        of_mean_1 = scores / scores.mean().clamp(min=1e-30)
        kept = tokens.topk(tokens.score_learned(of_mean_1, layers), budget)
        return tokens.Plan.gather(kept, features.n_tokens)

    return replace(METHOD, name="explainability+learned", reduce=reduce)


def read_layers(weights: Mapping[str, Tensor]) -> tuple[tokens.Separable, ...]:
    """The layers of a scorer from its named weights; see the module's docstring."""
    count = len(weights) // len(PARTS)
    wanted = {f"layers.{i}.{part}" for i in range(max(count, 1)) for part in PARTS}
    if wanted != set(weights):
        odd = sorted(wanted ^ set(weights))[0]
        raise InputError(
            f"the scorer has {len(weights)} tensors, and {odd!r} is missing or too much; each "
            f"layer has {', '.join(PARTS)}, named layers.0.filters and so on"
        )
    layers, channels = [], 1
    for i in range(count):
        parts = {part: weights[f"layers.{i}.{part}"].float() for part in PARTS}
        made = 1 if i == count - 1 else parts["mixture_bias"].numel()
        width = parts["filters"].shape[-1] if parts["filters"].ndim == 3 else 0
        shapes = [(channels, 1, width), (channels,), (made, channels, 1), (made,)]
        for part, shape in zip(PARTS, shapes, strict=True):
            _require_fit(f"layers.{i}.{part}", parts[part], shape)
        if width % 2 == 0:
            raise InputError(f"layers.{i}.filters of the scorer has width {width}; use an odd one")
        layers.append(tokens.Separable(**parts))
        channels = made
    return tuple(layers)


def _require_fit(name: str, found: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(found.shape) != shape:
        raise InputError(f"{name} of the scorer is {list(found.shape)}, not {list(shape)}")
    if not bool(found.isfinite().all()):
        raise InputError(f"{name} of the scorer holds NaN or infinity")


METHOD = Method(
    name="explainability",
    paper="arXiv 2506.01097",
    where="behind the tower",
    needs=names.OF_PROMPT,
    verdict="own formulation",
    summary="keeps the tokens that the question attends to, by a scorer that can be learned",
    reduce=reduce,
    cost="2.3 T N D + 9 T N",
    space="projected",
    learn=learn,
)
