"""Scratch space: arrays in a nameless file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetok.errors import ResourceError
from edgetok.scratch import Scratch


@given(st.lists(st.tuples(st.integers(0, 70), st.integers(0, 90)), max_size=6))
def test_arrays_do_not_touch_each_other(shapes: list[tuple[int, int]]) -> None:
    scratch = Scratch()
    wanted = [np.random.default_rng(n).normal(size=shape) for n, shape in enumerate(shapes)]
    held = [scratch.hold(array) for array in wanted]
    for got, array in zip(held, wanted, strict=True):
        np.testing.assert_array_equal(got, array)


def test_transposed_arrays_are_laid_out_anew() -> None:
    held = Scratch().hold(np.arange(6).reshape(2, 3).T)
    assert held.flags.c_contiguous
    assert held.tolist() == [[0, 3], [1, 4], [2, 5]]


def test_leaves_no_name_behind(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    held = scratch.hold(np.ones(5000))
    assert not list(tmp_path.iterdir())
    del scratch
    assert held.sum() == 5000  # the map keeps the file


def test_arrays_are_no_memory_of_the_process(tmp_path: Path) -> None:
    before = _anonymous_kib()
    held = Scratch(tmp_path).allocate((64 << 20,), "uint8")
    held[:] = 1
    assert _anonymous_kib() - before < 8 << 10


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="scratch space cannot be had"):
        Scratch(tmp_path / "missing").hold(np.ones(3))


def test_a_full_disk_is_an_error_and_no_crash(tmp_path: Path) -> None:
    free = os.statvfs(tmp_path)
    too_much = free.f_blocks * free.f_frsize + (1 << 30)
    with pytest.raises(ResourceError, match="free space"):
        Scratch(tmp_path).allocate((too_much,), "uint8")


def _anonymous_kib() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
