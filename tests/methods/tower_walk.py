"""A CLIP tower that reduces its rows, in float64 NumPy from the checkpoint's weights alone.

Shares nothing with the exporter, the driver or Hugging Face's layers; the steps are those of
`tower_loops.py`. So it says what a whole tower should be, block by block.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def walk(vision: Any, pixels: Array, method: str, steps: Any, inside: Any, loops: Any) -> Any:
    """pixels [3, h, w] -> rows [K, V], the patch that each is centred on, sizes.

    steps: patches left behind each block; inside: where rows are reduced and whether attention
    knows sizes; loops: the module with the step of each method.
    """
    weights = {n: p.detach().double().numpy() for n, p in vision.model.named_parameters()}
    depth = vision.model.config.num_hidden_layers
    encoder = SimpleNamespace(grid=vision.grid, prefix=1, blocks=len(steps), depth=depth)
    x = embed(weights, pixels, vision.model.config)
    state = SimpleNamespace(
        x=x, centres=[-1, *range(len(x) - 1)], sizes=np.ones(len(x)), score=None
    )
    for number, keep in enumerate(steps):
        block = Block(weights, number, vision.heads)
        look = see(block, state, encoder, number, inside.proportional)
        if inside.place == "after attention":
            state.x = state.x + block.attend(state.x, look.bias)
            reduce(state, look, method, keep, loops)
            state.x = state.x + block.feed(state.x)
        elif inside.place == "after block":
            state.x = state.x + block.attend(state.x, look.bias)
            state.x = state.x + block.feed(state.x)
            reduce(state, look, method, keep, loops)
        else:
            maps = loops.map_of(look)
            taken = reduce(state, look, method, keep, loops)
            mixed = merge_maps(maps, taken) if taken is not None else maps
            state.x = state.x + block.mix(mixed, state.x)
            state.x = state.x + block.feed(state.x)
    return state.x[1:], state.centres[1:], state.sizes[1:]


def reduce(state: Any, look: Any, method: str, keep: int, loops: Any) -> Array | None:
    """One step on the rows as they are now; returns the weights, or None if none go."""
    look.x, look.running = state.x, state.score
    if method == "flowcut":
        state.score = look.running = np.array(loops.flowcut_score(look))
    if keep == len(state.x) - 1:
        return None
    weights, centres, sizes = loops.STEPS[method](look, keep)
    state.x, state.sizes = weights @ state.x, np.array(sizes)
    state.centres = [state.centres[row] if row >= 0 else -1 for row in centres]
    if state.score is not None:
        state.score = state.score[[row - 1 for row in centres[1:]]]
    return weights


def see(block: Block, state: Any, encoder: Any, number: int, proportional: bool) -> Any:
    query, key, value = block.project(state.x)
    bias = np.log(state.sizes) if proportional else None
    return SimpleNamespace(
        x=state.x, query=query, key=key, value=value, sizes=state.sizes, bias=bias,
        encoder=encoder, prefix=1, block=number, running=state.score,
    )  # fmt: skip


class Block:
    """One block of CLIP's encoder: layer norm, attention, layer norm, MLP with quick GELU."""

    def __init__(self, weights: dict[str, Array], number: int, heads: int) -> None:
        start = next(n for n in weights if ".layers.0." in n).split("layers.0.")[0]
        prefix = f"{start}layers.{number}."
        self.own = {n[len(prefix) :]: w for n, w in weights.items() if n.startswith(prefix)}
        self.heads = heads

    def linear(self, name: str, x: Array) -> Array:
        return x @ self.own[f"{name}.weight"].T + self.own[f"{name}.bias"]

    def norm(self, name: str, x: Array) -> Array:
        return layer_norm(x, self.own[f"{name}.weight"], self.own[f"{name}.bias"])

    def project(self, x: Array) -> tuple[Array, Array, Array]:
        """Scaled queries, keys and values [heads, n, H]."""
        normed = self.norm("layer_norm1", x)
        parts = [self.split(self.linear(f"self_attn.{n}_proj", normed)) for n in "qkv"]
        return parts[0] / math.sqrt(parts[0].shape[2]), parts[1], parts[2]

    def split(self, rows: Array) -> Array:
        return np.stack(np.split(rows, self.heads, axis=1))

    def attend(self, x: Array, bias: Array | None) -> Array:
        query, key, value = self.project(x)
        scores = query @ key.transpose(0, 2, 1) + (0 if bias is None else bias)
        return self.out(softmax(scores) @ value)

    def mix(self, maps: Array, x: Array) -> Array:
        """A given map over the values of these rows."""
        return self.out(maps @ self.project(x)[2])

    def out(self, heads: Array) -> Array:
        return self.linear("self_attn.out_proj", np.concatenate(list(heads), axis=1))

    def feed(self, x: Array) -> Array:
        hidden = self.linear("mlp.fc1", self.norm("layer_norm2", x))
        return self.linear("mlp.fc2", hidden / (1 + np.exp(-1.702 * hidden)))


def embed(weights: dict[str, Array], pixels: Array, config: Any) -> Array:
    """Patches, the class row in front, positions, and CLIP's first norm."""
    named = {n.split("embeddings.")[1]: w for n, w in weights.items() if "embeddings." in n}
    side, kernel = config.patch_size, named["patch_embedding.weight"]
    rows = [
        kernel.reshape(len(kernel), -1) @ pixels[:, i : i + side, j : j + side].reshape(-1)
        for i in range(0, pixels.shape[1], side)
        for j in range(0, pixels.shape[2], side)
    ]
    x = np.array([named["class_embedding"], *rows]) + named["position_embedding.weight"]
    first = {n.split(".")[-1]: w for n, w in weights.items() if "pre_layrnorm" in n}
    return layer_norm(x, first["weight"], first["bias"])


def layer_norm(x: Array, weight: Array, bias: Array) -> Array:
    centred = x - x.mean(1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5) * weight + bias


def softmax(scores: Array) -> Array:
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def merge_maps(maps: Array, weights: Array) -> Array:
    """Columns of a group summed, its rows averaged by their weights (MCTF)."""
    groups = [np.flatnonzero(row) for row in weights]
    columns = np.stack([maps[:, :, group].sum(2) for group in groups], axis=2)
    rows = [
        sum(weights[number, row] * columns[:, row] for row in group)
        for number, group in enumerate(groups)
    ]
    return np.stack(rows, axis=1)
