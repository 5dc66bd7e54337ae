"""Rows with a scale per slot, against one row after another in plain loops."""

from __future__ import annotations

import pytest
import torch

from edgetok.kv.stores.slots import (
    build_equaliser,
    dequantize_rows,
    quantize_rows,
    width_of,
)


def _loop(row: torch.Tensor, bits: int) -> tuple[list[int], float]:
    """Levels of one row by Python's own round, which also takes the even of two."""
    top = 2 ** (bits - 1) - 1
    largest = max(abs(float(x)) for x in row)
    scale = torch.tensor(largest / top).clamp(min=1e-8)
    return [round(float(x / scale)) for x in row], float(scale)


def _unpack(packed: torch.Tensor) -> list[int]:
    """Two channels of each byte, by bits: the low half is 8 too large."""
    low = [(int(byte) & 15) - 8 for byte in packed]
    high = [int(byte) >> 4 for byte in packed]
    return low + high


@pytest.mark.parametrize("bits", [8, 4])
def test_levels_are_those_of_the_loop(bits: int) -> None:
    rows = torch.randn(1, 2, 5, 16, generator=torch.Generator().manual_seed(bits))
    rows[0, 0, 1] = 0
    rows[0, 1, 2] *= 1000
    levels, scales = quantize_rows(rows, bits)
    assert levels.dtype == torch.int8
    assert levels.shape == (1, 2, 5, width_of(16, bits))
    for group in range(2):
        for slot in range(5):
            want, scale = _loop(rows[0, group, slot], bits)
            held = levels[0, group, slot]
            assert (_unpack(held) if bits == 4 else held.tolist()) == want
            assert float(scales[0, group, slot]) == pytest.approx(scale, rel=1e-6)
            back = dequantize_rows(levels, scales, bits)[0, group, slot]
            assert back.tolist() == pytest.approx([level * scale for level in want], rel=1e-5)


@pytest.mark.parametrize("bits", [8, 4])
def test_every_level_comes_back(bits: int) -> None:
    top = 2 ** (bits - 1) - 1
    row = torch.arange(-top, top + 1).float()
    row = torch.cat([row, row.flip(0)])[None, None, None]  # every pair of nibbles that mirrors
    levels, scales = quantize_rows(row * 0.25, bits)
    torch.testing.assert_close(dequantize_rows(levels, scales, bits), row * 0.25)


def test_an_equaliser_makes_channels_alike_and_spares_unused_ones() -> None:
    measured = torch.tensor([[[[10.0, 0.1, 0.0]], [[2.0, 2.0, 1.0]]]])
    share = build_equaliser(measured)
    torch.testing.assert_close(share, torch.tensor([[[[1.0, 0.01, 1e-3]], [[1.0, 1.0, 0.5]]]]))


def test_equalised_rows_lose_less(bits: int = 4) -> None:
    torch.manual_seed(0)
    size = torch.logspace(-2, 1, 16)
    rows = torch.randn(1, 1, 64, 16) * size
    share = build_equaliser(rows.abs().amax(2, keepdim=True))
    plain = dequantize_rows(*quantize_rows(rows, bits), bits)
    even = dequantize_rows(*quantize_rows(rows / share, bits), bits) * share
    lost = [(((x - rows) / size) ** 2).mean() for x in (plain, even)]
    assert lost[1] < lost[0] / 10
