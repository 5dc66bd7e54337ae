"""The library as other projects take it: by find_package, pkg-config and FetchContent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CPP = ROOT / "runtimes" / "cpp"
CONSUMER = Path(__file__).parent / "consumer"
PLACES = ("OnnxRuntime_INCLUDE_DIR", "OnnxRuntime_LIBRARY", "EDGETOK_ONNX_PROTO")


@pytest.fixture(scope="module")
def shared(build, run, tmp_path_factory) -> Path:
    """The shared library, installed."""
    prefix = tmp_path_factory.mktemp("shared")
    run("cmake", "--install", build, "--prefix", prefix)
    return prefix


@pytest.fixture(scope="module")
def fetched(build, run, tmp_path_factory) -> Path:
    """A consumer that compiled the library as a part of itself: what CMake takes is static."""
    return _fetch(build, run, tmp_path_factory.mktemp("fetched"), "-DEDGETOK_INSTALL=ON")


@pytest.fixture(scope="module")
def static(fetched, run, tmp_path_factory) -> Path:
    """The static library, installed by who fetched it: nothing is compiled twice."""
    prefix = tmp_path_factory.mktemp("static")
    run("cmake", "--install", fetched, "--prefix", prefix)
    return prefix


@pytest.mark.parametrize("kind", ["shared", "static"])
def test_found_by_cmake(kind, request, run, asked, tmp_path):
    prefix = request.getfixturevalue(kind)
    _build(run, CONSUMER, tmp_path, f"-DCMAKE_PREFIX_PATH={prefix}")
    asked.expect(run(tmp_path / "consumer", *asked.words))


@pytest.mark.parametrize(("kind", "options"), [("shared", ()), ("static", ("--static",))])
def test_found_by_pkg_config(kind, options, request, run, asked, tmp_path):
    library = next(request.getfixturevalue(kind).rglob("edgetok.pc")).parents[1]
    found = os.environ | {"PKG_CONFIG_PATH": str(library / "pkgconfig")}
    flags = run("pkg-config", "--cflags", "--libs", *options, "edgetok", env=found).split()
    rpath = [f"-Wl,-rpath,{flag[2:]}" for flag in flags if flag.startswith("-L")]
    run("cc", CPP / "examples" / "01_answer.c", *flags, *rpath, "-o", tmp_path / "answer")
    asked.expect(run(tmp_path / "answer", *asked.words))


def test_fetched_with_its_sources(fetched, run, asked):
    asked.expect(run(fetched / "consumer", *asked.words))


def test_fetching_sets_nothing_of_the_project_that_does(fetched):
    cache = (fetched / "CMakeCache.txt").read_text()
    assert "BUILD_SHARED_LIBS" not in cache
    assert not list(fetched.rglob("edgetok-cpp"))
    assert not list(fetched.rglob("01_answer"))


def test_examples_are_a_project_of_their_own(shared, run, asked, tmp_path):
    _build(run, CPP / "examples", tmp_path, f"-DCMAKE_PREFIX_PATH={shared}")
    asked.expect(run(tmp_path / "01_answer", *asked.words))


def test_names_no_place_of_the_machine_it_was_built_on(shared):
    texts = [*shared.rglob("*.cmake"), *shared.rglob("*.pc"), *shared.rglob("*.h*")]
    assert len(texts) >= 5
    assert not [path for path in texts if str(ROOT) in path.read_text()]


@pytest.mark.slow
def test_fetched_as_a_shared_library(build, run, asked, tmp_path):
    folder = _fetch(build, run, tmp_path, "-DBUILD_SHARED_LIBS=ON")
    assert list(folder.rglob("libedgetok.so"))
    asked.expect(run(folder / "consumer", *asked.words))


def _fetch(build: Path, run, folder: Path, *options: str) -> Path:
    known = (line.split(":", 1) for line in (build / "CMakeCache.txt").read_text().splitlines())
    places = [f"-D{':'.join(entry)}" for entry in known if entry[0] in PLACES]
    assert len(places) == len(PLACES)
    # Not optimised: nothing here is measured, and it compiles in half the time.
    _build(
        run,
        CONSUMER,
        folder,
        f"-DEDGETOK_SOURCE={CPP}",
        "-DCMAKE_BUILD_TYPE=Debug",
        *places,
        *options,
    )
    return folder


def _build(run, source: Path, folder: Path, *options: str) -> None:
    run("cmake", "-S", source, "-B", folder, *options)
    run("cmake", "--build", folder, "--parallel", os.cpu_count())
