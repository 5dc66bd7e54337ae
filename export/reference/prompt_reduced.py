"""Reduction at prefill as Hugging Face runs it, eagerly: what prefill graphs are compared with.

Shares the methods' own cuts with the graphs, and nothing else: rows are kept by list comprehension,
attention maps are those that Hugging Face's eager attention returns, keys those of its own cache,
and nothing is padded. tests/prefill holds the cuts themselves against plain loops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from edgetok.export.reference.model import Answer, Reference
from edgetok.export.reference.slots import SlotReference
from edgetok.families.internals import DynamicCache, name_cache_argument, using_attention
from edgetok.families.parts import Parts, TextParts
from edgetok.methods import Method
from edgetok.prefill import Prefill
from edgetok.prefill.look import Look
from edgetok.tokens import Plan


@dataclass(frozen=True)
class ReducedAnswer:
    """Greedy decoding: logits [steps, W], the ids, and the visual tokens kept at each cut.

    `cuts` are places in the image's K rows, -1 for a mixture without a centre; `signals` what was
    read before each layer at which visual tokens might have left, and `left` the one where they
    did, or the number of layers.
    """

    logits: Tensor
    ids: list[int]
    cuts: list[list[int]]
    signals: dict[int, float]
    left: int


@dataclass(frozen=True)
class Maps:
    """Implements `edgetok.prefill.look.Attention` over a whole map [heads, n, n]."""

    maps: Tensor
    keys: Tensor
    start: int
    count: int
    ones: Tensor  # [n, H], queries and keys of ones, rotated

    @property
    def columns(self) -> slice:
        return slice(self.start, self.start + self.count)

    def from_last(self) -> Tensor:
        return self.maps[:, -1, self.columns]

    def from_text(self) -> Tensor:
        return self.maps[:, self.columns.stop :, self.columns]

    def from_visual(self) -> Tensor:
        return self.maps[:, self.columns, self.columns]

    def whole(self) -> Tensor:
        return self.maps

    def visual_keys(self) -> Tensor:
        return self.keys[:, self.columns]

    def text_keys(self) -> Tensor:
        return self.keys[:, self.columns.stop :]

    def from_positions(self) -> Tensor:
        return self.ones[self.columns.stop :] @ self.ones[self.columns].T

    def place_visual(self, scores: Tensor) -> Tensor:
        return scores[self.columns]

    def is_row(self) -> Tensor:
        return torch.ones(self.maps.shape[1])


@dataclass
class State:
    """Rows x [n, D] between two layers: their positions, and which visual tokens are left."""

    x: Tensor
    positions: list[int]
    start: int
    left: list[int]
    cuts: list[list[int]] = field(default_factory=list)
    seen: list[list[int]] = field(default_factory=list)  # by layer, the visual tokens it saw
    signals: dict[int, float] = field(default_factory=dict)

    @property
    def visual(self) -> slice:
        return slice(self.start, self.start + len(self.left))


class PrefillReference:
    """Runs the layers of a decoder one by one and takes rows away between them.

    Args:
        store: what becomes of the cache after the prompt, where its rows do not stay as they are.
    """

    def __init__(
        self,
        text: TextParts,
        prefill: Prefill,
        visual: int,
        store: Callable[[DynamicCache], DynamicCache] | None = None,
    ) -> None:
        self.text, self.store = text, store
        self.prefill = prefill
        layers = len(text.layers)
        self.counts, self.skips = prefill.counts(layers, visual), prefill.skips(layers)
        self.held = prefill.held.counts(self.counts)
        self.exits = prefill.exits(layers)
        self.renumbered = prefill.method.positions == "renumbered"

    @torch.no_grad()
    def answer(
        self,
        embeds: Tensor,
        start: int,
        new_tokens: int,
        forced: list[list[int]] | None = None,
        leave: int | None = None,
    ) -> ReducedAnswer:
        """Embeddings [1, n, D] with visual rows from `start` -> greedy answer until a stop token.

        Args:
            forced: tokens to keep at each cut in place of what the method chooses.
            leave: layer before which visual tokens leave in place of where a signal says so; the
                number of layers for none.
        """
        cache, found, logits = DynamicCache(), list[int](), list[Tensor]()
        with eager(self.text.model.config):
            state = self._prefill(embeds[0], start, cache, forced, leave)
            self._drop_rows(state, cache)
            cache = cache if self.store is None else self.store(cache)
            row, position = state.x[-1], embeds.shape[1]
            while True:
                logits.append(self.text.head(self.text.norm(row)))
                found.append(int(logits[-1].argmax()))
                if len(found) == new_tokens or found[-1] in self.text.stop_ids:
                    left = sum(bool(tokens) for tokens in state.seen)
                    answer = torch.stack(logits), found, state.cuts, state.signals, left
                    return ReducedAnswer(*answer)
                row = self._step(found[-1], position, cache)
                position += 1

    def _prefill(
        self,
        x: Tensor,
        start: int,
        cache: Any,
        forced: list[list[int]] | None,
        leave: int | None,
    ) -> State:
        state = State(x, list(range(len(x))), start, list(range(self.counts[0])))
        first = state.x
        seen: tuple[Tensor, Tensor] | None = None
        gates: Tensor | None = None
        for number, keep in enumerate(self.counts):
            if number in self.exits and state.left:
                self._ask(state, number, seen)
                if state.signals[number] > 0 if leave is None else number == leave:
                    self._take(state, None)
            if keep < len(state.left) and not self.exits:
                choice = None if forced is None or not keep else forced[len(state.cuts)]
                self._cut(state, first, number, keep, seen, gates, choice)
            state.seen.append(state.left)
            seen, gates = self._run_layer(state, number, cache)
        return state

    def _drop_rows(self, state: State, cache: Any) -> None:
        """Leave the last survivors alone where the cache holds less than its layer saw."""
        for layer, tokens, count in zip(cache.layers, state.seen, self.held, strict=True):
            if count == len(tokens):
                continue
            survivors = [state.start + tokens.index(token) for token in state.left]
            behind = range(state.start + len(tokens), layer.keys.shape[2])
            places = [*range(state.start), *survivors, *behind]
            layer.keys, layer.values = layer.keys[:, :, places], layer.values[:, :, places]

    def _run_layer(self, state: State, number: int, cache: Any) -> tuple[Any, Tensor]:
        """One layer over all rows; its attention map and rotated keys, and its MLP's gates."""
        layer: Any = self.text.layers[number]
        angles, mask = self._angles(state.positions), causal(len(state.x))
        attended, maps = layer.self_attn(
            layer.input_layernorm(state.x[None]),
            position_embeddings=angles,
            attention_mask=mask,
            **{name_cache_argument(layer.self_attn): cache},
        )
        middle = state.x + attended[0]
        with hooked(layer.mlp.down_proj) as gates:
            out = middle + layer.mlp(layer.post_attention_layernorm(middle[None]))[0]
        rest = {"": out, "mlp": middle, "layer": state.x}[self.skips[number]]
        out[state.visual] = rest[state.visual]
        state.x = out
        return (maps[0], cache.layers[number].keys[0]), gates[0][0]

    def _look_ahead(self, state: State, number: int) -> tuple[Tensor, Tensor]:
        layer: Any = self.text.layers[number]
        scratch = DynamicCache()
        _, maps = layer.self_attn(
            layer.input_layernorm(state.x[None]),
            position_embeddings=self._angles(state.positions),
            attention_mask=causal(len(state.x)),
            **{name_cache_argument(layer.self_attn): scratch},
        )
        return maps[0], scratch.layers[number].keys[0]

    def _cut(
        self,
        state: State,
        first: Tensor,
        number: int,
        keep: int,
        seen: tuple[Tensor, Tensor] | None,
        gates: Tensor | None,
        forced: list[int] | None,
    ) -> None:
        if keep == 0:
            self._take(state, None)
            return
        assert seen is not None and gates is not None  # noqa: S101  the first layer never cuts
        span, end = state.visual, state.visual.stop
        full = len(first) - len(state.x) + len(state.left)
        reads, ones = self.prefill.method.reads, self._rotate_ones(state, seen[1].shape[2])
        whole = [
            Maps(*what, state.start, len(state.left), ones) if name in reads else None
            for name, what in (
                ("previous attention", seen),
                ("next attention", self._look_ahead(state, number)),
            )
        ]
        look = Look(
            visual=state.x[span],
            text=state.x[end:],
            is_text=torch.ones(len(state.x) - end),
            visual_input=first[state.start : state.start + full],
            text_input=first[state.start + full :],
            previous=whole[0],
            next=whole[1],
            gates=(gates[span], gates[-1]),
            layer=number,
            norm=self.text.norm,
        )
        if forced is not None:
            places = [state.left.index(token) for token in forced]
            plan = Plan.gather(torch.tensor(places, dtype=torch.int64), len(state.left))
        else:
            cut = self.prefill.method.cut
            assert cut is not None  # noqa: S101  as above
            plan = cut(look, keep)
        self._take(state, plan)

    def _ask(self, state: State, number: int, seen: tuple[Tensor, Tensor] | None) -> None:
        """Read the signal before a layer."""
        span, signal = state.visual, self.prefill.method.signal
        assert seen is not None and signal is not None  # noqa: S101  the first layer has none
        text = state.x[span.stop :]
        look = Look(
            visual=state.x[span],
            text=text,
            is_text=torch.ones(len(text)),
            visual_input=state.x[span],
            text_input=text,
            previous=Maps(*seen, state.start, len(state.left), torch.zeros(0)),
            next=None,
            gates=None,
            layer=number,
            norm=self.text.norm,
        )
        state.signals[number] = float(signal(look, self.prefill.ratio))

    def _take(self, state: State, plan: Plan | None) -> None:
        span = state.visual
        kept = [] if plan is None else [int(place) for place in plan.indices]
        visual = state.x[:0] if plan is None else plan.matrix() @ state.x[span]
        if plan is not None and plan.weights is None:
            visual = state.x[span][kept]
        before, behind = state.x[: span.start], state.x[span.stop :]
        old = state.positions
        positions = [*old[: span.start], *(old[span.start + p] for p in kept), *old[span.stop :]]
        state.x = torch.cat([before, visual, behind])
        state.positions = list(range(len(state.x))) if self.renumbered else positions
        state.left = [state.left[place] for place in kept]
        if kept:
            state.cuts.append(state.left)

    def _step(self, token: int, position: int, cache: Any) -> Tensor:
        """Append one token to every layer; its last hidden row [D]."""
        x = self.text.embed(torch.tensor([[token]]))
        for number, layer in enumerate(self.text.layers):
            own = cache.layers[number].keys.shape[2] if self.renumbered else position
            out = layer(
                x,
                position_embeddings=self._angles([own]),
                attention_mask=None,
                **{name_cache_argument(layer): cache},
            )
            x = out[0] if isinstance(out, tuple) else out
        row: Tensor = x[0, -1]
        return row

    def _rotate_ones(self, state: State, width: int) -> Tensor:
        """Rows of ones [n, width] at the rows' positions, as Hugging Face rotates halves."""
        cos, sin = (table[0] for table in self._angles(state.positions))
        half = cos.shape[1] // 2
        signs = torch.cat([-torch.ones(half), torch.ones(half)])
        return torch.cat([cos + signs * sin, torch.ones(len(cos), width - 2 * half)], 1)

    def _angles(self, positions: list[int]) -> Any:
        at = torch.tensor([positions])
        return self.text.rotary(torch.zeros(1, 1, self.text.hidden), position_ids=at)


