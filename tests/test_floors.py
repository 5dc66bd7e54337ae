"""The rules of docs/architecture.md: a package imports only from the packages it may know."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

GROUND = {
    *("errors", "limits", "ladder", "names", "options", "overflow", "rules", "scratch", "tokens"),
    *("user_cache", "version", "installed"),
}
TOOLS = {"methods", "prefill", "kv", "families", "bundle", "text", "images", "control", "engines"}

# Every import counts, those inside functions and under TYPE_CHECKING too.
MAY_KNOW: dict[str, set[str]] = {
    "errors": set(),
    "overflow": set(),
    "limits": set(),
    "ladder": {"errors", "limits"},
    "names": set(),
    "options": {"errors"},
    "rules": set(),
    "installed": set(),
    "version": {"installed"},
    "scratch": {"errors"},
    "user_cache": set(),
    "tokens": {"errors", "limits", "names"},
    "methods": GROUND,
    "prefill": GROUND,
    "kv": GROUND,
    # The plans that a bundle holds, and the code that reads them on a device.
    "families": GROUND | {"bundle", "text"},
    "text": {"errors", "limits", "bundle"},
    "images": {"errors", "limits", "bundle"},
    "bundle": GROUND - {"tokens"},
    "control": GROUND - {"tokens"},
    "engines": GROUND - {"tokens"} | {"bundle", "control"},  # the user's cache directory
    "calibration": GROUND | TOOLS,
    "export": GROUND | TOOLS | {"calibration"},
    "runtimes": GROUND | TOOLS | {"calibration"},
    "cli": GROUND | TOOLS | {"calibration", "export", "runtimes"},
}
REAL_FOLDERS = {"export", "runtimes", "calibration", "cli"}  # the others lie in edgetok/
LIGHT_PACKAGES = (
    "runtimes",
    "bundle",
    "text",
    "images",
    "control",
    "engines",
    "cli",
)  # a device that only runs has no torch
HEAVY = {"torch", "transformers"}


def list_files(package: str) -> list[Path]:
    place = ROOT / package if package in REAL_FOLDERS else ROOT / "edgetok" / package
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


def list_known_packages(path: Path) -> set[str]:
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


@pytest.mark.parametrize("package", MAY_KNOW)
def test_a_package_knows_only_packages_below(package: str) -> None:
    allowed = MAY_KNOW[package] | {package, "__version__"}
    files = list_files(package)
    assert files, f"package {package} has no files"
    offenders = {
        str(path.relative_to(ROOT)): sorted(list_known_packages(path) - allowed) for path in files
    }
    assert not {path: packages for path, packages in offenders.items() if packages}


def test_every_package_has_its_rule() -> None:
    inside = {path.stem for path in (ROOT / "edgetok").glob("*.py")} - {"__init__", "__main__"}
    folders = {path.parent.name for path in (ROOT / "edgetok").glob("*/__init__.py")}
    assert inside | folders == set(MAY_KNOW)


def test_public_face_imports_packages_only_when_called() -> None:
    """`import edgetok` must stay quick, whatever is installed."""
    tree = ast.parse((ROOT / "edgetok" / "__init__.py").read_text(encoding="utf-8"))
    imported = {
        node.module
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("edgetok")
    }
    assert imported <= {f"edgetok.{package}" for package in GROUND - {"tokens"}}


def list_modules() -> dict[str, Path]:
    """Every product module by its importable name."""
    files = [path for package in MAY_KNOW for path in list_files(package)]
    files += [ROOT / "edgetok" / "__init__.py"]
    return {name_module(path).removesuffix(".__init__"): path for path in files if path.exists()}


def find_circle(edges: dict[str, set[str]]) -> list[str]:
    """A way from a node back to itself; nothing if there is none."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def list_edges(modules: dict[str, Path]) -> dict[str, set[str]]:
    """Which modules each module imports."""
    edges: dict[str, set[str]] = {}
    for name, path in modules.items():
        names = list_imports(path)
        dotted = {found if found in modules else found.rpartition(".")[0] for found in names}
        edges[name] = {found for found in dotted if found in modules and found != name}
    return edges


def name_part(module: str) -> str:
    """The part of the product that a module belongs to: of export/ and runtimes/ the folder."""
    parts = module.split(".")
    return ".".join(parts[: 3 if parts[1:2] in (["export"], ["runtimes"]) else 2])


def test_no_module_imports_itself_through_others() -> None:
    assert find_circle(list_edges(list_modules())) == []


def test_no_part_imports_itself_through_others() -> None:
    """Folders too: what stands together is understood together."""
    parts: dict[str, set[str]] = {}
    for module, found in list_edges(list_modules()).items():
        parts.setdefault(name_part(module), set()).update(map(name_part, found))
    assert find_circle({a: found - {a} for a, found in parts.items()}) == []


def test_circles_are_found() -> None:
    found = find_circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})
    assert set(found) == {"a", "b", "c"}


STORES = "edgetok.kv.stores"
SCHEMES = [
    f"edgetok.export.caches.{path.parent.name}" for path in ROOT.glob("export/caches/*/scheme.py")
]
KNOW_NOTHING_OF = {
    # Torch modules and operators meet in `export.attention` alone.
    "export/stages/*.py": ["edgetok.export.lowering", "edgetok.export.caches"],
    "export/lowering/*.py": ["edgetok.export.stages", "edgetok.export.caches"],
    "export/caches/*/graphs.py": ["edgetok.export.lowering"],
    # A reference that shares code with what it is compared with proves nothing.
    "export/reference/*.py": [
        "edgetok.export.stages", "edgetok.export.lowering", "edgetok.export.caches", STORES
    ],
    "export/caches/*/reference.py": [
        "edgetok.export.stages", "edgetok.export.lowering", STORES,
        *(f"{scheme}.graphs" for scheme in SCHEMES),
    ],
    # A scheme is added in its own folder and in `caches.choose`.
    "export/builder.py": SCHEMES,
    "export/pipeline.py": SCHEMES,
    "export/manifest.py": SCHEMES,
    "export/fit.py": SCHEMES,
    "export/parity/*.py": SCHEMES,
}  # fmt: skip


@pytest.mark.parametrize("pattern", KNOW_NOTHING_OF)
def test_parts_of_the_exporter_know_nothing_of_each_other(pattern: str) -> None:
    files = sorted(ROOT.glob(pattern))
    assert files, pattern
    forbidden = tuple(KNOW_NOTHING_OF[pattern])
    offenders = {
        str(path.relative_to(ROOT)): [n for n in list_imports(path) if n.startswith(forbidden)]
        for path in files
    }
    assert not {path: found for path, found in offenders.items() if found}


def test_export_has_few_parts() -> None:
    inside = list((ROOT / "export").iterdir())
    found = [p for p in inside if p.suffix == ".py" or (p / "__init__.py").exists()]
    assert len(found) <= 16


@pytest.mark.parametrize("package", LIGHT_PACKAGES)
def test_packages_of_the_device_import_no_framework(package: str) -> None:
    for path in list_files(package):
        assert not list_module_level_imports(path) & HEAVY, path.relative_to(ROOT)


@pytest.mark.parametrize("module", ["edgetok", "edgetok.cli.app", "edgetok.runtimes.answers.model"])
def test_importing_loads_no_framework(module: str, tmp_path: Path) -> None:
    script = f"import sys, {module}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""
