"""Meters over trees of files like those of a device, with counters that move while they count."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgetok.runtimes import bench
from edgetok.runtimes.answers.model import Model
from edgetok.runtimes.device.energy import Ina3221, Rapl, find_meter


def write(folder: Path, **files: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name).write_text(f"{value}\n")
    return folder


@pytest.fixture
def packages(tmp_path: Path) -> list[Path]:
    zones = tmp_path / "class/powercap"
    found = [
        write(zones / f"intel-rapl:{n}", energy_uj=1_000_000, max_energy_range_uj=5_000_000)
        for n in (0, 1)
    ]
    write(zones / "intel-rapl:0:0", energy_uj=7, max_energy_range_uj=9)  # a part of package 0
    return found


def test_packages_are_added_and_counters_that_began_again_are_mended(
    tmp_path: Path, packages: list[Path]
) -> None:
    meter = find_meter(tmp_path)
    assert isinstance(meter, Rapl)
    with meter:
        write(packages[0], energy_uj=3_500_000)
        write(packages[1], energy_uj=250_000)  # beyond its range of 5 J
    assert meter.joules == pytest.approx(2.5 + 4.25)


def test_counters_that_we_may_not_read_are_no_meter(tmp_path: Path, packages: list[Path]) -> None:
    for package in packages:
        (package / "energy_uj").unlink()
    assert find_meter(tmp_path) is None
    assert find_meter(tmp_path / "nothing") is None


def test_a_rail_is_power_over_time(tmp_path: Path) -> None:
    rail = write(
        tmp_path / "bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3",
        in1_label="VDD_CPU",
        in2_label="VDD_IN",
        in2_input=5000,
        curr2_input=1000,
    )
    assert isinstance(find_meter(tmp_path), Ina3221)
    now = [0.0]
    meter = Ina3221(rail / "in2_input", rail / "curr2_input", lambda: now[0])
    with meter:
        now[0] = 2.0
    assert meter.joules == pytest.approx(10.0)  # 5 V, 1 A, 2 s


def test_bench_shares_the_joules_among_its_answers(model: Model, photo: np.ndarray) -> None:
    class Counted(Rapl):
        def __exit__(self, *_: object) -> None:
            self.joules = 6.0

    options = {"repeats": 3, "image": photo, "prompt": "what?", "max_new_tokens": 2}
    rows = bench.measure(model, **options, meters=lambda: Counted(()))
    assert [row.energy_j for row in rows] == [2.0, 2.0, 2.0]
    rows = bench.measure(model, **options, meters=lambda: None)
    assert [row.energy_j for row in rows] == [None, None, None]
