"""What it costs to start: commands on the demo model, from nothing to their end."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from peers.making import OUT, find_samples, run_measured


def measure_commands(rounds: int) -> list[dict[str, Any]]:
    """A row per command, with what each round cost; one round before is not kept."""
    sample = json.loads(find_samples("demo").read_text().splitlines()[0])
    bundle, image = OUT / "demo/edgetok-int8.bundle", OUT / "demo/samples" / sample["image"]
    run = [sys.executable, "-m", "edgetok.cli"]
    asked = ["--image", image, "--prompt", sample["prompt"], "--budget", "64"]
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "import edgetok": [sys.executable, "-c", "import edgetok"],
        "edgetok --help": [*run, "--help"],
        "edgetok run": [*run, "run", bundle, *asked],
    }
    rows: list[dict[str, Any]] = [{"command": name, "rounds": []} for name in commands]
    for turn in range(rounds + 1):
        for row, command in zip(rows, commands.values(), strict=True):
            cost = run_measured(command, OUT / "demo/command.log")
            found = {f"{unit}_ms": 1e3 * cost[f"{unit}_s"] for unit in ("cpu", "wall")}
            if turn:
                row["rounds"].append(found | {"load": os.getloadavg()[0]})
    return rows
