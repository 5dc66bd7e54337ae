"""Trying a way to export a model: export it, measure its rungs, ask it questions."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgetok.errors import IncompatibleError, ResourceError

if TYPE_CHECKING:
    from edgetok.calibration.samples import Sample
    from edgetok.calibration.tuning import Candidate, Journal, Measured

_Cost = tuple[float, float, float]  # first token ms, decode ms per token, MiB
_BENCH_SECONDS = 3600  # per bundle; the slowest board answers ten times on every rung in it


@dataclass(frozen=True, slots=True)
class CandidateRunner:
    """Where candidates are made and measured.

    Args:
        model: directory of the model.
        data: file of the samples, from which caches measure their scales too.
        folder: holds the bundles and the journal.
        samples: in the order in which rounds ask them.
        repeats: timed answers per rung.
    """

    model: Path
    data: Path
    folder: Path
    samples: Sequence[Sample]
    budgets: str
    repeats: int
    threads: int | None
    seed: int

    @property
    def digest(self) -> str:
        """Of all that candidates share: files of the model by size and age, samples, options."""
        files = sorted((p.name, *_age(p)) for p in self.model.iterdir() if p.is_file())
        asked = [(str(s.image), s.prompt, s.answer) for s in self.samples]
        parts = [str(self.model.resolve()), files, asked, self.budgets, self.threads, self.seed]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def measure(self, journal: Journal, candidate: Candidate, questions: int) -> Measured:
        """From the journal, or by exporting, timing and asking what is not in it."""
        from edgetok.calibration.tuning import attempt

        known = journal.find(candidate, questions)
        if known is not None:
            return known
        made = attempt(
            journal.of, candidate, questions, lambda: self._try(journal, candidate, questions)
        )
        return journal.note(made)

    def _try(self, journal: Journal, candidate: Candidate, questions: int) -> Measured:
        from edgetok.calibration.evaluate import evaluate
        from edgetok.calibration.tuning import Measured, Point
        from edgetok.runtimes.load import load

        bundle = self._export(journal.of, candidate)
        before = journal.of_candidate(candidate)  # what rungs cost does not depend on questions
        costs = self._bench(bundle) if before is None else _costs(before)
        model = load(bundle, threads=self.threads)
        asked = self.samples[:questions]
        found = evaluate(model, asked, model.ladder.budgets, lambda doing, share: None)
        points = [
            Point(rung.budget, rung.all.right, rung.all.total, *costs[rung.budget])
            for rung in found.rungs
        ]
        size = sum(file.bytes for file in model.manifest.files.values())
        return Measured(journal.of, candidate, questions, points, size)

    def _export(self, of: str, candidate: Candidate) -> Path:
        """The bundle of a candidate, exported unless it is there."""
        from edgetok.export.pipeline import export_model

        bundle = self.folder / f"{candidate.name}-{of[:8]}.bundle"
        if not bundle.exists():
            export_model(
                self.model,
                bundle,
                budgets=self.budgets,
                **msgspec.to_builtins(candidate),
                samples=self.data,
                seed=self.seed,
                parity_images=2,
            )
        return bundle

    def _bench(self, bundle: Path) -> dict[int, _Cost]:
        """What each rung costs, in a process of its own: no other memory counts."""
        command = [sys.executable, "-m", "edgetok.cli", "bench", str(bundle), "--json"]
        command += ["--repeats", str(self.repeats)]
        command += [] if self.threads is None else ["--threads", str(self.threads)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=_BENCH_SECONDS
            )
            fields = json.loads(done.stdout)
        except subprocess.TimeoutExpired:
            raise IncompatibleError(f"{bundle}: not measured in {_BENCH_SECONDS} s") from None
        except (OSError, ValueError) as error:
            raise ResourceError(f"{bundle}: could not be measured: {error}") from error
        if not fields["ok"]:
            raise IncompatibleError(f"{bundle}: {fields['error']['message']}")
        rows: list[dict[str, Any]] = fields["rows"]
        return {
            row["budget"]: (row["ttft_ms_p95"], row["decode_ms_p50"], row["memory_mib"])
            for row in rows
        }


def _costs(measured: Measured) -> dict[int, _Cost]:
    return {p.budget: (p.ttft_ms, p.decode_ms, p.memory_mib) for p in measured.points}


def _age(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
