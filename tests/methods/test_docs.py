"""docs/methods.md is what its script writes."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def page() -> ModuleType:
    path = ROOT / "benchmarks/methods_page.py"
    spec = importlib.util.spec_from_file_location("methods_page", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(page: ModuleType) -> None:
    report = json.loads(page.RESULTS.read_text()) if page.RESULTS.exists() else None
    written = (ROOT / "docs/methods.md").read_text(encoding="utf-8")
    assert written == page.render(report), "docs/methods.md is out of date: run `make docs`"


def make_row(method: str, right: int, **tests: Any) -> dict[str, Any]:
    score = {"right": right, "of": 100, "low": 0.2, "high": 0.9}
    return {"method": method, "seed": 0, "tokens": 64, "all": score, "kinds": {"a": score}} | tests


def test_what_does_not_beat_a_baseline_is_marked(page: ModuleType, tmp_path: Path) -> None:
    won, even = {"wins": 30, "losses": 5, "p": 0.001}, {"wins": 11, "losses": 10, "p": 1.0}
    lost = {"wins": 5, "losses": 30, "p": 0.001}
    report = {
        "title": "100 questions",
        "machine": {"torch": "2"},
        "weights_sha256": "0" * 64,
        "agreement": "10 of 10",
        "rows": [
            make_row("random", 40, pool=even),
            make_row("pool", 40, random=even),
            make_row("divprune", 65, random=won, pool=won),
            make_row("todre", 15, random=lost, pool=even),
        ],
    }
    text = page.render(report)
    assert "| divprune | 65.0 (20.0–90.0) |" in text
    assert "| todre | 15.0 (20.0–90.0) **r** **p** |" in text
    assert "| pool | 40.0 (20.0–90.0) **r** |" in text
    page.plot(report, tmp_path / "plot.png")
    assert 1000 < (tmp_path / "plot.png").stat().st_size < 200_000


def test_what_says_that_nothing_differs_was_compared_and_is_equal(page: ModuleType) -> None:
    found = json.loads(page.AUTHORS.read_text(encoding="utf-8"))
    methods = [*page.KNOWN.values(), *page.FRAME_METHODS.values(), *page.PREFILL_METHODS.values()]
    alike = {method.name: method for method in methods if method.differs == "nothing"}
    assert len(alike) > 5
    for name, method in alike.items():
        rows = [row for row in found if row["system"] == name]
        assert rows and all(row["equal"] == row["cases"] for row in rows), name
        assert method.verdict == "exact", name
