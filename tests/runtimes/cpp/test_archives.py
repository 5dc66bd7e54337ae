"""Release archives: unpacked anywhere they answer, with nothing but the C library from the system."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
BUILDS = ROOT / "build" / "cpp"
NOT_TO_BE_HAD = 69
SYSTEM = ("libc", "libm", "libdl", "librt", "libpthread", "libstdc++", "libgcc_s", "ld-linux")
NOTICES = {  # whose licence covers what lies in lib/
    "libedgetok": "../LICENSE",
    "libjpeg": "libjpeg62-turbo-dev.txt",
    "libonnxruntime": "onnxruntime.txt",
    "libpng16": "libpng-dev.txt",
    "libprotobuf": "libprotobuf-dev.txt",
    "libz": "zlib1g-dev.txt",
}


def _unpack(preset: str, folder: Path) -> Path:
    script = ROOT / "runtimes" / "cpp" / "build.sh"
    done = subprocess.run(
        [script, sys.executable, preset], capture_output=True, text=True, check=False
    )
    if done.returncode == NOT_TO_BE_HAD:
        pytest.skip(f"nothing to build it with: {done.stderr[-400:]}")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (archive,) = (BUILDS / preset).glob("edgetok-*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module", params=["archive", "aarch64"])
def unpacked(request, tmp_path_factory) -> Path:
    return _unpack(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    return _unpack("archive", tmp_path_factory.mktemp("here"))


@pytest.fixture(scope="module")
def there(tmp_path_factory) -> Path:
    return _unpack("aarch64", tmp_path_factory.mktemp("there"))


def test_holds_all_that_it_needs(unpacked, run):
    held = {path.name for path in (unpacked / "lib").iterdir()}
    for library in (unpacked / "lib").glob("*.so.*"):
        dynamic = run("readelf", "-d", library)
        needs = [line.split("[")[1][:-1] for line in dynamic.splitlines() if "NEEDED" in line]
        assert not [name for name in needs if name not in held and not name.startswith(SYSTEM)]
    dynamic = run("readelf", "-d", unpacked / "lib" / "libedgetok.so")
    assert "(RPATH)              Library rpath: [$ORIGIN]" in dynamic


def test_needs_no_newer_system_than_said(unpacked, run):
    """docs/cpp.md: glibc 2.35, GCC 12's C++ library. On a newer Debian archives need a newer one."""
    if "bookworm" not in Path("/etc/os-release").read_text():
        pytest.skip("archives are made on Debian 12")
    for library in (unpacked / "lib").glob("*.so.*"):
        words = run("objdump", "-T", library).replace("(", " ").replace(")", " ").split()
        glibc = [word[6:].split(".") for word in words if word.startswith("GLIBC_2.")]
        assert max([int(minor) for _, minor, *_ in glibc], default=0) <= 35, library


def test_carries_the_licence_of_what_it_carries(unpacked):
    notices = unpacked / "share" / "doc" / "edgetok" / "third-party"
    for library in (unpacked / "lib").glob("*.so*"):
        assert (notices / NOTICES[library.name.split(".so")[0]]).stat().st_size > 500
    for inside in ("libssl-dev.txt", "nlohmann-json3-dev.txt", "onnxruntime-third-party.txt"):
        assert (notices / inside).stat().st_size > 500


def test_names_no_place_of_the_machine_it_was_built_on(unpacked):
    ours = [*unpacked.rglob("*edgetok*"), *unpacked.rglob("*.cmake")]
    assert len(ours) > 10
    for path in ours:
        assert path.is_dir() or str(ROOT).encode() not in path.read_bytes(), path


def test_answers_from_any_place(here, run, asked, tmp_path):
    _build_examples(run, here, tmp_path)
    asked.expect(run(tmp_path / "01_answer", *asked.words))
    said = run(here / "bin" / "edgetok-cpp", "inspect", asked.bundle)
    assert "64" in said or said


def test_aarch64_answers_under_emulation(there, run, asked, tmp_path):
    qemu = shutil.which("qemu-aarch64-static")
    if qemu is None:
        pytest.skip("qemu-user-static is not installed")
    toolchain = ROOT / "runtimes" / "cpp" / "cmake" / "aarch64.cmake"
    _build_examples(run, there, tmp_path, f"-DCMAKE_TOOLCHAIN_FILE={toolchain}")
    system = BUILDS / "deps" / "aarch64" / "root"
    asked.expect(run(qemu, "-L", system, tmp_path / "01_answer", *asked.words))


def _build_examples(run, prefix: Path, folder: Path, *options: str) -> None:
    package = f"-Dedgetok_DIR={prefix / 'lib' / 'cmake' / 'edgetok'}"
    source = prefix / "share" / "edgetok" / "examples"
    run("cmake", "-S", source, "-B", folder, package, *options)
    run("cmake", "--build", folder)
