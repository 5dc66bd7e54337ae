"""Traces: what a controller saw and chose, a JSON line per question, to be repeated offline."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgetok import limits
from edgetok.control.pace import Pace, is_comparable
from edgetok.control.policies import Policy
from edgetok.errors import InputError, ResourceError
from edgetok.ladder import Ladder


class Tried(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A rung that answered, and how sure it was."""

    budget: int
    signals: dict[str, float]


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One question. No text of it and nothing of the image is kept but what the choice depends on.

    Args:
        bundle: digest of what answered, see `bundle.manifest.digest_content`.
        question: token ids of the user's text.
        tried: the rungs in turn; the answer of the last one was taken.
        session: of which load of the bundle; limits learn from one answer to the next of it. An
            empty one stands alone.
        differs: whether the full rung, asked for an audit, answered otherwise; None if it was not.
    """

    bundle: str
    signals: dict[str, float]
    question: list[int]
    tried: list[Tried]
    reason: str
    timings_ms: dict[str, float]
    session: str = ""
    differs: bool | None = None


@dataclass(frozen=True, slots=True)
class Repeated:
    """A decision made once more.

    Args:
        live: the rungs that were tried then.
        tried: those that the policy tries; the last one's answer was never seen if `open`.
    """

    live: tuple[int, ...]
    tried: tuple[int, ...]
    open: bool

    @property
    def same(self) -> bool:
        return self.live == self.tried and not self.open


def append_entry(path: Path, entry: Entry) -> None:
    """Add a line to a trace.

    Raises:
        ResourceError: if it cannot be written.
    """
    try:
        # One write of one line, so that processes that share a trace do not mix theirs.
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, msgspec.json.encode(entry) + b"\n")
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ResourceError(f"{path}: the trace cannot be written: {error.strerror}") from error


def load_trace(path: Path) -> list[Entry]:
    """Read a trace.

    Raises:
        InputError: if there is none, it is too large, or a line is no entry; names the line.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limits.SAMPLES_FILE_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > limits.SAMPLES_FILE_BYTES:
        raise InputError(f"{path} is larger than {limits.SAMPLES_FILE_BYTES} bytes; split it")
    entries = []
    for number, line in enumerate(data.splitlines(), 1):
        try:
            entries.append(msgspec.json.decode(line, type=Entry))
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}:{number}: no line of a trace: {error}") from error
    if not entries:
        raise InputError(f"{path} is empty; `edgetok run --trace` writes to it")
    return entries


def repeat(
    policies: Callable[[], tuple[Policy, Pace | None]], ladder: Ladder, entries: Sequence[Entry]
) -> list[Repeated]:
    """Decide each question of a trace once more, by the same or another policy.

    Args:
        policies: makes the policy of a session, and the pace that it learns if it has one: each
            session begins without experience, as it did live, and learns from the live times.
    """
    sessions: dict[str, tuple[Policy, Pace | None]] = {}
    repeated = []
    for number, entry in enumerate(entries):
        session = entry.session or f"line {number}"
        if session not in sessions:
            sessions[session] = policies()
        policy, pace = sessions[session]
        repeated.append(_repeat(policy, ladder, entry))
        if pace is not None and is_comparable(entry.timings_ms, len(entry.tried)):
            pace.note(entry.tried[-1].budget, entry.timings_ms["ttft"])
    return repeated


def _repeat(policy: Policy, ladder: Ladder, entry: Entry) -> Repeated:
    answers: dict[int, Mapping[str, float]] = {t.budget: t.signals for t in entry.tried}
    decision = policy.choose(ladder, entry.signals, entry.question)
    tried = [decision.rung.budget]
    unknown = False
    while decision.review is not None:
        if unknown := tried[-1] not in answers:
            break
        following = decision.review(answers[tried[-1]])
        if following is None:
            break
        decision = following
        tried.append(decision.rung.budget)
    return Repeated(tuple(t.budget for t in entry.tried), tuple(tried), unknown)
