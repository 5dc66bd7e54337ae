"""What the methods are, as a Markdown table, which `edgetok methods` prints and the docs hold."""

from __future__ import annotations

from collections.abc import Iterable

from edgetok.methods.method import Method

DIFFERS = "differs from the authors' program"
UNKNOWN = "not compared"
COLUMNS = ("method", "paper", "where", "reads", "frozen form", "FLOPs", "what it does", DIFFERS)


def describe_methods(methods: Iterable[Method]) -> str:
    """One row per method: name, paper, where it acts, probes, verdict, cost, and a line."""
    lines = [_line(COLUMNS), "|" + "---|" * len(COLUMNS)]
    return "\n".join([*lines, *(_line(_cells(method)) for method in methods)])


def _cells(method: Method) -> tuple[str, ...]:
    reads = [*(f"`{need}`" for need in method.needs)] or ["features"]
    cost = method.cost or ("of the tower, see below" if method.inside else "not stated")
    name = f"`{method.name}`"
    given = ", ".join(reads)
    what, differs = method.summary, method.differs or UNKNOWN
    return name, method.paper, method.where, given, method.verdict, cost, what, differs


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
