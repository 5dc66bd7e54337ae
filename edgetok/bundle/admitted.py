"""Graphs that were admitted on this device before: once is enough for the same bytes.

Admission reads a graph with the `onnx` package, which alone takes longer to import than a small
bundle takes to answer. What was admitted leaves an empty file in the user's cache, named by
everything that the verdict depends on: the graph, what the manifest says of it, and the rules.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import msgspec

from edgetok import limits
from edgetok.bundle.manifest import File, Stage
from edgetok.user_cache import cache_directory

# Not imported, since two of them import onnx.
_RULES = ("admission.py", "operators.py", "tensors.py")


def require_admitted(data: bytes, stage: Stage, files: Mapping[str, File]) -> None:
    """As `admission.admit_graph`, unless it admitted the same here before.

    Raises:
        BundleError: naming the file and the first problems.
    """
    mark = cache_directory() / "admitted" / _verdict_key(data, stage, files)
    if mark.exists():
        return
    from edgetok.bundle.admission import admit_graph

    admit_graph(data, stage, files)
    _leave(mark)


def _verdict_key(data: bytes, stage: Stage, files: Mapping[str, File]) -> str:
    parts = (data, msgspec.json.encode(stage), msgspec.json.encode(files), _rules())
    sums = b"".join(hashlib.sha256(part).digest() for part in parts)
    return hashlib.sha256(sums).hexdigest()


@cache
def _rules() -> bytes:
    """The source of what decides; another edgetok decides anew."""
    own = Path(__file__)
    sources = (Path(str(limits.__file__)), *(own.with_name(name) for name in _RULES))
    return b"".join(source.read_bytes() for source in sources)


def _leave(mark: Path) -> None:
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    except OSError:  # then it is admitted again next time
        return
