"""A tower that reduces its rows, as Hugging Face runs it: what its graphs are compared with.

Shares the methods' own steps with the graphs, and nothing else: attention is Hugging Face's eager
one, sizes reach it as an attention mask, and queries, keys, values and maps are recorded from its
modules. tests/methods holds the steps themselves against plain loops.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from edgetok import names
from edgetok.families.internals import using_attention
from edgetok.families.parts import VisionParts
from edgetok.methods.inside import Inside
from edgetok.tokens import Look, Plan
from edgetok.tokens.schedules import Encoder


@dataclass
class State:
    """Rows x [n, V] between two blocks, the patch and the size of each, and a running score."""

    x: Tensor
    patches: list[int]
    sizes: Tensor
    running: Tensor | None = None


class ReducingReference:
    """Runs the blocks of a tower one by one and reduces rows between them."""

    def __init__(self, vision: VisionParts, inside: Inside) -> None:
        self.vision = vision
        self.inside = inside
        grid, prefix = vision.grid, vision.prefix_tokens
        blocks, config = len(vision.blocks), vision.model.config
        depth = getattr(config, "num_hidden_layers", blocks)
        self.encoder = Encoder(vision.full_tokens, grid, prefix, blocks, depth)

    def run(self, pixels: Tensor, budget: int) -> dict[str, Tensor]:
        """pixels [1, 3, h, w] -> the outputs of the tower graph of a rung, by name."""
        state, prefix = self.run_blocks(pixels, budget), self.encoder.prefix
        return {
            names.FEATURES: state.x[prefix:],
            names.TOWER_KEPT: torch.tensor(state.patches[prefix:], dtype=torch.int64),
            names.TOWER_SIZES: state.sizes[prefix:],
        }

    @torch.no_grad()
    def run_blocks(
        self,
        pixels: Tensor,
        budget: int,
        watch: Callable[[int, State], None] = lambda _number, _state: None,
    ) -> State:
        """The rows after the last block, prefix rows first; `watch` is told of each block."""
        config: Any = self.vision.model.config
        prefix = self.encoder.prefix
        x = self.vision.embed(pixels)[0]
        patches = [-1] * prefix + list(range(self.encoder.n_tokens))
        state = State(x, patches, torch.ones(x.shape[0]))
        with using_attention(config, "eager"):
            for number, keep in enumerate(self.inside.steps(self.encoder, budget)):
                self._run_block(state, number, keep if keep < len(state.x) - prefix else None)
                watch(number, state)
        return state

    def _run_block(self, state: State, number: int, keep: int | None) -> None:
        layer: Any = self.vision.blocks[number]
        mask = state.sizes.log().reshape(1, 1, 1, -1) if self.inside.proportional else None
        with Recorded(layer, self.vision.heads) as seen:
            attended = layer.self_attn(layer.layer_norm1(state.x[None]), attention_mask=mask)
        if self.inside.place == "before values" and keep is not None:
            plan = self.inside.reduce(self._look(state, seen, number), keep)
            maps = merge_maps(attended[1][0], plan)
            self._take(state, plan)
            values = layer.self_attn.v_proj(layer.layer_norm1(state.x))
            heads = values.reshape(len(values), self.vision.heads, -1).transpose(0, 1)
            mixed = torch.cat([one @ rows for one, rows in zip(maps, heads, strict=True)], dim=1)
            state.x = state.x + layer.self_attn.out_proj(mixed)
        else:
            state.x = state.x + attended[0][0]
        if self.inside.place == "after attention":
            self._reduce(state, seen, number, keep)
        state.x = state.x + layer.mlp(layer.layer_norm2(state.x[None]))[0]
        if self.inside.place == "after block":
            self._reduce(state, seen, number, keep)

    def _reduce(self, state: State, seen: Recorded, number: int, keep: int | None) -> None:
        if self.inside.observe is not None:
            state.running = self.inside.observe(self._look(state, seen, number))
        if keep is not None:
            self._take(state, self.inside.reduce(self._look(state, seen, number), keep))

    def _look(self, state: State, seen: Recorded, number: int) -> Look:
        query, key, value = (seen.heads[name] for name in ("q_proj", "k_proj", "v_proj"))
        scaled = query * query.shape[2] ** -0.5
        bias = state.sizes.log() if self.inside.proportional else None
        return Look(
            state.x, scaled, key, value, state.sizes, self.encoder, number, bias, state.running
        )

    def _take(self, state: State, plan: Plan) -> None:
        rows = plan.indices.tolist()
        state.x = plan.matrix() @ state.x
        state.patches = [state.patches[row] if row >= 0 else -1 for row in rows]
        state.sizes = plan.sizes
        if state.running is not None:
            prefix = self.encoder.prefix
            state.running = state.running[[row - prefix for row in rows[prefix:]]]


def merge_maps(maps: Tensor, plan: Plan) -> Tensor:
    """Attention [heads, n, n] with the columns of each group summed and its rows averaged."""
    weights = plan.matrix()
    members = [row.nonzero()[:, 0].tolist() for row in weights]
    columns = torch.stack([maps[:, :, group].sum(2) for group in members], dim=2)
    return torch.stack(
        [
            (columns[:, group] * weights[number, group][:, None]).sum(1)
            for number, group in enumerate(members)
        ],
        dim=1,
    )


@dataclass
class Recorded:
    """Records queries, keys and values of one layer, each [heads, rows, H], while it runs."""

    layer: Any
    count: int
    heads: dict[str, Tensor] = field(default_factory=dict)

    def __enter__(self) -> Recorded:
        self._hooks = [self._record(name) for name in ("q_proj", "k_proj", "v_proj")]
        return self

    def _record(self, name: str) -> Any:
        def note(_module: Any, _inputs: Any, out: Tensor) -> None:
            self.heads[name] = out[0].reshape(out.shape[1], self.count, -1).transpose(0, 1)

        return getattr(self.layer.self_attn, name).register_forward_hook(note)

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
