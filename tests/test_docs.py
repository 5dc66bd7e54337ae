"""What the pages name exists: source files, folders, and the pages that they link to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgetok.bundle import encoder_golden, encoders, golden, manifest, processor
from edgetok.bundle.strict import Struct

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
SOURCES = (".py", ".pyi", ".cpp", ".hpp", ".sh", ".md", ".toml")
ANOTHER = ("build", "share", "lib")  # folders of what a build makes, not of the repository

# Everything that stands in a JSON file of a bundle, but for the numbers of a controller.
KINDS = [
    kind
    for module in (manifest, encoders, processor, golden, encoder_golden)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, Struct) and kind.__module__ == module.__name__
]

CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
PATH = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*/?")
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)")


def list_folders() -> frozenset[str]:
    """Folders at the top of the repository that a page may name."""
    found = (p.name for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith("."))
    return frozenset(found) - set(ANOTHER)


def list_files() -> frozenset[str]:
    """Every path, and each of its ends: `bundle/strict.py` names one as well."""
    ends = set()
    for folder in list_folders():
        for path in (ROOT / folder).rglob("*"):
            names = path.relative_to(ROOT).parts
            ends |= {"/".join(names[at:]) for at in range(len(names))}
    return frozenset(ends) | {p.name for p in ROOT.iterdir()}


FOLDERS, FILES = list_folders(), list_files()


def named_paths(text: str) -> Iterator[str]:
    """Words in backticks that are paths of the repository; not those of a bundle or an archive."""
    words = (word for code in CODE.findall(text) for word in code.split())
    for word in words:
        first = word.split("/")[0]
        of_us = first in FOLDERS and "/" in word
        if PATH.fullmatch(word) and first not in ANOTHER and (of_us or word.endswith(SOURCES)):
            yield word.rstrip("/")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_that_a_page_names_exist(page: Path) -> None:
    missing = {
        path
        for path in named_paths(page.read_text())
        if path not in FILES and not (ROOT / path).exists()
    }
    assert not missing, f"{page.name} names {sorted(missing)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_that_a_page_links_to_exist(page: Path) -> None:
    prose = CODE.sub("", re.sub(r"(?ms)^```.*?^```", "", page.read_text()))
    missing = {to for to in LINK.findall(prose) if not (page.parent / to).exists()}
    assert not missing, f"{page.name} links to {sorted(missing)}"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_field_of_a_bundle_is_described(kind: type[Struct]) -> None:
    pages = (ROOT / "docs" / name for name in ("bundle-format.md", "bundle-files.md"))
    text = "".join(page.read_text() for page in pages)
    missing = [n for n in kind.__struct_fields__ if f"`{n}`" not in text and f'"{n}"' not in text]
    assert not missing, f"{kind.__name__}: {missing}"


def test_a_path_that_is_gone_is_found() -> None:
    text = "See `bundle/kivi.py`, `export/nowhere/`, `weights/model.bin` and `run pytest.py -q`."
    assert list(named_paths(text)) == ["bundle/kivi.py", "export/nowhere", "pytest.py"]
    assert not set(named_paths(text)) & FILES
