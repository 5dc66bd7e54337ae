"""A training phase's clock, log and saved state, so that it can stop and go on."""

import json
import math
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from workers import Workers

WARM_UP_STEPS = 60
LOG_STEPS = 20
SAVE_SECONDS = 120.0


@dataclass(frozen=True)
class Settings:
    """What all phases share."""

    folder: Path
    """Where logs and states go; never the checkpoint itself."""
    device: torch.device
    bf16: bool
    seed: int
    workers: Workers

    def autocast(self) -> AbstractContextManager[Any]:
        """bf16 products where asked for; worth it on GPUs and on processors with AVX512-BF16."""
        if not self.bf16:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


@dataclass
class Journal:
    """Progress of one phase against its budget of minutes."""

    settings: Settings
    phase: str
    minutes: float
    steps: int = 0
    spent_s: float = 0.0
    _started: float = field(default_factory=time.monotonic)
    _saved: float = field(default_factory=time.monotonic)
    _sums: dict[str, list[float]] = field(default_factory=dict)

    @property
    def elapsed_s(self) -> float:
        """Seconds spent in the phase, earlier sessions counted in."""
        return self.spent_s + time.monotonic() - self._started

    @property
    def progress(self) -> float:
        """Share of the budget that is used, 0 to 1."""
        return min(1.0, self.elapsed_s / (self.minutes * 60)) if self.minutes > 0 else 1.0

    @property
    def rate_factor(self) -> float:
        """Learning rate relative to its peak: short warm-up, flat, then down to 0."""
        warm = min(1.0, (self.steps + 1) / WARM_UP_STEPS)
        return warm * min(1.0, (1.0 - self.progress) / 0.6 + 0.01)

    @property
    def state_path(self) -> Path:
        """Where the phase keeps its state."""
        return self.settings.folder / f"{self.phase}.pt"

    def record(self, scores: dict[str, float]) -> None:
        """Counts a step; every LOG_STEPS steps the mean of the scores becomes a line of the log."""
        self.steps += 1
        for name, score in scores.items():
            if not math.isnan(score):
                self._sums.setdefault(name, []).append(score)
        if self.steps % LOG_STEPS == 0:
            self._write_line()

    def _write_line(self) -> None:
        means = {name: round(sum(row) / len(row), 4) for name, row in self._sums.items()}
        line = {"phase": self.phase, "step": self.steps, "seconds": round(self.elapsed_s), **means}
        with (self.settings.folder / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        self._sums.clear()

    def save(self, parts: dict[str, Any], force: bool = False) -> None:
        """Saves the state when it is due, by rename, so that a kill leaves the last one whole.

        With `force`, at the end of a phase, the log gets what it does not yet have.
        """
        if not force and time.monotonic() - self._saved < SAVE_SECONDS:
            return
        if force and self._sums:
            self._write_line()
        fresh = self.state_path.with_suffix(".tmp")
        states = {name: part.state_dict() for name, part in parts.items()}
        torch.save({"steps": self.steps, "spent_s": self.elapsed_s, **states}, fresh)
        fresh.replace(self.state_path)
        self._saved = time.monotonic()

    def restore(self, parts: dict[str, Any]) -> None:
        """Puts the saved state into the parts, if there is one; the clock goes on from it."""
        if not self.state_path.exists():
            return
        state = torch.load(self.state_path, map_location=self.settings.device)
        self.steps, self.spent_s = state["steps"], state["spent_s"]
        for name, part in parts.items():
            part.load_state_dict(state[name])
