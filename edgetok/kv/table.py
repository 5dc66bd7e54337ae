"""What policies and stores of the KV cache are, as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable

from edgetok.kv.policy import Policy
from edgetok.kv.reading import Reading
from edgetok.kv.stores.buffers import Store

DIFFERS = "differs from the authors' program"
COLUMNS = ("policy", "paper", "positions", "what stays", DIFFERS)
STORE_COLUMNS = ("--kv", "paper", "what is held", DIFFERS)


def describe_policies(policies: Iterable[Policy | Reading]) -> str:
    """One row per policy: name, paper, positions, how it differs, and a line."""
    return _table(COLUMNS, map(_cells, policies))


def describe_stores(stores: Iterable[Store]) -> str:
    """One row per store: names, paper, a line, how it differs."""
    cells = ((_named(s.names), s.paper, s.summary, s.differs) for s in stores)
    return _table(STORE_COLUMNS, cells)


def _named(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    return "\n".join([_line(columns), "|" + "---|" * len(columns), *map(_line, rows)])


def _cells(policy: Policy | Reading) -> tuple[str, ...]:
    name = f"`{policy.name}`"
    return name, policy.paper, policy.positions, policy.summary, policy.differs


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
