"""Features hand out what was asked of the tower, and nothing else."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from edgetok import names, tokens


def test_probes_are_found_by_name() -> None:
    probes = {
        names.CLS_ATTENTION: torch.rand(6),
        names.KEYS: torch.rand(6, 2),
        names.CLS_FEATURE: torch.rand(1, 4),
        names.RECEIVED_ATTENTION: torch.rand(6),
    }
    features = tokens.Features(torch.rand(6, 4), (2, 3), probes)
    assert features.cls_attention is probes[names.CLS_ATTENTION]
    assert features.keys is probes[names.KEYS]
    assert features.cls_feature is probes[names.CLS_FEATURE]
    assert features.received_attention is probes[names.RECEIVED_ATTENTION]


def test_a_probe_that_was_not_requested_is_named() -> None:
    features = tokens.Features(torch.rand(6, 4), (2, 3), {names.KEYS: torch.rand(6, 2)})
    with pytest.raises(LookupError, match=r"'cls_attention' was not requested \(keys\)"):
        _ = features.cls_attention


def test_rows_end_with_the_cls_row_if_there_is_one() -> None:
    x, cls_row = torch.rand(6, 4), torch.rand(1, 4)
    assert tokens.Features(x, (2, 3)).rows() is x
    rows = tokens.Features(x, (2, 3), {names.CLS_FEATURE: cls_row}).rows()
    assert torch.equal(rows, torch.cat([x, cls_row]))


def test_features_fill_their_grid() -> None:
    with pytest.raises(ValueError, match=r"6 features do not fill a grid of \(2, 4\)"):
        tokens.Features(torch.rand(6, 4), (2, 4))


def test_the_core_loads_without_torch_and_names_all_it_has() -> None:
    script = (
        "import sys; from edgetok import tokens; assert 'torch' not in sys.modules; "
        "assert all(hasattr(tokens, n) for n in tokens.__all__); "
        "assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = tokens.nonsense  # type: ignore[attr-defined]
