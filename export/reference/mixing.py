"""LoCoCo's mixing over a list of rows, in plain loops and float64: the reference of its graphs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgetok.export.reference.rows import Row
from edgetok.kv.mixer import Mixer

Array = npt.NDArray[Any]


def mix(
    mixer: Mixer, rows: Sequence[Row], ranks: Sequence[float], chosen: Sequence[int]
) -> list[Row]:
    """The rows at the places `chosen`, those of them that are no heaviest ones mixed.

    Args:
        ranks: what each row is chosen by.
    """
    weight, bias = mixer.weight.numpy().astype(float), mixer.bias.numpy().astype(float)
    by_rank = sorted(range(len(rows)), key=lambda at: (-ranks[at], at))
    heavy = set(by_rank[: len(chosen) - len(weight)])
    others = [rows[at] for at in range(len(rows)) if at not in heavy]
    found, slot = [], 0
    for at in chosen:
        if at in heavy or slot == len(weight):
            found.append(rows[at])
            continue
        shares = _shares(weight[slot], bias[slot], others)
        found.append(_mixed(rows[at], others, shares, mixer.eta))
        slot += 1
    return found


def _shares(weight: Array, bias: float, rows: Sequence[Row]) -> list[float]:
    """Softmax of one channel [2 H, W] of a convolution along the rows."""
    reach = weight.shape[1] // 2
    logits = []
    for at in range(len(rows)):
        total = float(bias)
        for tap in range(weight.shape[1]):
            place = at + tap - reach
            if 0 <= place < len(rows):
                seen = np.concatenate([rows[place].key, rows[place].value]).astype(float)
                total += float((weight[:, tap] * seen).sum())
        logits.append(total)
    powers = [np.exp(logit - max(logits)) for logit in logits]
    return [float(power / sum(powers)) for power in powers]


def _mixed(row: Row, others: Sequence[Row], shares: Sequence[float], eta: float) -> Row:
    key, value = (1 - eta) * row.key.astype(float), (1 - eta) * row.value.astype(float)
    for other, part in zip(others, shares, strict=True):
        key, value = key + eta * part * other.key, value + eta * part * other.value
    return replace(row, key=key.astype(np.float32), value=value.astype(np.float32))
