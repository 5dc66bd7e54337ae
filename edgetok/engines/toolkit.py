"""Which TensorRT builds and runs engines: the module, its version, and the GPUs it builds for."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from typing import Any, Final

from edgetok.errors import IncompatibleError, UsageError

MODULES: Final = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}
# What TensorRT for RTX 1.7 builds for ahead of time; any other GPU has its engine built on it.
CAPABILITIES: Final = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
_DEFAULT_CAPABILITIES = ("sm80", "sm86", "sm89", "sm120")
_OLDEST = {"tensorrt": (10, 3), "rtx": (1, 1)}
_HINTS = {
    "tensorrt": "pip install 'edgetok[tensorrt]'; on a Jetson use the system's package from a "
    "virtual environment made with --system-site-packages",
    "rtx": "pip install 'edgetok[rtx]' (x86-64)",
}


@dataclass(frozen=True)
class Target:
    """What engines are built for.

    Args:
        kind: `tensorrt` or `rtx`.
        capabilities: of `rtx`, the GPUs' compute capabilities, such as `sm86`; of `tensorrt`
            nothing, since it builds for the GPU that it runs on.
    """

    kind: str
    capabilities: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ":".join(filter(None, (self.kind, ",".join(self.capabilities))))

    @property
    def has_profile_per_rung(self) -> bool:
        """Whether each rung has an optimization profile to itself.

        TensorRT for RTX compiles kernels for the shapes it meets when it meets them, so one profile
        from the smallest rung to the largest serves it, and each further one would only add bytes.
        """
        return self.kind == "tensorrt"


@dataclass(frozen=True)
class Toolkit:
    """An installed TensorRT."""

    kind: str
    module: Any
    version: str

    @property
    def title(self) -> str:
        return f"{MODULES[self.kind]} {self.version}"


def parse_target(text: str | None) -> Target:
    """`rtx:sm75,sm86`, `rtx` or `tensorrt`; what is installed when None.

    Raises:
        UsageError: for another kind or a compute capability that is not built for.
        IncompatibleError: if nothing was named and neither is installed.
    """
    if text is None:
        return Target(*_default(find_toolkit().kind))
    kind, colon, given = text.strip().lower().partition(":")
    if kind not in MODULES or (colon and kind == "tensorrt"):
        raise UsageError(
            f"target {text!r} is unknown; use tensorrt, which builds for this machine's GPU, or "
            f"rtx:{','.join(_DEFAULT_CAPABILITIES)}"
        )
    if not colon:
        return Target(*_default(kind))
    names = [name for name in re.split(r"[,\s]+", given) if name]
    unknown = [name for name in names if name not in CAPABILITIES]
    if unknown or not names:
        raise UsageError(
            f"target {text!r} names {', '.join(unknown) or 'no GPU'}; TensorRT for RTX builds for "
            f"{', '.join(CAPABILITIES)}"
        )
    return Target(kind, tuple(sorted(set(names), key=CAPABILITIES.index)))


def find_toolkit(kind: str | None = None) -> Toolkit:
    """The module of this kind; of either kind when None, `tensorrt` first.

    Raises:
        IncompatibleError: if it is missing, damaged or too old; says what to install.
    """
    kinds = [kind] if kind else list(MODULES)
    reasons = []
    for each in kinds:
        try:
            return _require_version(each, importlib.import_module(MODULES[each]))
        except (ImportError, OSError) as error:  # OSError: a library of the vendor is missing
            reasons.append(f"{MODULES[each]}: {' '.join(str(error).split())[:200]}")
    hints = "; or ".join(_HINTS[each] for each in kinds)
    raise IncompatibleError(f"no TensorRT can be imported ({'; '.join(reasons)}); {hints}")


def _require_version(kind: str, module: Any) -> Toolkit:
    version = str(getattr(module, "__version__", ""))
    numbers = re.match(r"(\d+)\.(\d+)", version)
    oldest = _OLDEST[kind]
    if numbers is None or (int(numbers[1]), int(numbers[2])) < oldest:
        wanted = ".".join(map(str, oldest))
        raise IncompatibleError(
            f"{MODULES[kind]} has version {version or 'unknown'!r}, and edgetok needs {wanted} or "
            f"later; {_HINTS[kind]}"
        )
    return Toolkit(kind, module, version)


def _default(kind: str) -> tuple[str, tuple[str, ...]]:
    return kind, _DEFAULT_CAPABILITIES if kind == "rtx" else ()