def causal(rows: int) -> Tensor:
    """Additive mask [1, 1, rows, rows]."""
    return torch.full((rows, rows), -torch.inf).triu(1)[None, None]


@contextmanager
def eager(config: Any) -> Iterator[None]:
    """Hugging Face's attention that returns its maps."""
    with using_attention(config, "eager"):
        yield


@contextmanager
def hooked(module: Any) -> Iterator[list[Tensor]]:
    """What a module reads, while it runs."""
    found: list[Tensor] = []
    hook = module.register_forward_pre_hook(lambda _m, args: found.append(args[0]))
    try:
        yield found
    finally:
        hook.remove()


class ReducedReference(Reference):
    """A reference whose prompts lose visual rows between layers.

    Args:
        held: what the rows of a prompt become where the cache stores them otherwise.
    """

    def __init__(
        self, parts: Parts, method: Method, reduction: Prefill, held: SlotReference | None = None
    ) -> None:
        super().__init__(parts, method)
        self.reduction, self._held = reduction, held

    def reduced(self, budget: int) -> PrefillReference:
        """The decoder at a rung."""
        store = None if self._held is None else self._held.store
        return PrefillReference(self.parts.text, self.reduction, budget, store)

    def answer(
        self,
        embeds: Tensor,
        new_tokens: int,
        visual: range = range(0),
        prompt_rows: int | None = None,
        made: dict[str, Tensor] | None = None,
    ) -> Answer:
        found = self.reduced(len(visual)).answer(embeds, visual.start, new_tokens)
        return Answer(found.logits, found.ids)
