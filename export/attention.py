"""The seam between stages and lowerings: attention that edgetok registers with Hugging Face.

While a stage is traced, every attention module of the model calls `attend`, which asks the active
emitter. An emitter lowers attention to the operators of one flavour and records what its stage
needs to return (probes of a tower, cache rows of a decoder), so Hugging Face's own modules stay
untouched. Stages know the protocols here and no lowering; lowerings know no stage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from edgetok.errors import IncompatibleError
from edgetok.families.internals import register_attention, replaced, using_attention
from edgetok.families.parts import TextParts

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgetok.bundle.manifest import Flavour

NAME = "edgetok"
FORBIDDEN = -1e9  # a score that softmax makes zero


Scales = list[tuple[Tensor, Tensor]]  # of each layer's keys and values, [1, G, 1, H]


class Emitter(Protocol):
    """Lowers one attention: query [1, heads, rows, H], key and value [1, kv heads, rows, H]."""

    def __call__(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float
    ) -> Tensor:
        """Returns [1, rows, heads * H]."""
        ...


@dataclass
class TowerEmitter:
    """Full attention of a tower as a flavour lowers it; keeps what each block reads for probes."""

    blocks: list[tuple[Tensor, Tensor, float]] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    def __call__(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float
    ) -> Tensor:
        self.blocks.append((query, key, scaling))
        self.values.append(value)
        return self.lower(query, key, value, scaling)

    def lower(self, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """[P, heads, n, H] each -> [P, n, heads * H]."""
        raise NotImplementedError

    def parts(self, count: int) -> list[TowerEmitter]:
        """What was kept of each of the P images that went through the tower together."""
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
class DecoderLowering:
    """How a flavour lowers a decoder over its KV cache.

    Args:
        attention: builds the emitter of one trace from the past buffers of each layer, lengths,
            positions, rotary tables and scales; it gathers the buffers after in `present`.
        norms: lowers the norms of a model to one operator each, for the time of a trace.
        buffers: what a layer's cache consists of.
        turn: rotary embedding of rows [1, S, heads * H] at positions int64 [S], with tables of cos
            and sin and the number of heads: -> [1, heads, S, H].
        prompt: causal attention of rows without a cache: query [1, heads, S, H], key and value
            [1, G, S, H], not rotated yet, a scale, true rows minus one as int32 [1], and tables of
            cos and sin -> rows [1, S, heads * H], rotated keys, and values.
        scratch: for a prompt whose rows will be chosen from, a layer's own buffers, which may be
            too short for it, and its number of rows -> what attention gets in their place, so that
            all rows stand in `present` as they are stored.
        folded: what must hold of the layers' weights while they are traced, given their scales.
    """

    attention: Callable[..., Any]
    norms: Callable[[nn.Module], AbstractContextManager[None]]
    buffers: tuple[CacheBuffer, ...]
    rotate: Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]
    prompt: Callable[..., tuple[Tensor, Tensor, Tensor]]
    scratch: Callable[[tuple[Tensor, ...], int], tuple[Tensor, ...]]
    folded: Callable[[Sequence[Any], Scales | None], AbstractContextManager[None]]

    def past(self, layers: int) -> list[str]:
        """Names of all buffers, layer by layer."""
        return [buffer.name(layer) for layer in range(layers) for buffer in self.buffers]


class StageModule(nn.Module):
    """A module that becomes one graph: it says what its inputs and outputs are called.

    `inputs` are examples of its static shapes, in the order of `forward`'s arguments.
    """

    @property
    def inputs(self) -> dict[str, Tensor]:
        raise NotImplementedError

    @property
    def outputs(self) -> Sequence[str]:
        raise NotImplementedError

    def tracing(self) -> AbstractContextManager[None]:
        """What must hold while it is traced."""
        return nullcontext()


class Lowering(Protocol):
    """One flavour: what attention becomes while a stage is traced, and the trace then."""

    @property
    def flavour(self) -> Flavour: ...
    @property
    def tower_attention(self) -> type[TowerEmitter]: ...

    def fused_attention(
        self, query: Tensor, key: Tensor, value: Tensor, scaling: float, bias: Tensor | None
    ) -> Tensor:
        """Full attention of one image, bias [n] on its keys: [heads, n, H] -> [n, heads * H]."""
        ...

    def decoder(self, kv: str) -> DecoderLowering:
        """That of a decoder whose cache is `fp32`, `int8` or `int4`."""
        ...

    def packing(self, scaled: bool) -> Callable[..., Any]:
        """The emitter of a prompt that leaves packed rows; `scaled` where they are rounded."""
        ...

    def lower(self, module: StageModule, stage: str, title: str) -> ir.Model:
        """The graph of a module, its weights rounded to the bits of the stage."""
        ...

    def make_unpack(self) -> ir.Model | None:
        """A graph of the weights that graphs so far read as inputs; None where none does."""
        ...


_active: list[Emitter] = []


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float,
) -> Tensor:
    """Hugging Face's attention, answered by the active emitter."""
    return _active[-1](module, query, key, value, scaling)


