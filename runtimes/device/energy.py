"""Energy of what runs, where the device has a meter: RAPL of x86, the INA3221 of Jetsons."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from edgetok.runtimes.device.sampled import Sampled

SYSTEM = Path("/sys")
SAMPLE_INTERVAL_S = 0.02  # the monitor of a Jetson has a new value some fifty times a second
_RAILS = ("VDD_IN", "POM_5V_IN")  # what the whole module draws, by the names of several Jetsons


class Meter(Protocol):
    """Counts joules of the whole device while a block runs; nothing else should run then."""

    joules: float

    def __enter__(self) -> Meter: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


@dataclass(slots=True)
class Rapl:
    """Counters of processor packages in microjoules, which begin again at a range of their own.

    Args:
        packages: folders with `energy_uj` and `max_energy_range_uj`.
    """

    packages: Sequence[Path]
    joules: float = 0.0
    _begun: tuple[int, ...] = ()

    def __enter__(self) -> Rapl:
        self._begun = self._read()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        spent = [now - then for now, then in zip(self._read(), self._begun, strict=True)]
        ranges = [_number(folder / "max_energy_range_uj") or 0 for folder in self.packages]
        around = [s + r if s < 0 else s for s, r in zip(spent, ranges, strict=True)]
        self.joules = sum(max(0, microjoules) for microjoules in around) / 1e6

    def _read(self) -> tuple[int, ...]:
        return tuple(_number(folder / "energy_uj") or 0 for folder in self.packages)


class Ina3221(Sampled):
    """A rail's millivolts and milliamperes, sampled and added up over time.

    Args:
        volts, amperes: files of the rail that feeds the whole module.
        clock: seconds, monotonic.
    """

    def __init__(
        self, volts: Path, amperes: Path, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        super().__init__(SAMPLE_INTERVAL_S)
        self.joules = 0.0
        self._files = volts, amperes
        self._clock = clock

    def __enter__(self) -> Self:
        self._last = self._clock(), self._watts()
        return super().__enter__()

    def note(self) -> None:
        now, watts = self._clock(), self._watts()
        then, before = self._last
        self.joules += (now - then) * (watts + before) / 2
        self._last = now, watts

    def _watts(self) -> float:
        millivolts, milliamperes = (_number(path) or 0 for path in self._files)
        return millivolts * milliamperes / 1e6


def find_meter(system: Path = SYSTEM) -> Meter | None:
    """A meter of this device, to be used once; None where it reports none or we may not read it."""
    for label in sorted(system.glob("bus/i2c/drivers/ina3221/*/hwmon/hwmon*/in*_label")):
        if _text(label) in _RAILS:
            number = label.name.removeprefix("in").removesuffix("_label")
            volts, amperes = label.with_name(f"in{number}_input"), f"curr{number}_input"
            if _number(volts) is not None and _number(label.with_name(amperes)) is not None:
                return Ina3221(volts, label.with_name(amperes))
    zones = sorted(system.glob("class/powercap/intel-rapl:*"))
    packages = [zone for zone in zones if zone.name.count(":") == 1]  # parts of one have two
    readable = [zone for zone in packages if _number(zone / "energy_uj") is not None]
    return Rapl(readable) if readable else None


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
