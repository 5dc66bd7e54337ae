"""Rooms of the C++ library include only from below."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[3] / "runtimes" / "cpp" / "src"
# From the ground up; what stands side by side does not know each other.
FLOORS = (
    {"."},
    {"bundle"},
    {"backends", "control", "images", "tokenizer"},
    {"runtime"},
    {"api"},
)
LEVELS = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}


def _room(path: str) -> str:
    return path.split("/")[0] if "/" in path else "."


@pytest.mark.parametrize("room", sorted(LEVELS))
def test_a_room_includes_only_from_below(room):
    for file in sorted((SOURCES / room).glob("*.?pp")):
        for included in re.findall(r'^#include "(.+)"', file.read_text(encoding="utf-8"), re.M):
            if included.startswith("edgetok/") or included.endswith(".pb.h"):
                continue  # the interface, and what protobuf makes of onnx-ml.proto
            assert (SOURCES / included).is_file(), f"{file.name}: {included} is no file here"
            other = _room(included)
            below = LEVELS[other] < LEVELS[room]
            assert other == room or below, f"{room}/{file.name} includes {included}"


def test_every_room_has_a_floor():
    found = {path.name for path in SOURCES.iterdir() if path.is_dir()}
    assert found | {"."} == set(LEVELS)
