"""What reductions at prefill are, as a Markdown table, which `edgetok methods` prints."""

from __future__ import annotations

from collections.abc import Iterable

from edgetok.prefill.method import PrefillMethod

DIFFERS = "differs from the authors' program"
UNKNOWN = "not compared"
COLUMNS = (
    "method",
    "paper",
    "reads",
    "positions",
    "frozen form",
    "ratio",
    "what it does",
    DIFFERS,
)


def describe_prefill(methods: Iterable[PrefillMethod]) -> str:
    """One row per method: name, paper, what it reads, positions, verdict, ratio, and a line."""
    lines = [_line(COLUMNS), "|" + "---|" * len(COLUMNS)]
    return "\n".join([*lines, *(_line(_cells(method)) for method in methods)])


def _cells(method: PrefillMethod) -> tuple[str, ...]:
    reads = ", ".join(method.reads) or "nothing"
    ratio = f"{method.ratio:.2g}: {method.ratio_is}"
    name, summary = f"`{method.name}`", method.summary
    shown = name, method.paper, reads, method.positions, method.verdict, ratio, summary
    return *shown, method.differs or UNKNOWN


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
