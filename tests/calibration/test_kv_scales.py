"""KV scales: the rotary envelope bounds keys at every position, not only at those measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgetok.calibration.kv_scales import LEVELS, measure_kv_scales, pair_radius, require_scales
from edgetok.errors import InputError
from edgetok.families import open_model


def test_envelope_is_the_same_at_every_angle() -> None:
    keys = torch.randn(1, 2, 5, 16)
    angle = torch.tensor(1.234)
    first, second = keys[..., :8], keys[..., 8:]
    turned = torch.cat(
        [first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], -1
    )
    torch.testing.assert_close(pair_radius(turned), pair_radius(keys))


def test_scales_hold_keys_shifted_to_other_positions(model_dir: Path) -> None:
    """The same rows 100 positions later: plain per-channel maxima would clip, these do not."""
    text = open_model(model_dir).text
    rows = torch.randn(1, 12, text.hidden, generator=torch.Generator().manual_seed(0))
    scales = measure_kv_scales(text, [rows])
    assert [tuple(s.shape) for s in scales[0]] == [(1, 2, 1, 16)] * 2
    shifted = torch.arange(100, 112)[None]
    with torch.no_grad():
        cache = text.model(inputs_embeds=rows, position_ids=shifted, use_cache=True).past_key_values
    keys = cache.layers[0].keys
    plain = text.model(inputs_embeds=rows, use_cache=True).past_key_values.layers[0].keys
    assert (keys.abs() <= scales[0][0] * LEVELS[8] * 1.0001).all()
    assert (keys.abs() > plain.abs().amax(2, keepdim=True) * 1.0001).any()


def test_no_rows_at_all(model_dir: Path) -> None:
    with pytest.raises(InputError, match="no samples"):
        measure_kv_scales(open_model(model_dir).text, [])


def test_rows_that_are_not_finite_give_no_scales(model_dir: Path) -> None:
    text = open_model(model_dir).text
    rows = torch.randn(1, 9, text.hidden)
    rows[0, 4, 0] = torch.nan
    with pytest.raises(InputError, match="keys of layer 0 are NaN or infinite on the samples"):
        measure_kv_scales(text, [torch.randn(1, 9, text.hidden), rows])


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan"), float("inf")])
def test_scales_that_nothing_can_be_divided_by_are_refused(wrong: float) -> None:
    right = torch.ones(1, 2, 1, 4)
    broken = right.clone()
    broken[0, 1, 0, 2] = wrong
    require_scales([(right, right)])
    with pytest.raises(InputError, match=r"a value scale of layer 1 is .* above 0 and finite"):
        require_scales([(right, right), (right, broken)])


def test_fewer_bits_have_coarser_scales(model_dir: Path) -> None:
    text = open_model(model_dir).text
    rows = [torch.randn(1, 9, text.hidden, generator=torch.Generator().manual_seed(0))]
    fine, coarse = (measure_kv_scales(text, rows, bits) for bits in (8, 4))
    for (key, _), (coarse_key, _) in zip(fine, coarse, strict=True):
        torch.testing.assert_close(coarse_key, key * LEVELS[8] / LEVELS[4])
