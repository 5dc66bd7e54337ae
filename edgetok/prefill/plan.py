"""A plan: how large a share of the visual tokens each layer sees, from a file.

    {"method": "pyramiddrop", "shares": [1, 1, 0.5, 0.25, 0.25, 0]}

`edgetok.calibration.planner` finds such shares; the method says by which score tokens are chosen,
and what becomes of positions. Counts of a rung are its budget times the shares, rounded down, at
least 1 where the share is not 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import msgspec

from edgetok import limits
from edgetok.errors import InputError, UsageError
from edgetok.prefill.method import Counts, Prefill, PrefillMethod
from edgetok.prefill.schedules import share

PLANNED = "+planned"  # behind a method's name


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a plan file holds."""

    method: str
    shares: Annotated[
        list[Annotated[float, msgspec.Meta(ge=0, le=1)]],
        msgspec.Meta(min_length=2, max_length=1024),
    ]


def read_plan(path: Path, methods: dict[str, PrefillMethod]) -> Prefill:
    """A plan file as a method with these shares; its ratio is their mean.

    Raises:
        InputError: if the file cannot be read or is no plan.
        UsageError: for an unknown method, one that cuts nothing, or shares that rise.
    """
    plan = _decode(path)
    cutting = [name for name, method in methods.items() if method.cut is not None]
    if plan.method not in cutting:
        raise UsageError(
            f"{path.name}: no method {plan.method!r} that chooses tokens; use {', '.join(cutting)}"
        )
    if plan.shares[0] != 1 or any(a < b for a, b in pairwise(plan.shares)):
        raise UsageError(f"{path.name}: shares {plan.shares} must begin with 1 and never rise")
    method, mean = methods[plan.method], sum(plan.shares) / len(plan.shares)
    planned = replace(method, name=plan.method + PLANNED, counts=_counts_of(path, plan.shares))
    return Prefill(planned, mean)


def _decode(path: Path) -> Plan:
    try:
        if path.stat().st_size > limits.PROCESSOR_BYTES:
            raise InputError(f"{path} is larger than {limits.PROCESSOR_BYTES} bytes: no plan")
        return msgspec.json.decode(path.read_bytes(), type=Plan)
    except (OSError, msgspec.DecodeError, UnicodeError) as error:
        raise InputError(f"{path} is no plan of shares by layer: {error}") from error


def _counts_of(path: Path, shares: list[float]) -> Callable[[int, int, float], Counts]:
    def counts(layers: int, visual: int, ratio: float) -> Counts:
        if layers != len(shares):
            raise UsageError(
                f"{path.name} has shares for {len(shares)} layers and this decoder has {layers}; "
                "plan it for this model"
            )
        return tuple(share(visual, part) if part > 0 else 0 for part in shares)

    return counts
