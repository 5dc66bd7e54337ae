"""Facts about this machine: cores, memory, the name of its processor. Linux; elsewhere unknown."""

from __future__ import annotations

import os
import platform
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
# Limit, usage, and the name of the page cache that can be dropped: version 2, then version 1.
_CGROUP_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def physical_cores() -> int:
    """Cores that this process may use; two hardware threads of one core count once.

    Matrix products gain nothing from a core's second thread, and lose to its cache misses.
    """
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    cpus = os.sched_getaffinity(0)
    siblings = {
        _read(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") or str(cpu)
        for cpu in cpus
    }
    return max(1, len(siblings))


def available_bytes() -> int | None:
    """Memory that a new allocation could get: free in the system and inside the cgroup."""
    candidates = [_meminfo_bytes("MemAvailable"), _cgroup_free_bytes()]
    known = [value for value in candidates if value is not None]
    return min(known) if known else None


def private_bytes() -> int | None:
    """Memory that only this process holds and that cannot be read again from a file.

    Mapped weights are left out, however many graphs map them: their pages are the file's.
    """
    rollup = _read("/proc/self/smaps_rollup")
    parts = [_kib_field(rollup, "Private_Dirty"), _kib_field(rollup, "Swap")]
    return None if None in parts else sum(part for part in parts if part is not None)


def resident_bytes() -> int | None:
    """Memory that this process occupies, mapped weights included, each page counted once.

    The proportional size, since the plain one counts a page again for every graph that maps it.
    """
    return _kib_field(_read("/proc/self/smaps_rollup"), "Pss")


def facts() -> dict[str, str | int]:
    """What a measurement needs beside it to mean anything."""
    return {
        "processor": _processor_name(),
        "machine": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "cores": physical_cores(),
        "memory_mib": (_meminfo_bytes("MemTotal") or 0) >> 20,
    }


def _processor_name() -> str:
    for line in _read("/proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model", "Hardware"):
            return value.strip()
    # Jetson and other boards name themselves in the device tree only.
    return _read("/proc/device-tree/model").strip("\0\n") or platform.processor() or "unknown"


def _meminfo_bytes(field: str) -> int | None:
    return _kib_field(_read("/proc/meminfo"), field)


def _kib_field(text: str, field: str) -> int | None:
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) << 10
    return None


def _cgroup_free_bytes() -> int | None:
    """The least that this process's control groups leave; None without a limit."""
    own = [line.split(":", 2)[2] for line in _read("/proc/self/cgroup").splitlines()]
    folders = {_CGROUPS, _CGROUPS / "memory"}
    folders |= {root / path.lstrip("/") for root in tuple(folders) for path in own}
    free = [_folder_free_bytes(folder, *files) for folder in folders for files in _CGROUP_FILES]
    known = [value for value in free if value is not None]
    return min(known) if known else None


def _folder_free_bytes(folder: Path, limit_file: str, usage_file: str, cache: str) -> int | None:
    limit, usage = (_read(f"{folder}/{name}").strip() for name in (limit_file, usage_file))
    if not (limit.isdigit() and usage.isdigit()):  # "max" means no limit
        return None
    # Reading files fills a group up to its limit; what is not in use gives way.
    statistics = dict(line.split(" ", 1) for line in _read(f"{folder}/memory.stat").splitlines())
    return max(0, int(limit) - int(usage) + int(statistics.get(cache, 0)))


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
