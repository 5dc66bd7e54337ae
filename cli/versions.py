"""Versions of packages against the bounds of edgetok's own metadata."""

from __future__ import annotations

import functools
import re
import traceback
from collections.abc import Callable, Iterable
from typing import Any

from edgetok.errors import IncompatibleError
from edgetok.installed import requirements_of, version_of

# The newest that edgetok was tried with; what is newer may differ inside. `make lock` moves them.
TRIED = {
    "onnx": "1.23.2",
    "onnxruntime": "1.32.0",
    "torch": "2.13.0",
    "transformers": "5.24.0",
    "onnxscript": "0.7.2",
    "onnx-ir": "1.1.0",
    "optimum": "2.3.0",
}
# What a verb must find at its bound or above, if it is installed; other verbs run with anything.
_RUNNING = ("onnx", "onnxruntime", "onnxruntime-gpu", "tokenizers", "msgspec")
_EXPORTING = (*_RUNNING, "torch", "transformers", "onnxscript", "onnx-ir", "safetensors", "optimum")
NEEDED = {
    **dict.fromkeys(("run", "chat", "build", "verify", "bench", "eval", "calibrate"), _RUNNING),
    **dict.fromkeys(("export", "tune"), _EXPORTING),
}
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*>=\s*([0-9.]+)")
# What raises them inside a package has changed there, more often than it is wrong here.
_MOVED = (AttributeError, ImportError, TypeError)


def list_bounds() -> dict[str, str]:
    """Of each package with a lower bound, that bound."""
    found = map(_REQUIREMENT.match, requirements_of("edgetok"))
    return {match[1].lower(): match[2] for match in found if match}


def misfit(package: str, *, newer: bool = False) -> str | None:
    """A sentence if a package is older than its bound or, if asked, newer than what was tried."""
    version, least = version_of(package), list_bounds().get(package)
    if version is None or least is None:
        return None
    tried = TRIED.get(package, least)
    install = f'pip install "{package}>={least}'
    if _order(version) < _order(least):
        return f'{package} {version} is older than {least}, the oldest that works: {install}"'
    if newer and _order(version) > _order(tried):
        way_out = f'{install},<={tried}"'
        return f"{package} {version} is newer than {tried}, the newest that was tried: {way_out}"
    return None


def checked(command: Callable[..., None], packages: Iterable[str]) -> Callable[..., None]:
    """A command that refuses to begin with a package older than its bound.

    Raises:
        IncompatibleError: when the command is called, naming package, version and bound.
    """

    @functools.wraps(command)
    def run(*given: Any, **named: Any) -> None:
        for package in packages:
            if says := misfit(package):
                raise IncompatibleError(says)
        command(*given, **named)

    return run


def blame_package(error: BaseException) -> str | None:
    """The sentence for an error that comes of a package whose version does not fit."""
    if not isinstance(error, _MOVED):
        return None
    named = (error.name or "") if isinstance(error, ImportError) else ""
    places = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    for package in TRIED:
        module = package.replace("-", "_")
        within = any(f"/{module}/" in place for place in places)
        if (within or named.split(".")[0] == module) and (says := misfit(package, newer=True)):
            return says
    return None


def _order(version: str) -> tuple[int, ...]:
    """Numbers of a release, without zeros behind: 5.24.0rc1 -> (5, 24)."""
    found = re.match(r"[0-9]+(?:\.[0-9]+)*", version)
    numbers = [int(part) for part in found[0].split(".")] if found else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
