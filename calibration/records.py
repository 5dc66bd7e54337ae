"""Records: how every rung of a bundle answered each sample, kept line by line in a file.

What was asked once is not asked again: a calibration that was interrupted goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import msgspec

from edgetok.calibration.evaluate import is_right
from edgetok.calibration.samples import Sample
from edgetok.errors import InputError, ResourceError

Report = Callable[[str, float], None]


class RungAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one rung answered.

    Args:
        right: whether it is the known answer; None where none is known.
        signals: how sure it was (`names.ANSWER_SIGNALS`).
        ms: from the encoded image to the end of the answer.
    """

    text: str
    right: bool | None
    signals: dict[str, float]
    ms: float


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One sample: what a controller sees of it, and how each rung answered.

    Args:
        sample: digest of the image's bytes, the prompt and the answer.
        image: digest of the image's bytes alone.
        question: token ids of the user's text.
        tower_ms: to read and encode the image.
        rungs: by budget.
        thumbnail: `control.thumbnail.describe` of the image; empty in records of older versions.
    """

    sample: str
    image: str
    kind: str | None
    signals: dict[str, float]
    question: list[int]
    tower_ms: float
    rungs: dict[int, RungAnswer]
    thumbnail: list[float] = []


class Model(Protocol):
    """What is calibrated; `edgetok.load` gives one."""

    def encode(self, image: Path, /) -> Any: ...
    def describe(self, image: Path, /) -> list[float]: ...
    def question_ids(self, prompt: str, /) -> Sequence[int]: ...
    def forget(self) -> None: ...
    def generate(self, image: Any, prompt: str, /, *, budget: int) -> Any: ...


def ask_rungs(
    model: Model,
    samples: Sequence[Sample],
    budgets: Sequence[int],
    path: Path,
    progress: Report,
    clock: Callable[[], float],
) -> list[Record]:
    """Ask every rung what `path` does not hold yet, and return the records of all samples.

    Args:
        path: file of records of the same bundle; grows by a line per sample.
        clock: seconds, monotonic.

    Raises:
        InputError: if an image cannot be read, or a rung gives no answer.
        ResourceError: if the file cannot be written.
    """
    known = _read(path)
    images: dict[Path, str] = {}
    records = []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            end_line(file)
            for number, sample in enumerate(samples):
                progress("answering", number / len(samples))
                key = _digest_sample(sample, images)
                record = known.get(key)
                if record is None or not set(budgets) <= set(record.rungs):
                    image = images[sample.image]
                    record = _ask(model, sample, (key, image), budgets, clock)
                    file.write(msgspec.json.encode(record) + b"\n")
                    file.flush()
                    known[key] = record
                records.append(record)
            os.fsync(file.fileno())
    except OSError as error:
        raise ResourceError(
            f"{path}: the answers so far cannot be kept: {error.strerror or error}"
        ) from error
    return records


def digest_records(records: Sequence[Record]) -> str:
    """sha256, in hex, of which samples these are."""
    return hashlib.sha256("\n".join(sorted(r.sample for r in records)).encode()).hexdigest()


def _ask(
    model: Model,
    sample: Sample,
    digests: tuple[str, str],
    budgets: Sequence[int],
    clock: Callable[[], float],
) -> Record:
    begun = clock()
    encoded = model.encode(sample.image)
    tower_ms = 1000 * (clock() - begun)
    rungs = {budget: _answer(model, sample, encoded, budget, clock) for budget in budgets}
    signals: Mapping[str, float] = encoded.output.signals
    return Record(
        *digests,
        sample.kind,
        dict(signals),
        list(model.question_ids(sample.prompt)),
        tower_ms,
        rungs,
        model.describe(sample.image),
    )


def _answer(
    model: Model, sample: Sample, encoded: Any, budget: int, clock: Callable[[], float]
) -> RungAnswer:
    model.forget()  # a rung must not begin with the rows of the one before it
    begun = clock()
    answer = model.generate(encoded, sample.prompt, budget=budget)
    ms = 1000 * (clock() - begun)
    if answer.confidence is None or answer.stop_reason == "numeric":
        raise InputError(
            f"{sample.image}: the rung of {budget} visual tokens gave no answer to "
            f"{sample.prompt[:80]!r} (logits were not finite); `edgetok verify` the bundle"
        )
    right = None if sample.answer is None else is_right(answer.text, sample.answer)
    return RungAnswer(answer.text, right, answer.confidence.signals, ms)


def _digest_sample(sample: Sample, images: dict[Path, str]) -> str:
    if sample.image not in images:
        images[sample.image] = hashlib.sha256(sample.image.read_bytes()).hexdigest()
    parts = json.dumps([images[sample.image], sample.prompt, sample.answer, sample.kind])
    return hashlib.sha256(parts.encode()).hexdigest()


def end_line(file: BinaryIO) -> None:
    """Begin a line of its own after one that a crash cut short."""
    if file.seek(0, os.SEEK_END):
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.write(b"\n")


def _read(path: Path) -> dict[str, Record]:
    """Records by sample; a line that a crash left unfinished is asked again."""
    return {record.sample: record for record in _lines(path)}


def _lines(path: Path) -> Iterator[Record]:
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            yield msgspec.json.decode(line, type=Record)
        except (ValueError, RecursionError):
            continue
