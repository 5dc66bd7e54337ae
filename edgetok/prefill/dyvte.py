"""DyVTE (arXiv 2411.19628): visual tokens leave as soon as they are not needed.

All visual tokens leave before one layer; what is left are text rows at their positions.

Frozen form: own formulation. The paper's trained router asks at every layer; without it the exit is
a constant, half way by default. `edgetok.calibration.planner` finds the earliest one that leaves
answers alone. `dyvte-signal` has each prompt decide between a few layers.
"""

from __future__ import annotations

from dataclasses import replace

from edgetok.prefill import todre

METHOD = replace(
    todre.METHOD,
    name="dyvte",
    paper="arXiv 2411.19628",
    verdict="own formulation",
    summary="drops all visual tokens at a given depth",
    ratio=0.5,
)
