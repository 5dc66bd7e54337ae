"""What a user gets from the sdist, the wheel and an editable install."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
    "setuptools"
]
FOLDERS: dict[str, str] = SETUPTOOLS["package-dir"]
FILES = ("pyproject.toml", "README.md", "LICENSE")


def list_modules(folder: Path) -> list[Path]:
    """Python files of a folder; those of the C++ library are scripts of its build."""
    return [path for path in folder.rglob("*.py") if path.parent.name != "cpp"]


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def copy_sources(target: Path, *, links: bool) -> Path:
    """The files that matter to a build; without links it is what a zip download holds."""
    target.mkdir()
    for folder in FOLDERS.values():
        shutil.copytree(
            ROOT / folder,
            target / folder,
            symlinks=True,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    for file in FILES:
        shutil.copy2(ROOT / file, target / file)
    if not links:
        for path in (target / "edgetok").iterdir():
            if path.is_symlink():
                path.unlink()
    return target


def list_expected_modules() -> set[str]:
    """Wheel paths of every module of the real folders."""
    expected = {"edgetok/py.typed"}
    for name, folder in FOLDERS.items():
        for path in list_modules(ROOT / folder):
            expected.add(f"{name.replace('.', '/')}/{path.relative_to(ROOT / folder).as_posix()}")
    return expected


def make_environment(place: Path) -> Path:
    """A virtual environment that sees our dependencies but not our own installation.

    A path in a .pth file is searched, yet the .pth files in it (ours among them) are not read.
    """
    venv.create(place, with_pip=False)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(place)}))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return place / "bin"


def install(bin_folder: Path, *what: str | Path) -> None:
    pip = (sys.executable, "-m", "pip", "--python", bin_folder / "python", "install", "-q")
    run(*pip, "--no-deps", "--no-build-isolation", "--ignore-installed", *what, cwd=bin_folder)


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with an sdist and the wheel that was built from it."""
    place = tmp_path_factory.mktemp("build")
    sources = copy_sources(place / "sources", links=True)
    run(
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--outdir",
        place / "dist",
        sources,
        cwd=place,
    )
    return place / "dist"


def find_one(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


def test_wheel_holds_exactly_our_modules(dist: Path) -> None:
    names = zipfile.ZipFile(find_one(dist, "*.whl")).namelist()
    modules = {name for name in names if ".dist-info/" not in name}
    assert modules == list_expected_modules()
    assert {name.split("/")[0] for name in modules} == {"edgetok"}


def test_wheel_carries_the_licence(dist: Path) -> None:
    wheel = zipfile.ZipFile(find_one(dist, "*.whl"))
    (licence,) = [name for name in wheel.namelist() if name.endswith("/licenses/LICENSE")]
    assert wheel.read(licence) == (ROOT / "LICENSE").read_bytes()


def test_sdist_holds_the_real_folders(dist: Path) -> None:
    with tarfile.open(find_one(dist, "*.tar.gz")) as archive:
        names = archive.getnames()
    held = {
        name.split("/", 1)[1] for name in names if name.endswith(".py") and "/tests/" not in name
    }
    expected = {
        path.relative_to(ROOT).as_posix()
        for folder in FOLDERS.values()
        for path in list_modules(ROOT / folder)
    }
    assert held - {"setup.py"} == expected


@pytest.fixture(scope="module")
def wheel_bin(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    bin_folder = make_environment(tmp_path_factory.mktemp("wheel") / "env")
    install(bin_folder, find_one(dist, "*.whl"))
    return bin_folder


@pytest.fixture(scope="module")
def editable_bin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """From a copy whose links were lost, as in a zip download."""
    place = tmp_path_factory.mktemp("editable")
    bin_folder = make_environment(place / "env")
    install(bin_folder, "-e", copy_sources(place / "sources", links=False))
    return bin_folder


@pytest.fixture(params=["wheel_bin", "editable_bin"])
def bin_folder(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


def test_command_runs_from_an_empty_directory(bin_folder: Path, tmp_path: Path) -> None:
    assert run(bin_folder / "edgetok", "--version", cwd=tmp_path).startswith("edgetok ")


def test_every_package_imports_from_an_empty_directory(bin_folder: Path, tmp_path: Path) -> None:
    packages = SETUPTOOLS["packages"]
    script = f"from importlib import import_module as i\nfor n in {packages}: print(i(n).__file__)"
    files = run(bin_folder / "python", "-c", script, cwd=tmp_path).splitlines()
    home = bin_folder.parent.parent  # not this checkout
    assert all(Path(file).is_relative_to(home) for file in files), files


@pytest.mark.parametrize("folder", sorted(set(FOLDERS.values()) - {"edgetok"}))
def test_folders_are_no_packages_of_their_own(
    bin_folder: Path, folder: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [bin_folder / "python", "-c", f"import {folder}"],
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"No module named '{folder}'" in done.stderr
