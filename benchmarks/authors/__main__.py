"""Holds methods against their authors' own functions: `python benchmarks/authors REPOSITORIES`.

None of their code is kept here. Clone each repository that `--list` names into a folder, under its
name without the owner (a bare clone will do); functions are taken out of the commit named, by their
names, and get the same tensors as ours. Writes docs/results/authors.json: a run of some systems
replaces their rows alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import behind
import merged
import policies
import prefill
import quarters
import stores
import tiles
import tower
import windows
from frame import Row, Source

ROWS: Sequence[Row] = (
    *(*tower.ROWS, *windows.ROWS, *behind.ROWS, *merged.ROWS, *tiles.ROWS),
    *(*prefill.ROWS, *quarters.ROWS, *policies.ROWS, *stores.ROWS),
)
RESULTS = Path(__file__).parents[2] / "docs" / "results" / "authors.json"
HEAD = ("system", "authors' code", "compared", "equal cases", "mean overlap")


def compare(row: Row, repositories: Path) -> dict[str, str | int | float]:
    """One row of the table."""
    shares = [*row.compare(Source(repositories / row.repository.split("/")[1], row.commit))]
    return {
        "system": row.system,
        "code": f"{row.repository}@{row.commit}",
        "compared": row.compared,
        "cases": len(shares),
        "equal": sum(share == 1 for share in shares),
        "overlap": round(sum(shares) / len(shares), 4),
    }


def as_line(found: dict[str, str | int | float]) -> str:
    equal = f"{found['equal']} of {found['cases']}"
    parts = (found["system"], found["code"], found["compared"], equal, f"{found['overlap']:.3f}")
    return "| " + " | ".join(map(str, parts)) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("repositories", type=Path, nargs="?", default=Path())
    parser.add_argument("--only", nargs="*", help="systems; all if left out")
    parser.add_argument("--list", action="store_true", help="repositories and commits, then end")
    given = parser.parse_args()
    rows = [row for row in ROWS if not given.only or row.system in given.only]
    if given.list:
        print(*sorted({f"{row.repository}@{row.commit}" for row in rows}), sep="\n")
        return
    print("| " + " | ".join(HEAD) + " |\n" + "|" + "---|" * len(HEAD))
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    before = {(each["system"], each["compared"]): each for each in known}
    for row in rows:
        found = compare(row, given.repositories)
        print(as_line(found), flush=True)
        before[row.system, row.compared] = found
        written = [before[key] for key in sorted(before)]
        RESULTS.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
