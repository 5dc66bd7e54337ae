"""pyproject.toml, the folders and the development files say the same."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]
REAL_FOLDERS: dict[str, str] = {
    name: folder for name, folder in SETUPTOOLS["package-dir"].items() if name != "edgetok"
}


def test_every_package_folder_is_listed_and_vice_versa() -> None:
    """setuptools drops an unlisted folder from the wheel without a word."""
    found = set()
    for name, folder in {**REAL_FOLDERS, "edgetok": "edgetok"}.items():
        for init in (ROOT / folder).rglob("__init__.py"):  # does not follow links
            inner = init.parent.relative_to(ROOT / folder).parts
            found.add(".".join((name, *inner)))
    assert found == set(SETUPTOOLS["packages"])


def test_every_folder_with_code_is_a_package() -> None:
    for folder in ("edgetok", *REAL_FOLDERS.values()):
        for path in (ROOT / folder).rglob("*.py"):
            if path.parent == ROOT / "runtimes" / "cpp":
                continue  # scripts of the C++ library's build
            assert (path.parent / "__init__.py").exists(), path.relative_to(ROOT)


@pytest.mark.parametrize("name", REAL_FOLDERS)
def test_links_show_real_folders_to_type_checkers(name: str) -> None:
    link = ROOT / "edgetok" / name.removeprefix("edgetok.")
    assert link.is_symlink()
    assert link.resolve() == ROOT / REAL_FOLDERS[name]


def test_runtime_dependencies_hold_no_framework() -> None:
    light = (
        PYPROJECT["project"]["dependencies"] + PYPROJECT["project"]["optional-dependencies"]["cpu"]
    )
    names = {requirement.split(">")[0].strip() for requirement in light}
    assert not names & {"torch", "transformers", "matplotlib"}


def test_hooks_run_what_make_check_runs() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = makefile.split("\ncheck:")[1].split("\n\n")[0].splitlines()[1:]
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = [hook["entry"] for repo in config["repos"] for hook in repo["hooks"]]
    assert hooks == [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe]
