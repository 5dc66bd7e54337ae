"""The attention function that edgetok registers with Hugging Face, and what it emits.

While a stage is traced, every attention module of the model calls `attend`, which asks the active
emitter. An emitter spells attention in one flavour and records what its stage needs to return
(probes of a tower, cache rows of a decoder), so Hugging Face's own modules stay untouched.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "edgetok"
GLOBAL_FACTOR = 34.8  # VFlowOpt's released search for a quarter of the tokens


class Emitter(Protocol):
    """Spells one attention: query [1, heads, rows, H], key and value [1, kv heads, rows, H]."""

    def __call__(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float
    ) -> Tensor:
        """Returns [1, rows, heads * H]."""
        ...


@dataclass
class TowerEmitter:
    """Full attention of a tower, as a flavour spells it; keeps what each block reads for probes."""

    blocks: list[tuple[Tensor, Tensor, float]] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    def __call__(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float
    ) -> Tensor:
        self.blocks.append((query, key, scaling))
        self.values.append(value)
        return self.spell(query, key, value, scaling)

    def spell(self, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """[P, heads, n, H] each -> [P, n, heads * H]."""
        raise NotImplementedError

    def parts(self, count: int) -> list[TowerEmitter]:
        """What was kept of each of the P pictures that went through the tower together."""
        if count == 1:
            return [self]
        return [self._part(slice(part, part + 1)) for part in range(count)]

    def _part(self, part: slice) -> TowerEmitter:
        blocks = [(query[part], key[part], scaling) for query, key, scaling in self.blocks]
        return type(self)(blocks, [value[part] for value in self.values])


@dataclass(frozen=True)
class CacheBuffer:
    """[1, G, C, width] of a layer, named by the layer's number."""

    name: Callable[[int], str]
    dtype: torch.dtype
    width: Callable[[int], int]  # of a head's width


@dataclass(frozen=True)
class DecoderSpelling:
    """How a flavour spells a decoder over its KV cache.

    Args:
        attention: builds the emitter of one trace from the past buffers of each layer, lengths,
            positions, rotary tables and scales; it gathers the buffers behind in `present`.
        norms: spells the norms of a model as one operator each, for the time of a trace.
        buffers: what a layer's cache consists of.
        turn: rotary embedding of rows [1, S, heads * H] at positions int64 [S], with tables of cos
            and sin and the number of heads: -> [1, heads, S, H].
        prompt: causal attention of rows without a cache: query [1, heads, S, H], key and value
            [1, G, S, H], not rotated yet, a scale, true rows minus one as int32 [1], and tables of
            cos and sin -> rows [1, S, heads * H], rotated keys, and values.
        scratch: for a prompt whose rows will be chosen from, a layer's own buffers, which may be
            too short for it, and its number of rows -> what attention gets in their place, so that
            all rows stand in `present` as they are stored.
    """

    attention: Callable[..., Any]
    norms: Callable[[nn.Module], AbstractContextManager[None]]
    buffers: tuple[CacheBuffer, ...]
    turn: Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]
    prompt: Callable[..., tuple[Tensor, Tensor, Tensor]]
    scratch: Callable[[tuple[Tensor, ...], int], tuple[Tensor, ...]]

    def past(self, layers: int) -> list[str]:
        """Names of all buffers, layer by layer."""
        return [buffer.name(layer) for layer in range(layers) for buffer in self.buffers]


_active: list[Emitter] = []


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Hugging Face's attention interface, answered by the active emitter."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return _active[-1](module, query, key, value, scale), None


ALL_ATTENTION_FUNCTIONS.register(NAME, attend)


@contextmanager
def emitting(model: Any, emitter: Emitter) -> Iterator[None]:
    """Route the attention of `model` (a Hugging Face model) through `emitter`."""
    before = model.config._attn_implementation
    model.config._attn_implementation = NAME
    _active.append(emitter)
    try:
        yield
    finally:
        _active.pop()
        model.config._attn_implementation = before


@contextmanager
def rotary_inside(layers: tuple[nn.Module, ...]) -> Iterator[None]:
    """Leave rotary embedding to the attention operator: queries and keys arrive unrotated."""
    modules = {
        sys.modules[type(module).__module__] for layer in layers for module in layer.modules()
    }
    with ExitStack() as stack:
        for module in modules:
            if hasattr(module, "apply_rotary_pos_emb"):
                stack.enter_context(_replaced(module, "apply_rotary_pos_emb", _keep))
        yield


