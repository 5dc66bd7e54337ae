"""What policies of the KV cache are, as a Markdown table, which `edgetok methods` prints."""

from __future__ import annotations

from collections.abc import Iterable

from edgetok.kv.policy import Policy
from edgetok.kv.reading import Reading

DIFFERS = "differs from the authors' program"
COLUMNS = ("policy", "paper", "positions", "what stays", DIFFERS)


def describe_policies(policies: Iterable[Policy | Reading]) -> str:
    """One row per policy: name, paper, positions, how it differs, and a line."""
    lines = [_line(COLUMNS), "|" + "---|" * len(COLUMNS)]
    return "\n".join([*lines, *(_line(_cells(policy)) for policy in policies)])


def _cells(policy: Policy | Reading) -> tuple[str, ...]:
    name = f"`{policy.name}`"
    return name, policy.paper, policy.positions, policy.summary, policy.differs


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
