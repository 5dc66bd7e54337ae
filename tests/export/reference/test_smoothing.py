"""Smoothing: the model computes the same, and large channels do no harm once it is rounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgetok.errors import InputError
from edgetok.export.cases import synthetic_cases
from edgetok.export.lowering.levels import round_matrix
from edgetok.export.reference.model import Reference
from edgetok.export.reference.smoothing import look_and_read, smooth
from edgetok.families import open_model
from edgetok.methods import METHODS

RESTS_ON = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")


def _open(model_dir: Path) -> tuple[Reference, list[Any]]:
    parts = open_model(model_dir)
    return Reference(parts, METHODS["pool"]), synthetic_cases(parts, 2)


@torch.no_grad()
def _attack(reference: Reference) -> None:
    """Channels of norms and of what o_proj and down_proj read, 10 to 300 times as large."""
    numbers = torch.Generator().manual_seed(0)

    def draw(count: int) -> torch.Tensor:
        hit = torch.rand(count, generator=numbers) < 0.1
        return torch.where(hit, 10 + 290 * torch.rand(count, generator=numbers), torch.ones(count))

    for layer in reference.parts.text.layers:
        attention, mlp = layer.self_attn, layer.mlp
        read = {layer.input_layernorm: (attention.q_proj, attention.k_proj, attention.v_proj)}
        read[layer.post_attention_layernorm] = (mlp.gate_proj, mlp.up_proj)
        for norm, linears in read.items():
            by = draw(len(norm.weight))
            _multiply(norm, by)
            for linear in linears:
                linear.weight = nn.Parameter(linear.weight / by)
        for maker, reader in ((attention.v_proj, attention.o_proj), (mlp.up_proj, mlp.down_proj)):
            by = draw(maker.out_features)
            maker.weight = nn.Parameter(maker.weight * by[:, None])
            width = reference.parts.text.head_dim if reader.in_features > len(by) else len(by)
            spread = by.reshape(-1, width).repeat_interleave(reader.in_features // len(by), 0)
            reader.weight = nn.Parameter(reader.weight / spread.reshape(-1))


def _multiply(norm: nn.Module, by: torch.Tensor) -> None:
    norm.weight = nn.Parameter(norm.weight * by)  # type: ignore[operator]


@torch.no_grad()
def _round_all(reference: Reference) -> Any:
    """Rounds what Linears of the decoder read, row by row, and their weights, in PyTorch."""

    def rounded(_: nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        step = (given[0].abs().amax(-1, keepdim=True) / 127).clamp_min(1e-30)
        return (torch.round(given[0] / step) * step,)

    for layer in reference.parts.text.layers:
        for linear in (m for m in layer.modules() if isinstance(m, nn.Linear)):
            weight = round_matrix(linear.weight.numpy().T, 8).T
            linear.weight = nn.Parameter(torch.from_numpy(np.ascontiguousarray(weight)))
            linear.register_forward_pre_hook(rounded)


def _off(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got - want).norm() / want.norm())


def test_the_model_computes_the_same(model_dir: Path) -> None:
    reference, cases = _open(model_dir)
    before = look_and_read(reference, cases[0])
    norm = reference.parts.text.layers[0].input_layernorm.weight.clone()
    smooth(reference, cases)
    assert not torch.equal(norm, reference.parts.text.layers[0].input_layernorm.weight)
    torch.testing.assert_close(look_and_read(reference, cases[0]), before, rtol=0, atol=1e-4)


def test_large_channels_do_no_harm(model_dir: Path) -> None:
    def logits_off(*, attacked: bool, smoothed: bool) -> float:
        reference, cases = _open(model_dir)
        want = look_and_read(reference, cases[0])
        if attacked:
            _attack(reference)
            torch.testing.assert_close(look_and_read(reference, cases[0]), want, rtol=0, atol=1e-3)
        if smoothed:
            smooth(reference, cases)
        _round_all(reference)
        logits = reference.parts.text.model.config.vocab_size
        return _off(look_and_read(reference, cases[0])[-logits:], want[-logits:])

    plain = logits_off(attacked=False, smoothed=True)
    assert logits_off(attacked=True, smoothed=False) > 5 * plain  # the attack is one
    assert logits_off(attacked=True, smoothed=True) < 1.3 * plain


def test_a_row_a_thousand_times_as_large_does_no_harm(model_dir: Path) -> None:
    def last_off(factor: float) -> float:
        reference, cases = _open(model_dir)
        embedding = reference.parts.text.model.get_input_embeddings()
        with torch.no_grad():
            rows = embedding.weight.clone()
            rows[cases[0].before[0]] *= factor
            embedding.weight = nn.Parameter(rows)
        want = look_and_read(reference, cases[0])
        smooth(reference, cases)
        _round_all(reference)
        logits = reference.parts.text.model.config.vocab_size
        return _off(look_and_read(reference, cases[0])[-logits:], want[-logits:])

    assert last_off(1000.0) < 2 * last_off(1.0)


def test_a_model_that_makes_nan_is_refused(model_dir: Path) -> None:
    reference, cases = _open(model_dir)
    with torch.no_grad():
        reference.parts.text.layers[0].mlp.down_proj.weight.fill_(float("nan"))
    with pytest.raises(InputError, match="NaN"):
        smooth(reference, cases)
