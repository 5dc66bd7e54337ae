"""Verdicts on graphs that are kept: what was admitted once, and nothing else, is not read again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgetok import user_cache
from edgetok.bundle import admission, admitted
from edgetok.bundle.reader import Bundle
from edgetok.errors import BundleError


@pytest.fixture
def opened(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    tiny.write(tmp_path / "x.bundle")  # the writer admits graphs too
    monkeypatch.setenv(user_cache.CACHE_VARIABLE, str(tmp_path / "cache"))
    return Bundle.open(tmp_path / "x.bundle")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files of graphs that were read with onnx."""
    files: list[str] = []
    right = admission.admit_graph

    def admit(data: bytes, stage: Any, known: Any) -> None:
        files.append(stage.file)
        right(data, stage, known)

    monkeypatch.setattr(admission, "admit_graph", admit)
    return files


def test_the_same_graph_is_admitted_once(opened: Bundle, asked: list[str]) -> None:
    stage = opened.manifest.stages[0]
    assert opened.graph(stage) == opened.graph(stage)
    assert asked == [stage.file]


def test_a_second_process_needs_no_onnx(opened: Bundle) -> None:
    code = (
        "import sys; from edgetok.bundle.reader import Bundle; b = Bundle.open(sys.argv[1])\n"
        "for stage in b.manifest.stages: b.graph(stage)\n"
        "print('onnx' in sys.modules)"
    )
    ran = (sys.executable, "-c", code, str(opened.root))
    told = [subprocess.run(ran, capture_output=True, text=True, check=True) for _ in range(2)]
    assert [each.stdout.strip() for each in told] == ["True", "False"]


def test_another_promise_of_the_same_bytes_is_another_graph(
    opened: Bundle, asked: list[str]
) -> None:
    stage = opened.manifest.stages[0]
    opened.graph(stage)
    first = stage.outputs[0]
    more = msgspec.structs.replace(first, shape=[*first.shape, 1])
    lying = msgspec.structs.replace(stage, outputs=[more, *stage.outputs[1:]])
    for _ in range(2):
        with pytest.raises(BundleError, match="not admitted"):
            opened.graph(lying)
    assert len(asked) == 3  # what was refused leaves no mark


def test_other_rules_decide_anew(
    opened: Bundle, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = opened.manifest.stages[0]
    opened.graph(stage)
    monkeypatch.setattr(admitted, "_rules", lambda: b"stricter")
    opened.graph(stage)
    assert len(asked) == 2


def test_a_cache_that_cannot_be_written_is_done_without(
    opened: Bundle, asked: list[str], tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("in the way")
    stage = opened.manifest.stages[0]
    assert opened.graph(stage) == opened.graph(stage)
    assert len(asked) == 2
