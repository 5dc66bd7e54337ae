"""What bench writes down; never how long something takes."""

from __future__ import annotations

import mmap
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from edgetok.errors import UsageError
from edgetok.runtimes import bench
from edgetok.runtimes.answers.answer import Answer
from edgetok.runtimes.answers.model import Model
from edgetok.runtimes.device import machine


def timed(ttft_ms: float, per_token_ms: float, tokens: int = 4) -> Answer:
    return Answer(
        text="",
        token_ids=(1,) * tokens,
        budget=8,
        reason="",
        stop_reason="length",
        timings_ms={"ttft": ttft_ms, "decode_per_token": per_token_ms},
        decode_tokens_per_s=0,
        confidence=None,
        prompt_tokens=3,
        reused_rows=0,
        kept=(),
        signals={},
    )


def test_every_rung_gets_a_row(model: Model, photo: np.ndarray) -> None:
    rows = bench.measure(model, repeats=2, image=photo, prompt="what?", max_new_tokens=4)
    assert [row.budget for row in rows] == [4, 8, 16]
    for row in rows:
        assert 0 < row.ttft_ms_p50 <= row.ttft_ms_p95
        assert row.decode_ms_p50 > 0
        assert row.memory_mib > 1


def test_warm_up_is_not_counted(model: Model, photo: np.ndarray, monkeypatch) -> None:
    answers = []

    def generate(*_: object, **options: object) -> Answer:
        answers.append(options)
        return timed(1000.0 if len(answers) % 4 == 1 else 2.0, 1.0)

    monkeypatch.setattr(model, "generate", generate)
    rows = bench.measure(model, repeats=3, image=photo, prompt="what?")
    assert [row.ttft_ms_p95 for row in rows] == [2.0, 2.0, 2.0]
    assert len(answers) == 12


def test_percentiles_are_those_of_the_answers() -> None:
    row = bench.summarise(8, [timed(float(t), t / 100) for t in range(1, 101)], 3 << 20)
    assert (row.ttft_ms_p50, row.ttft_ms_p95) == (50.5, 96.0)
    assert (row.decode_ms_p50, row.memory_mib) == (0.505, 3.0)


def test_answers_of_one_token_have_no_decode_speed() -> None:
    row = bench.summarise(8, [timed(3.0, 0.0, tokens=1), timed(3.0, 7.0)], 0)
    assert row.decode_ms_p50 == 7.0
    assert bench.summarise(8, [timed(3.0, 0.0, tokens=1)], 0).decode_ms_p50 == 0.0


def test_repeats_must_be_positive(model: Model, photo: np.ndarray) -> None:
    with pytest.raises(UsageError, match="repeats 0"):
        bench.measure(model, repeats=0, image=photo, prompt="what?")


def test_peak_memory_sees_what_is_gone_at_the_end() -> None:
    # the process's own memory moves as other tests' leavings are freed: a block beside it is exact
    held_bytes = [100 << 20]
    seen = threading.Event()

    def read_bytes() -> int:
        if held_bytes[0] == 164 << 20:
            seen.set()
        return held_bytes[0]

    with bench.PeakMemory(read_bytes) as memory:
        held_bytes[0] = 164 << 20
        assert seen.wait(10)
        held_bytes[0] = 101 << 20
    assert memory.peak_bytes == 164 << 20


def test_peak_memory_reads_the_process() -> None:
    with bench.PeakMemory() as memory:
        block = np.ones(8 << 20)  # 64 MiB
    assert memory.peak_bytes >= block.nbytes


def test_machine_facts_name_the_machine() -> None:
    facts = machine.facts()
    assert facts["cores"] == machine.physical_cores() >= 1
    assert isinstance(facts["memory_mib"], int)
    assert facts["memory_mib"] > 100
    available = machine.available_bytes()
    assert available is not None
    assert 0 < available >> 20 <= facts["memory_mib"]


@pytest.mark.parametrize(
    ("folder", "names", "cache"),
    [
        ("/sys/fs/cgroup", ("memory.max", "memory.current"), "inactive_file"),
        ("/sys/fs/cgroup/user.slice/job", ("memory.max", "memory.current"), "inactive_file"),
        (
            "/sys/fs/cgroup/memory/user.slice/job",
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
            "total_inactive_file",
        ),
    ],
)
def test_a_cgroup_limit_counts(
    monkeypatch: pytest.MonkeyPatch, folder: str, names: tuple[str, str], cache: str
) -> None:
    files = {
        "/proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:    4000 kB\n",
        "/proc/self/cgroup": "0::/user.slice/job\n",
        f"{folder}/{names[0]}": "3000000\n",
        f"{folder}/{names[1]}": "2500000\n",
        f"{folder}/memory.stat": f"anon 900000\n{cache} 1500000\nslab 3\n",
    }
    monkeypatch.setattr(machine, "_read", lambda path: files.get(str(path), ""))
    assert machine.available_bytes() == 2_000_000
    files[f"{folder}/{names[0]}"] = "max\n"
    assert machine.available_bytes() == 4000 << 10
    files.clear()
    assert machine.available_bytes() is None
    assert machine.private_bytes() is None
    assert machine.resident_bytes() is None


def test_mapped_files_are_resident_but_not_private(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    with path.open("wb") as file:
        file.write(bytes(32 << 20))
        os.fsync(file.fileno())  # pages that still wait to be written count as dirty
    before = machine.private_bytes(), machine.resident_bytes()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert sum(mapped[::4096]) == 0  # touch every page
        after = machine.private_bytes(), machine.resident_bytes()
    assert None not in before + after
    assert after[0] - before[0] < 8 << 20
    assert after[1] - before[1] > 16 << 20
