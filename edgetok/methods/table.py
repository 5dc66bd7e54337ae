"""What the methods are, as a Markdown table, which `edgetok methods` prints and the docs hold."""

from __future__ import annotations

from collections.abc import Iterable

from edgetok.methods.method import Method

COLUMNS = ("method", "paper", "where", "reads", "frozen form", "FLOPs", "what it does")


def describe_methods(methods: Iterable[Method]) -> str:
    """One row per method: name, paper, where it acts, probes, verdict, cost, and a line."""
    lines = [_line(COLUMNS), "|" + "---|" * len(COLUMNS)]
    return "\n".join([*lines, *(_line(_cells(method)) for method in methods)])


def _cells(method: Method) -> tuple[str, ...]:
    reads = [*(f"`{need}`" for need in method.needs)] or ["features"]
    cost = method.cost or ("of the tower, see below" if method.inside else "not stated")
    name = f"`{method.name}`"
    given = ", ".join(reads)
    return name, method.paper, method.where, given, method.verdict, cost, method.summary


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
