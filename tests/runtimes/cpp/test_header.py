"""The generated header is as the Python code is."""

from __future__ import annotations

import importlib.util
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_header_is_not_stale():
    path = ROOT / "benchmarks" / "cpp_header.py"
    spec = importlib.util.spec_from_file_location("cpp_header", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.HEADER.read_text(encoding="utf-8") == module.render(), (
        "names.py, limits.py or operators.py changed; run: make docs"
    )


def test_both_libraries_have_one_version(library):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert library.raw.edgetok_version().decode() == version
