"""A contestant as a process: it loads, then answers requests, JSON lines in and out.

    python run_NAME.py '{"model": FOLDER, "question": FILE, "threads": 1, …}'

The first line out says that it has loaded and at what cost; each line in is a request such as
`{"do": "answer", "tokens": 64, "steps": 32, "seed": 1}`, each line out what it cost.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Costs = dict[str, float]  # names end with their unit


class Clock:
    """Processor and wall time since it was started."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def read(self, name: str, steps: int = 1) -> Costs:
        """Milliseconds of one of so many steps: `NAME_cpu_ms` and `NAME_wall_ms`."""
        cpu, wall = time.process_time() - self._cpu, time.perf_counter() - self._wall
        return {f"{name}_cpu_ms": 1e3 * cpu / steps, f"{name}_wall_ms": 1e3 * wall / steps}


def private_bytes() -> int:
    """Memory that only this process holds and that is in no file."""
    rollup = Path("/proc/self/smaps_rollup").read_text()
    found = [re.search(rf"{name}:\s+(\d+)", rollup) for name in ("Private_Dirty", "Swap")]
    return sum(int(match[1]) << 10 for match in found if match is not None)


def picture(seed: int, side_px: int) -> Any:
    """Noise, uint8 [side, side, 3]: no cache of pictures can know it."""
    import numpy as np

    return np.random.default_rng(seed).integers(0, 256, (side_px, side_px, 3), dtype=np.uint8)


def serve(load: Callable[[dict[str, Any]], Any], versions: Callable[[], dict[str, str]]) -> None:
    """Load what the first argument says, then call its methods by the name of each request."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print, too

    def say(**line: Any) -> None:
        out.write(json.dumps(line) + "\n")
        out.flush()

    options = json.loads(sys.argv[1])
    options["question"] = json.loads(Path(options["question"]).read_text())
    contestant = load(options)
    loaded = {"loaded_cpu_ms": 1e3 * time.process_time(), "loaded_bytes": private_bytes()}
    say(**loaded, versions=versions())
    for line in sys.stdin:
        request = json.loads(line)
        cost = getattr(contestant, request.pop("do"))(**request)
        total = {"process_cpu_ms": 1e3 * time.process_time()}
        say(**cost, **total, private_bytes=private_bytes())
