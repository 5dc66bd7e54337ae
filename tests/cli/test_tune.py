"""`edgetok tune` on a tiny model: exports, measures, draws, resumes; refuses what is no search."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Run


def options(samples: Path, folder: Path) -> tuple[object, ...]:
    grid = ("--weights", "fp32,int8", "--kv", "fp32", "--budgets", "4,16")
    return ("--data", samples, "-o", folder, *grid, "--count", 4, "--repeats", 1, "--threads", 1)


@pytest.mark.slow
def test_a_search_is_a_front_a_plot_and_a_journal(
    edgetok: Run, model_dir: Path, samples: Path, tmp_path: Path
) -> None:
    asked = ("tune", model_dir, *options(samples, tmp_path / "tuned"), "--methods", "pool,no-such")
    done = edgetok(*asked, "--plot", tmp_path / "front.svg", "--json")
    assert done.code == 0, done.err
    fields = done.json
    assert fields["tried"] == 4 and len(fields["points"]) == 4
    assert {point["method"] for point in fields["points"]} == {"pool"}
    assert set(fields["failed"]) == {"no-such-fp32-fp32-none", "no-such-int8-fp32-none"}
    assert fields["best"] in fields["front"] and all(p in fields["points"] for p in fields["front"])
    assert "<svg" in (tmp_path / "front.svg").read_text()
    journal = (tmp_path / "tuned/journal.jsonl").read_bytes()
    assert len(journal.splitlines()) == 4
    again = edgetok(*asked, "--max-memory", "1MiB", "--json")
    assert again.code == 0 and again.json["best"] is None
    assert again.json["points"] == [point | {"within": False} for point in fields["points"]]
    assert (tmp_path / "tuned/journal.jsonl").read_bytes() == journal
    shown = edgetok(*asked)
    assert "edgetok export" in shown.out and "no-such-int8-fp32-none cannot be used" in shown.err


@pytest.mark.parametrize(
    ("more", "code", "says"),
    [
        (("--max-memory", "2 parsec"), 2, "no size; write it like 512MiB or 2GiB"),
        (("--max-ttft-ms", "0"), 2, "no positive number"),
        (("--methods", ","), 2, "0 combinations"),
        (("--plot", "front.bmp"), 2, "front.bmp"),
    ],
)
def test_bad_requests_are_sentences(
    edgetok: Run, samples: Path, tmp_path: Path, more: tuple[str, ...], code: int, says: str
) -> None:
    done = edgetok("tune", tmp_path, *options(samples, tmp_path / "tuned"), *more)
    assert done.code == code and says in done.err and "Traceback" not in done.err
    assert not (tmp_path / "tuned").exists()


def test_samples_and_model_are_looked_at_before_anything_is_made(
    edgetok: Run, samples: Path, tmp_path: Path
) -> None:
    image = samples.parent / "1.png"
    blind = tmp_path / "blind.jsonl"
    blind.write_text(json.dumps({"image": str(image), "prompt": "?"}) + "\n")
    done = edgetok("tune", tmp_path, *options(blind, tmp_path / "tuned"))
    assert done.code == 5 and "1 of 1 samples have no `answer`" in done.err
    done = edgetok("tune", tmp_path / "none", *options(samples, tmp_path / "tuned"))
    assert done.code == 5 and "is no directory" in done.err
    assert not (tmp_path / "tuned").exists()
