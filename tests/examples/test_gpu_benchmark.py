"""The script that measures a GPU, tried without one: it runs to its end and compares answers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
def test_the_gpu_benchmark_runs_dry(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    out = tmp_path / "gpu.json"
    command = [sys.executable, "gpu.py", "--dry-run", "yes", "--budgets", "64", "--json", str(out)]
    done = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = {row["what"]: row for row in json.loads(out.read_text())["rows"]}
    assert rows["cpu at 64"]["equal answers"] == "2/2"
    for name in ("Hugging Face eager", "Hugging Face compiled", "edgetok cpu at 64"):
        assert rows[name]["first token, ms"] > 0 and rows[name]["ms per token"] > 0
    assert rows["Hugging Face eager"]["faster"] == 1
