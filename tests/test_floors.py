"""The house rules of docs/architecture.md: a room imports only from the rooms it may know."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

GROUND = {"errors", "limits", "ladder", "names", "options", "rules", "scratch", "tokens"}
TOOLS = {"methods", "prefill", "kv", "families", "bundle", "control", "engines"}

# Every import counts, those inside functions and under TYPE_CHECKING too.
MAY_KNOW: dict[str, set[str]] = {
    "errors": set(),
    "limits": set(),
    "ladder": {"errors", "limits"},
    "names": set(),
    "options": {"errors"},
    "rules": set(),
    "scratch": {"errors"},
    "tokens": {"errors", "limits", "names"},
    "methods": GROUND,
    "prefill": GROUND,
    "kv": GROUND,
    "families": GROUND | {"bundle"},  # the image and prompt plans that a bundle holds
    "bundle": GROUND - {"tokens"},
    "control": GROUND - {"tokens"},
    "engines": GROUND - {"tokens"} | {"bundle", "control"},  # the user's cache directory
    "calibration": GROUND | TOOLS,
    "export": GROUND | TOOLS | {"calibration"},
    "runtimes": GROUND | TOOLS | {"calibration"},
    "cli": GROUND | TOOLS | {"calibration", "export", "runtimes"},
}
REAL_FOLDERS = {"export", "runtimes", "calibration", "cli"}  # the others lie in edgetok/
LIGHT_ROOMS = (
    "runtimes",
    "bundle",
    "control",
    "engines",
    "cli",
)  # a device that only runs has no torch
HEAVY = {"torch", "transformers"}


def list_files(room: str) -> list[Path]:
    place = ROOT / room if room in REAL_FOLDERS else ROOT / "edgetok" / room
    return sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]


def name_module(path: Path) -> str:
    """The importable name of a file: `cli/app.py` is `edgetok.cli.app`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "edgetok" else ("edgetok", *parts)
    return ".".join(parts)


def list_imports(path: Path) -> Iterator[str]:
    """Dotted names of everything a file imports, relative imports resolved."""
    module = name_module(path)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(module.split(".")[: -node.level]) if node.level else ""
            source = ".".join(part for part in (base, node.module) if part)
            yield from (f"{source}.{alias.name}" for alias in node.names)


def list_known_rooms(path: Path) -> set[str]:
    dotted = (name.split(".") for name in list_imports(path))
    return {parts[1] for parts in dotted if parts[0] == "edgetok" and len(parts) > 1}


def list_module_level_imports(path: Path) -> set[str]:
    """Top-level names of packages that importing the file imports."""
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
        waiting += ast.iter_child_nodes(node)
    return found


@pytest.mark.parametrize("room", MAY_KNOW)
def test_room_knows_only_rooms_below(room: str) -> None:
    allowed = MAY_KNOW[room] | {room, "__version__"}
    files = list_files(room)
    assert files, f"room {room} has no files"
    offenders = {
        str(path.relative_to(ROOT)): sorted(list_known_rooms(path) - allowed) for path in files
    }
    assert not {path: rooms for path, rooms in offenders.items() if rooms}


def test_every_room_has_a_floor() -> None:
    inside = {path.stem for path in (ROOT / "edgetok").glob("*.py")} - {"__init__", "__main__"}
    folders = {path.parent.name for path in (ROOT / "edgetok").glob("*/__init__.py")}
    assert inside | folders == set(MAY_KNOW)


def test_public_face_imports_workshops_only_when_called() -> None:
    """`import edgetok` must stay quick, whatever is installed."""
    tree = ast.parse((ROOT / "edgetok" / "__init__.py").read_text(encoding="utf-8"))
    imported = {
        node.module
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("edgetok")
    }
    assert imported <= {f"edgetok.{room}" for room in GROUND - {"tokens"}}


@pytest.mark.parametrize("room", LIGHT_ROOMS)
def test_rooms_of_the_device_import_no_framework(room: str) -> None:
    for path in list_files(room):
        assert not list_module_level_imports(path) & HEAVY, path.relative_to(ROOT)


@pytest.mark.parametrize("module", ["edgetok", "edgetok.cli.app", "edgetok.runtimes.answers.model"])
def test_importing_loads_no_framework(module: str, tmp_path: Path) -> None:
    script = f"import sys, {module}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""
