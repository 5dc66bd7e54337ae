"""The GPU of this machine, as far as engines depend on it."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from edgetok.errors import IncompatibleError, ResourceError

_OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation
_INSTALL = "install the CUDA bindings: pip install cuda-bindings, of the driver's CUDA version"


@dataclass(frozen=True)
class Device:
    """A GPU.

    Args:
        name: as the driver calls it.
        capability: such as `sm86`.
        driver: version of CUDA that the driver serves, such as `13.0`.
    """

    name: str
    capability: str
    driver: str

    def __str__(self) -> str:
        return f"{self.name}, {self.capability}, driver for CUDA {self.driver}"


def import_cuda() -> Any:
    """The module `cuda.bindings.runtime`.

    Raises:
        IncompatibleError: if it is not installed.
    """
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except (ImportError, OSError) as error:
        raise IncompatibleError(f"CUDA cannot be used ({error}); {_INSTALL}") from error


def find_device(cuda: Any, number: int = 0) -> Device:
    """What the GPU of this number is.

    Raises:
        IncompatibleError: if there is no GPU or no driver.
    """
    properties = checked(cuda.cudaGetDeviceProperties(number), "look at the GPU")
    driver = checked(cuda.cudaDriverGetVersion(), "ask for the driver")
    name = properties.name
    name = name.decode(errors="replace") if isinstance(name, bytes) else str(name)
    capability = f"sm{properties.major}{properties.minor}"
    return Device(name.rstrip("\0"), capability, f"{driver // 1000}.{driver % 1000 // 10}")


def checked(result: Any, doing: str) -> Any:
    """What a call of CUDA returned beside its status.

    Raises:
        ResourceError: if the GPU's memory ran out.
        IncompatibleError: for any other status but success.
    """
    status, *values = result if isinstance(result, tuple) else (result,)
    if int(status) == _OUT_OF_MEMORY:
        raise ResourceError(
            f"the GPU's memory ran out ({doing}); end other programs, load fewer rungs "
            "(budgets=…), or export with int4 weights and an int8 KV cache"
        )
    if int(status) != 0:
        raise IncompatibleError(
            f"CUDA could not {doing}: {getattr(status, 'name', status)}; check the driver with "
            "`edgetok doctor`"
        )
    return values[0] if len(values) == 1 else values or None