register_attention(NAME, attend)


@contextmanager
def emitting(model: Any, emitter: Emitter) -> Iterator[None]:
    """Route the attention of `model` (a Hugging Face model) through `emitter`."""
    with using_attention(model.config, NAME):
        _active.append(emitter)
        try:
            yield
        finally:
            _active.pop()


@contextmanager
def replaced_forward(
    modules: Iterator[nn.Module], build: Callable[[nn.Module], Callable[..., Any]]
) -> Iterator[None]:
    """Give each module another `forward` for the time of a trace."""
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(replaced(module, "forward", build(module)))
        yield


def norm_constants(norm: Any) -> tuple[Tensor, float]:
    """Weight [D] and epsilon of one of Hugging Face's RMSNorms."""
    epsilon = float(getattr(norm, "variance_epsilon", None) or norm.eps)
    # Gemma stores how far a weight is from one.
    weight = 1 + norm.weight if type(norm).__name__.startswith("Gemma") else norm.weight
    return weight, epsilon


@contextmanager
def lowered_norms(model: nn.Module, operator: str, version: int) -> Iterator[None]:
    """Lower every RMSNorm of `model` to one operator instead of six, for the time of a trace."""

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


def rotary_part(head_dim: int, cos: Tensor) -> dict[str, Any]:
    """What a rotary operator is told where tables have angles for the first channels only."""
    rotated = 2 * cos.shape[1]
    return {} if rotated == head_dim else {"rotary_embedding_dim": rotated}


def merge_heads(rows: Tensor) -> Tensor:
    """[1, heads, rows, H] -> [1, rows, heads * H]."""
    return rows.transpose(1, 2).flatten(2)


def attention_extras(module: Any) -> dict[str, Any]:
    """What some decoders add to attention: a cap on its logits, a window of keys."""
    cap = getattr(module, "attn_logit_softcapping", None)
    # Where layers differ, each has its own; elsewhere it is the configuration's.
    common = getattr(module.config, "sliding_window", None)
    window = getattr(module, "sliding_window", common)
    extras: dict[str, Any] = {} if cap is None else {"softcap": float(cap)}
    return extras if window is None else extras | {"local_window_size": int(window)}


def require_plain_attention(text: TextParts, what: str, way_out: str) -> None:
    """Refuse decoders whose attention depends on more than which rows there are.

    Args:
        what: needs plain attention, such as "reduction at prefill".
        way_out: what to do without it.

    Raises:
        IncompatibleError: naming what the decoder has.
    """
    extras = {name for layer in text.attending for name in attention_extras(layer.self_attn)}
    found = {"softcap": "capped logits", "local_window_size": "a window of keys"}
    has = [words for name, words in found.items() if name in extras]
    has += [] if text.bidirectional == "nothing" else ["prompts whose rows see ahead"]
    has += ["positions on three axes"] if text.mrope_axes else []
    has += ["short convolutions"] if text.convolutions else []
    has += ["several rotary embeddings"] if len(set(text.rotary_kinds)) > 1 else []
    has += ["partial rotary embedding"] if text.rotary_dim != text.head_dim else []
    if has:
        raise IncompatibleError(
            f"this decoder has {' and '.join(has)}, and {what} knows plain attention only; "
            f"{way_out}"
        )
