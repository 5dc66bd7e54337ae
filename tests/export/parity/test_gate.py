"""The parity check as a whole: that a rung which wavers silences no other one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from torch import Tensor

from edgetok import names
from edgetok.bundle.manifest import Precision
from edgetok.export.cases import synthetic_cases
from edgetok.export.parity.gate import Subject, check_parity
from edgetok.export.parity.ledger import require_parity
from edgetok.families import open_model
from edgetok.ladder import build_ladder
from edgetok.methods import METHODS
from edgetok.prefill import Prefill, find_prefill
from edgetok.prefill.look import Look
from edgetok.tokens import Plan, topk

BUDGETS = (4, 8, 16)


def cut_by(at_smallest: bool) -> Prefill:
    """Keeps the longest rows, but at the smallest rung what the last bits of rows say."""

    def cut(look: Look, keep: int) -> Plan:
        scores: Tensor = look.visual.norm(dim=1)
        if look.count == BUDGETS[0]:
            scores = _last_bits(look.visual) if at_smallest else -scores
        return Plan.gather(topk(scores, keep), look.count)

    found = find_prefill("random")
    assert found is not None
    return replace(found, method=replace(found.method, cut=cut))


def _last_bits(rows: Tensor) -> Tensor:
    return ((rows.double() * 1e9).round().long().sum(1) % 97).float()


@pytest.mark.parametrize("wavers", [True, False])
def test_a_rung_that_wavers_silences_no_other(
    building: ModuleType, model_dir: Path, tmp_path: Path, wavers: bool
) -> None:
    """One tower for all rungs, and a smallest rung at which PyTorch leaves open what is cut.

    Its graph keeps others there. All larger rungs must still be compared end to end.
    """
    parts, ladder = open_model(model_dir), build_ladder(BUDGETS, 48, 16)
    graphs_cache, cache = (
        building.keep_rows(ladder, cut_by(at_smallest)) for at_smallest in (False, wavers)
    )
    builder = building.make_builder(parts, ladder, graphs_cache, method=METHODS["fastervlm"])
    runner = building.run_graphs(builder, tmp_path, building.build(builder))
    subject = Subject(
        parts, METHODS["fastervlm"], ladder, cache, Precision("fp32", "fp32"), {"ort": runner}
    )
    checks = check_parity(subject, synthetic_cases(parts, 1))
    require_parity(checks)
    whole = {check.budget for check in checks if check.stage == "end to end"}
    is_open = {
        check.budget
        for check in checks
        if (check.output, check.measure, check.worst) == (names.PREFILL_KEPT, "decided", 0.0)
    }
    assert (whole, is_open) == (({8, 16}, {4}) if wavers else ({*BUDGETS}, set()))
