"""The check of towers that reduce their rows: what was made of the patches, and then the rows.

Between rows that are all but equally alike, the last bits of a sum decide, and those differ
between any two programs. A case is *undecided* at a rung if PyTorch itself merges otherwise when
its pixels move by three to ten millionths: a graph that differs there is held to the mean over all
patches, which hardly depends on who merged with whom, and not to each row. So is one whose rows
PyTorch itself moves as far: soft clusters fork in no place, and still enlarge what differs.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from edgetok import names
from edgetok.export.parity.ledger import Ledger
from edgetok.export.parity.undecided import NUDGE, nudged
from edgetok.export.reference.model import Reference

Array = npt.NDArray[Any]


def check_reducing_tower(
    ledger: Ledger,
    reference: Reference,
    pixels: Tensor,
    budget: int,
    got: dict[str, Array],
    expected: dict[str, Tensor],
) -> bool:
    """Compare the tower of a rung; says whether what follows it can be compared too.

    Quantized graphs merge otherwise all the time: of them, rows are compared where both made the
    same of the patches.
    """
    want = {name: value.numpy() for name, value in expected.items()}
    same, off, limit = _made_the_same(got, want), _distance(got, want), ledger.limits.max_abs
    if limit is not None and off > limit and is_undecided(reference, pixels, budget, want, off):
        ledger.record("tower", budget, names.TOWER_KEPT, "decided", 0.0, min)
        ledger.record("tower", budget, names.FEATURES, "pooled", _pooled_cosine(got, want), min)
        return False
    ledger.record("tower", budget, names.TOWER_KEPT, "decided", 1.0, min)
    ledger.record("tower", budget, names.TOWER_KEPT, "kept", float(same.mean()), min)
    if same.any():
        rows = got[names.FEATURES][same]
        ledger.compare("tower", budget, names.FEATURES, rows, want[names.FEATURES][same])
    return True


def is_undecided(
    reference: Reference, pixels: Tensor, budget: int, plain: dict[str, Array], off: float
) -> bool:
    """Whether PyTorch makes something else than `plain` when pixels move by millionths.

    Something else is other groups, or rows that are at least half of `off` away.
    """
    for other in chain(nudged(pixels), nudged(pixels, 3 * NUDGE)):
        moved = reference.encode(other, budget)
        if _distance({n: v.numpy() for n, v in moved.items()}, plain) >= off / 2:
            return True
    return False


def _distance(got: dict[str, Array], want: dict[str, Array]) -> float:
    """How far rows are apart, as the parity check's `max_abs` counts; infinite for other groups."""
    if not _made_the_same(got, want).all():
        return float("inf")
    rows, expected = got[names.FEATURES], want[names.FEATURES]
    return float(np.abs(rows - expected).max() / max(1.0, np.abs(expected).max() / 10))


def _made_the_same(got: dict[str, Array], want: dict[str, Array]) -> Array:
    """True at the rows of one centre and one size: [K] bool."""
    centres: Array = got[names.TOWER_KEPT] == want[names.TOWER_KEPT]
    alike: Array = np.isclose(got[names.TOWER_SIZES], want[names.TOWER_SIZES], rtol=1e-3)
    return np.logical_and(centres, alike)


def _pooled_cosine(got: dict[str, Array], want: dict[str, Array]) -> float:
    """Cosine of the means over rows by size."""
    means = [side[names.TOWER_SIZES] @ side[names.FEATURES] for side in (got, want)]
    lengths = float(np.linalg.norm(means[0]) * np.linalg.norm(means[1]))
    return float(means[0] @ means[1]) / max(lengths, 1e-30)
