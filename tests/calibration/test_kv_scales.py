"""KV scales: the rotary envelope bounds keys at every position, not only at those measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgetok.calibration.kv_scales import LEVELS, measure_kv_scales, pair_radius
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
