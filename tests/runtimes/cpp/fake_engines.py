"""Answers through the C library over the fake of fake_toolkit.cpp, in a process of its own.

Both builds of the library register the messages of ONNX with one libprotobuf, which ends a process
that does so twice; other tests have loaded the other build. A line of JSON in, a line of JSON out.
"""

from __future__ import annotations

import json
import os
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

COUNTS = (
    "opened",
    "contexts",
    "allocated",
    "profiles",
    "recorded",
    "launched",
    "copied",
    "kernels",
)


def photo() -> np.ndarray:
    """The picture that is asked about."""
    return np.random.default_rng(5).integers(0, 256, (20, 24, 3), np.uint8)


def _load(path: Path) -> ModuleType:
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[path.stem] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _answer(library: Any, capi: ModuleType, request: dict[str, Any]) -> dict[str, Any]:
    """What was answered, or why not; and what the fake was asked to do."""
    raw = library.raw
    raw.edgetok_fake_reset(request["version"].encode())
    for name, value in request["environment"].items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    out: dict[str, Any] = {"answers": []}

    def set_faults(faults: dict[str, int]) -> None:
        for name, value in faults.items():
            raw.edgetok_fake_set(name.encode(), capi.c_int64(value))

    set_faults(request["faults"])
    try:
        bundle = capi.Bundle(library, Path(request["bundle"]))
        model = capi.Model(bundle, **request["options"])
        out["loaded"] = {name: raw.edgetok_fake_count(name.encode()) for name in COUNTS}
        out["memory"] = model.memory
        set_faults(request["later"])
        image = model.image(photo())
        for ask in request["asks"]:
            made = model.generate(image, **ask)
            out["answers"].append([made.tokens, made.kept, made.stop])
    except capi.Failure as failure:
        out |= {"status": failure.status, "message": str(failure)}
    out["counts"] = {name: raw.edgetok_fake_count(name.encode()) for name in COUNTS}
    model = image = bundle = None
    out["left"] = raw.edgetok_fake_count(b"left")
    return out


def main() -> None:
    """Take the library and the module of ctypes by their paths, then requests."""
    capi = _load(Path(sys.argv[2]))
    library = capi.Library(Path(sys.argv[1]))
    library.raw.edgetok_fake_count.restype = capi.c_int64
    for line in sys.stdin:
        print(json.dumps(_answer(library, capi, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
