"""From an answer to a line of a trace."""

from __future__ import annotations

from pathlib import Path

from edgetok.control.trace import Entry, Tried, append_entry
from edgetok.runtimes.answers.answer import Answer
from edgetok.runtimes.answers.model import Model


def note_answer(path: Path, model: Model, answer: Answer, differs: bool | None = None) -> Entry:
    """Add what the choice of the rung saw to a trace; raises ResourceError if that fails.

    Args:
        differs: what an audit found.
    """
    entry = Entry(
        bundle=model.digest,
        signals=dict(answer.signals),
        question=list(answer.question_ids),
        tried=[Tried(a.budget, dict(a.signals)) for a in answer.attempts],
        reason=answer.reason,
        timings_ms=dict(answer.timings_ms),
        session=model.session,
        differs=differs,
    )
    append_entry(path, entry)
    return entry
