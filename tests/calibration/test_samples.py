"""Sample files are read strictly, with the line named; draws are spread and repeatable."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetok import limits
from edgetok.calibration.samples import FOLDER_PROMPT, Sample, draw, load_samples
from edgetok.errors import InputError, UsageError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.png", "a.JPG", "c.webp", "notes.txt"):
        (tmp_path / name).write_bytes(b"not looked at here")
    (tmp_path / "sub.png").mkdir()
    return tmp_path


def write(folder: Path, *lines: object) -> Path:
    path = folder / "samples.jsonl"
    text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(text), encoding="utf-8")
    return path


def test_lines_become_samples_with_images_beside_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(
        folder,
        {"image": "b.png", "prompt": "Which colour?", "answer": "blau – für", "kind": "colour"},
        "",
        {"image": str(folder / "a.JPG"), "prompt": "Read."},
    )
    expected = (
        Sample(folder / "b.png", "Which colour?", "blau – für", "colour"),
        Sample(folder / "a.JPG", "Read.", None, None),
    )
    assert load_samples(path) == expected
    monkeypatch.chdir(folder)
    assert load_samples("samples.jsonl") == expected  # absolute, wherever the program runs


def test_a_folder_gives_its_images_by_name(folder: Path) -> None:
    samples = load_samples(folder)
    assert [s.image.name for s in samples] == ["a.JPG", "b.png", "c.webp"]
    assert {s.prompt for s in samples} == {FOLDER_PROMPT}


def test_count_stops_reading(folder: Path) -> None:
    path = write(folder, {"image": "b.png", "prompt": "1"}, "broken")
    assert [s.prompt for s in load_samples(path, count=1)] == ["1"]
    assert len(load_samples(folder, count=2)) == 2
    with pytest.raises(UsageError, match="0 samples were asked for"):
        load_samples(path, count=0)


GOOD = {"image": "b.png", "prompt": "?"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({**GOOD, "colour": 1}, "unknown field `colour`"),
        ({"image": "b.png"}, "missing required field `prompt`"),
        ({**GOOD, "prompt": 5}, "Expected `str`"),
        ({**GOOD, "prompt": ""}, "length >= 1"),
        ({**GOOD, "image": ""}, "length >= 1"),
        ({**GOOD, "image": "none.png"}, "no image at .*none.png"),
        ({**GOOD, "image": "sub.png"}, "no image at .*sub.png"),
        ({**GOOD, "image": "x" * 4000}, "no image at"),
        ({**GOOD, "image": "x\0.png"}, "no image at"),
        ("[]", "Expected `object`"),
        ("{", "truncated"),
        ("[" * 5000, "RecursionError|recursion|Expected `object`"),
        ('{"image": "b.png", "prompt": "\\ud800"}', "truncated|surrogate|malformed"),
        ({**GOOD, "prompt": "x" * limits.SAMPLE_LINE_BYTES}, "longer than"),
    ],
)
def test_a_bad_line_is_named(folder: Path, line: object, message: str) -> None:
    path = write(folder, GOOD, "", line)
    with pytest.raises(InputError, match=rf"(?s)samples\.jsonl:3: .*({message})"):
        load_samples(path)


def test_bytes_that_are_no_text_are_refused(folder: Path) -> None:
    path = folder / "samples.jsonl"
    path.write_bytes(b'{"image": "b.png", "prompt": "\xff\xfe"}')
    with pytest.raises(InputError, match=r"samples\.jsonl:1: "):
        load_samples(path)


def test_nothing_to_read_is_an_error(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no samples"):
        load_samples(write(folder, "", " "))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="holds no samples; give a JSONL file or a folder"):
        load_samples(empty)
    with pytest.raises(InputError, match=r"cannot read samples from .*gone: No such file"):
        load_samples(tmp_path / "gone")


def test_an_oversized_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.jsonl"
    with path.open("wb") as file:
        os.truncate(file.fileno(), limits.SAMPLES_FILE_BYTES + 1)  # sparse: takes no space
    with pytest.raises(InputError, match=f"the limit is {limits.SAMPLES_FILE_BYTES}"):
        load_samples(path)


def samples_of(kinds: list[str | None]) -> list[Sample]:
    return [Sample(Path(f"/{i}.png"), "?", None, kind) for i, kind in enumerate(kinds)]


@given(
    st.lists(st.sampled_from([None, "count", "colour", "text"]), min_size=1, max_size=60),
    st.integers(1, 70),
    st.integers(0, 5),
)
def test_draws_are_distinct_ordered_repeatable_and_fair(
    kinds: list[str | None], count: int, seed: int
) -> None:
    samples = samples_of(kinds)
    drawn = draw(samples, count, seed)
    assert len(drawn) == min(count, len(samples))
    order = [samples.index(sample) for sample in drawn]
    assert order == sorted(set(order))
    assert drawn == draw(samples, count, seed)
    found, all_ = Counter(s.kind for s in drawn), Counter(kinds)
    for kind, available in all_.items():  # each kind within one sample of its share on either side
        share = available * len(drawn) / len(samples)
        assert abs(found[kind] - share) < 2


def test_seeds_draw_differently_and_never_change() -> None:
    samples = samples_of([None] * 1000)
    numbers = [[int(s.image.stem) for s in draw(samples, 5, seed)] for seed in (0, 1)]
    assert numbers == [[71, 217, 424, 733, 971], [127, 286, 485, 778, 889]]


def test_a_draw_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="0 samples were asked for"):
        draw(samples_of([None]), 0)


def test_reading_samples_needs_no_torch() -> None:
    script = "import sys, edgetok.calibration.samples; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
