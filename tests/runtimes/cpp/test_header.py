"""What is generated of the C++ library is as the Python code is."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from typing import Annotated

import msgspec
import pytest

from edgetok import limits

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


# Of what only Python reads: models to export, samples, golden cases, videos.
NOT_HERE = {
    "BUCKETS",
    "CHAT_TEMPLATE_BYTES",
    "CHAT_TEMPLATE_SECONDS",
    "CONFIG_BYTES",
    "GOLDEN_BYTES",
    "GOLDEN_CASES",
    "GOLDEN_INPUTS",
    "GOLDEN_INPUT_BYTES",
    "SAMPLES",
    "SAMPLES_FILE_BYTES",
    "SAMPLE_LINE_BYTES",
    "SCORER_BYTES",
    "TILES",
    "TOWER_SIDE_PIXELS",
    "VIDEO_FRAMES",
}


def test_every_limit_is_enforced_by_some_line(generator):
    sources = [p.read_text() for p in generator.SOURCES.rglob("*.?pp") if p.name != "generated.hpp"]
    used = set(re.findall(r"\blimits::([A-Z_]+)", "".join(sources)))
    known = {name for name, value in vars(limits).items() if isinstance(value, int)}
    assert known - used == NOT_HERE


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
