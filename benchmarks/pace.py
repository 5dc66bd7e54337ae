"""A limit on the first token, decided offline on the times of a machine that others use as well.

    python benchmarks/controller.py     # records how long every rung took for every question
    python benchmarks/pace.py --json docs/results/pace.json

The table is made of early questions, the limit of it; then 500 questions each, from ever later on,
are decided by the policy that a loaded model has, which learns from the times of the rungs that it
chose and never sees those of others. How often the smallest rung would have held the limit says
what was possible, and the largest rung within the table's limit what the table alone holds.
"""

from __future__ import annotations

from typing import Any

import common
import msgspec
import numpy as np

from edgetok.calibration.records import Record
from edgetok.control import BenchTable, Limit, Pace, Row, Steady
from edgetok.ladder import build_ladder

BUDGETS = (16, 32, 64, 128, 576)
STRETCH = 500


def main() -> None:
    options = common.arguments(__doc__, questions=3000, method="vtc-cls", first=20, table=200)
    path = common.OUT / f"controller-{options.method}-{options.questions}.jsonl"
    lines = path.read_bytes().splitlines()
    records = [msgspec.json.decode(line, type=Record) for line in lines]
    times = np.array([[r.tower_ms + r.rungs[b].ms for b in BUDGETS] for r in records])
    end = options.first + options.table
    table = _table(times[options.first : end])
    starts = range(end, len(times) - STRETCH + 1, STRETCH)
    rows = [
        _decide(times[start : start + STRETCH], table, share) | {"from question": start}
        for share in (1.3, 2.0)
        for start in starts
    ]
    title = f"limits decided on recorded times of whole answers, {STRETCH} questions each"
    common.report(title, rows, options.json)


def _table(times: Any) -> BenchTable:
    p50, p95 = np.percentile(times, [50, 95], axis=0)
    rows = (Row(b, float(p50[i]), float(p95[i]), 0, 0) for i, b in enumerate(BUDGETS))
    return BenchTable("0" * 64, "cpu", tuple(rows))


def _decide(times: Any, table: BenchTable, share: float) -> dict[str, Any]:
    limit_ms = share * table.rows[-1].ttft_ms_p95
    pace, ladder = Pace(table), build_ladder(BUDGETS, 96, 128)
    policy = Steady(Limit(table, limit_ms, pace=pace))
    chosen = []
    for row in times:
        rung = BUDGETS.index(policy.choose(ladder, {}).rung.budget)
        pace.note(BUDGETS[rung], float(row[rung]))
        chosen.append(rung)
    held = times[np.arange(len(times)), chosen] <= limit_ms
    return {
        "limit ms": limit_ms,
        "% held": 100 * float(held.mean()),
        "% possible": 100 * float((times[:, 0] <= limit_ms).mean()),
        "% by the table alone": 100 * float((times[:, -1] <= limit_ms).mean()),
        "mean tokens": float(np.array(BUDGETS)[chosen].mean()),
        "largest rung median ms": float(np.median(times[:, -1])),
    }


if __name__ == "__main__":
    main()
