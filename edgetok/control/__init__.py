"""From signals and measurements to a rung: no torch, light enough for a device."""

from __future__ import annotations

from edgetok.control.certified import Certified
from edgetok.control.limit import Limit
from edgetok.control.pace import Pace
from edgetok.control.policies import Decision, Elbow, Fixed, Largest, Policy
from edgetok.control.steady import Steady
from edgetok.control.table import BenchTable, Row, load_table, save_table

__all__ = [
    "BenchTable",
    "Certified",
    "Decision",
    "Elbow",
    "Fixed",
    "Largest",
    "Limit",
    "Pace",
    "Policy",
    "Row",
    "Steady",
    "load_table",
    "save_table",
]