def _keep(query: Tensor, key: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    return query, key


@contextmanager
def replaced_forward(
    modules: Iterator[nn.Module], build: Callable[[nn.Module], Callable[..., Any]]
) -> Iterator[None]:
    """Give each module another `forward` for the time of a trace."""
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(_replaced(module, "forward", build(module)))
        yield


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
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


def norm_constants(norm: Any) -> tuple[Tensor, float]:
    """Weight [D] and epsilon of one of Hugging Face's RMSNorms."""
    epsilon = float(getattr(norm, "variance_epsilon", None) or norm.eps)
    # Gemma stores how far a weight is from one.
    weight = 1 + norm.weight if type(norm).__name__.startswith("Gemma") else norm.weight
    return weight, epsilon


@contextmanager
def spelled_norms(model: nn.Module, operator: str, version: int) -> Iterator[None]:
    """Spell every RMSNorm of `model` as one operator instead of six, for the time of a trace."""

    def build(norm: Any) -> Callable[[Tensor], Tensor]:
        weight, epsilon = norm_constants(norm)
        attributes: dict[str, Any] = {"axis": -1, "epsilon": epsilon, "stash_type": 1}

        def forward(rows: Tensor) -> Tensor:
            return torch.onnx.ops.symbolic(
                operator,
                (rows, weight),
                attrs=attributes,
                dtype=rows.dtype,
                shape=rows.shape,
                version=version,
            )

        return forward

    norms = (m for m in model.modules() if type(m).__name__.endswith("RMSNorm"))
    with replaced_forward(norms, build):
        yield


def turned_part(head_dim: int, cos: Tensor) -> dict[str, Any]:
    """What a rotary operator is told where tables have angles for the first channels only."""
    turned = 2 * cos.shape[1]
    return {} if turned == head_dim else {"rotary_embedding_dim": turned}


def merge_heads(rows: Tensor) -> Tensor:
    """[1, heads, rows, H] -> [1, rows, heads * H]."""
    return rows.transpose(1, 2).flatten(2)


def probe_cls(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """Attention of the CLS row to the patches, mean over heads, beside fused attention.

    query, key [1, heads, 1 + N, H] -> float32 [N].
    """
    scores = (query[0, :, :1] * scaling) @ key[0].transpose(1, 2)  # [heads, 1, 1 + N]
    return torch.softmax(scores.float(), dim=-1)[:, 0, 1:].mean(0)


def probe_cls_logits(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """`probe_cls` before the softmax, which may be negative."""
    scores = (query[0, :, :1] * scaling) @ key[0].transpose(1, 2)
    return scores[:, 0, 1:].mean(0)


def probe_received(query: Tensor, key: Tensor, scaling: float, prefix_tokens: int) -> Tensor:
    """Mean attention that each patch receives from all rows, for towers without a CLS token.

    query, key [1, heads, prefix + N, H] -> float32 [N].
    """
    scores = (query[0] * scaling) @ key[0].transpose(1, 2)
    return torch.softmax(scores.float(), dim=-1).mean((0, 1))[prefix_tokens:]


def probe_wide(query: Tensor, key: Tensor) -> Tensor:
    """Attention of the CLS row as one head over the full width, which PruMerge reads.

    query, key [1, heads, 1 + N, H] -> float32 [N].
    """
    rows, width = merge_heads(key)[0], query.shape[1] * query.shape[3]
    scores = (merge_heads(query[:, :, :1])[0] * width**-0.5) @ rows.T  # [1, 1 + N]
    return torch.softmax(scores.float(), dim=-1)[0, 1:]


def probe_global(query: Tensor, key: Tensor, scaling: float, prefix_tokens: int) -> Tensor:
    """Mean attention from the patches that receive `GLOBAL_FACTOR` times the mean or more.

    All patches ask if none is above it. query, key [1, heads, prefix + N, H] -> float32 [N].
    """
    scores = (query[0] * scaling) @ key[0].transpose(1, 2)
    mean = torch.softmax(scores.float(), dim=-1).mean(0)[prefix_tokens:, prefix_tokens:]
    received = mean.mean(0)
    asks = (received >= GLOBAL_FACTOR * received.mean()).float()
    asks = torch.where(asks.max() > 0, asks, 1.0)
    return (asks @ mean) / asks.sum()


def mean_keys(key: Tensor, prefix_tokens: int) -> Tensor:
    """Mean over heads of the patches' keys: key [1, heads, prefix + N, H] -> [N, H]."""
    return key[0].mean(0)[prefix_tokens:]
