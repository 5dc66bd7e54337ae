"""What is generated of the C++ library is as the Python code is."""

from __future__ import annotations

import importlib.util
import tomllib
from pathlib import Path
from typing import Annotated

import msgspec
import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def generator():
    """The module runtimes/cpp/make_generated.py."""
    path = ROOT / "runtimes" / "cpp" / "make_generated.py"
    spec = importlib.util.spec_from_file_location("make_generated", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_files_are_not_stale(generator):
    for path, text in generator.render().items():
        assert path.read_text(encoding="utf-8") == text, (
            f"{path.name}: names.py, limits.py, operators.py or a type changed; run: make docs"
        )


UNKNOWN = {
    "pattern": Annotated[str, msgspec.Meta(pattern="^a|b$")],
    "open end of an integer": Annotated[int, msgspec.Meta(gt=0)],
    "set": set[str],
    "union": int | str | None,
    "struct that takes unknown fields": msgspec.defstruct("Lax", [("a", int)]),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_type_that_the_other_reader_does_not_know_is_an_error(generator, name):
    with pytest.raises(ValueError, match=r"the C\+\+ reader|with ge and le"):
        generator._schema(msgspec.inspect.type_info(UNKNOWN[name]), {})


def test_both_libraries_have_one_version(library):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert library.raw.edgetok_version().decode() == version
