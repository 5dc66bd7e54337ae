"""Whether int8 products overflow on this processor, and ONNX Runtime's setting against it.

On x86 without VNNI its kernels add two products of uint8 and int8 in 16 bits, and what is over is
cut off without a word. The setting has it make constant weights uint8, for kernels that are exact
and a third as fast. It is set where it is needed alone: elsewhere it has the same effect.
"""

from __future__ import annotations

import platform
import re
from functools import cache
from pathlib import Path

EXACT = ("session.x64quantprecision", "1")
_CPUINFO = Path("/proc/cpuinfo")


@cache
def overflows() -> bool:
    """Whether it does; on an x86 that cannot be asked it may."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        return not re.search(r"\bavx(512)?_vnni\b", _CPUINFO.read_text())
    except OSError:
        return True
