"""Heads of encoders: from what a tower leaves to logits or an embedding.

A head reads rows of [prefix + n, V] whatever n is. Means over patches count a row as often as the
patches that it stands for (ToMe, arXiv 2210.09461, has it so where a model pools); a pooling
attention does so where the method's attention does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edgetok.families.encoder_parts import Encoded


class RowHead(nn.Module):
    """The last norm, then `then` of one prefix row [1, V]."""

    def __init__(self, norm: nn.Module, row: int, then: nn.Module) -> None:
        super().__init__()
        self.norm, self.row, self.then = norm, row, then

    def forward(self, seen: Encoded) -> Tensor:
        rows = seen.rows[self.row : self.row + 1]
        out: Tensor = self.then(self.norm(rows))
        return out


class PairHead(nn.Module):
    """The mean of two classifiers, each on a prefix row of its own (DeiT, distilled)."""

    def __init__(self, norm: nn.Module, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.norm, self.first, self.second = norm, first, second

    def forward(self, seen: Encoded) -> Tensor:
        rows = self.norm(seen.rows[:2])
        out: Tensor = (self.first(rows[:1]) + self.second(rows[1:])) / 2
        return out


class MeanHead(nn.Module):
    """`then` of the mean over the rows from `start` on, after the CLS row if `beside_cls`."""

    def __init__(
        self, norm: nn.Module, start: int, then: nn.Module, *, beside_cls: bool = False
    ) -> None:
        super().__init__()
        self.norm, self.start, self.then, self.beside_cls = norm, start, then, beside_cls

    def forward(self, seen: Encoded) -> Tensor:
        rows, sizes = self.norm(seen.rows), seen.sizes[self.start :]
        mean = (sizes @ rows[self.start :] / sizes.sum()).unsqueeze(0)
        out: Tensor = self.then(torch.cat([rows[:1], mean], 1) if self.beside_cls else mean)
        return out


class AttentionPool(nn.Module):
    """SigLIP's pooling: one learned query attends to all rows, then norm and MLP."""

    def __init__(self, norm: nn.Module, head: Any) -> None:
        super().__init__()
        self.norm, self.after, self.mlp = norm, head.layernorm, head.mlp
        attention = head.attention
        self.heads, self.out = attention.num_heads, attention.out_proj
        weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
        self.query, self.key, self.value = map(_linear, weights, biases)
        self.probe = head.probe

    def forward(self, seen: Encoded) -> Tensor:
        rows = self.norm(seen.rows)
        query, key, value = (
            each.reshape(each.shape[0], self.heads, -1).transpose(0, 1)
            for each in (self.query(self.probe[0]), self.key(rows), self.value(rows))
        )
        scores = (query * query.shape[2] ** -0.5) @ key.transpose(1, 2)  # [heads, 1, n]
        scores = scores if seen.bias is None else scores + seen.bias
        mixed = (torch.softmax(scores, dim=-1) @ value).transpose(0, 1).flatten(1)  # [1, V]
        pooled = self.out(mixed)
        out: Tensor = pooled + self.mlp(self.after(pooled))
        return out


class Unit(nn.Module):
    """What `inner` makes, brought to length 1."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, seen: Any) -> Tensor:
        return unit(self.inner(seen))


def unit(rows: Tensor) -> Tensor:
    """[m, E] -> rows of length 1."""
    return rows / (rows * rows).sum(-1, keepdim=True).sqrt()


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0])
    made.weight, made.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
    return made.requires_grad_(False)
