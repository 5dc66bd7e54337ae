"""Release archives answer wherever they are unpacked, with no library but the C and C++ ones."""

from __future__ import annotations

import re
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
    "libonig": "libonig-dev.txt",
    "libonnxruntime": "onnxruntime.txt",
    "libpng16": "libpng-dev.txt",
    "libprotobuf": "libprotobuf-dev.txt",
    "libutf8proc": "libutf8proc-dev.txt",
    "libwebp": "libwebp-dev.txt",
    "libwebpdemux": "libwebp-dev.txt",
    "libz": "zlib1g-dev.txt",
}
CORTEX_A72 = """\
processor\t: 0
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3
"""


@pytest.fixture(scope="module", params=["archive", "aarch64"])
def unpacked(request, tmp_path_factory) -> Path:
    """The folder that came out of an archive."""
    script = ROOT / "runtimes" / "cpp" / "build.sh"
    done = subprocess.run(
        [script, sys.executable, request.param], capture_output=True, text=True, check=False
    )
    if done.returncode == NOT_TO_BE_HAD:
        pytest.skip(f"nothing to build it with: {done.stderr[-400:]}")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (archive,) = (BUILDS / request.param).glob("edgetok-*.tar.gz")
    folder = tmp_path_factory.mktemp(request.param)
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


def test_holds_all_that_it_needs(unpacked, run):
    held = {path.name for path in (unpacked / "lib").iterdir()}
    for library in (unpacked / "lib").glob("*.so.*"):
        dynamic = run("readelf", "-d", library)
        needs = [line.split("[")[1][:-1] for line in dynamic.splitlines() if "NEEDED" in line]
        assert not [name for name in needs if name not in held and not name.startswith(SYSTEM)]
    dynamic = run("readelf", "-d", unpacked / "lib" / "libedgetok.so")
    assert "(RPATH)              Library rpath: [$ORIGIN]" in dynamic


def test_runs_on_ubuntu_22_as_docs_say(unpacked, run):
    if "bookworm" not in Path("/etc/os-release").read_text():
        pytest.skip("archives are made on Debian 12; this is another system")
    for library in (unpacked / "lib").glob("*.so.*"):
        said = run("objdump", "-T", library)
        for prefix, newest in (("GLIBC_2.", 35), ("GLIBCXX_3.4.", 30)):
            asked_for = re.findall(re.escape(prefix) + r"(\d+)", said)
            assert max(map(int, asked_for), default=0) <= newest, library


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


def test_answers_from_any_place(unpacked, run, asked, tmp_path):
    options, emulator = _foreign(tmp_path) if unpacked.name.endswith("aarch64") else ((), ())
    package = f"-Dedgetok_DIR={unpacked / 'lib' / 'cmake' / 'edgetok'}"
    examples = unpacked / "share" / "edgetok" / "examples"
    run("cmake", "-S", examples, "-B", tmp_path / "build", package, *options)
    run("cmake", "--build", tmp_path / "build")
    asked.expect(run(*emulator, tmp_path / "build" / "01_answer", *asked.words))
    tool = unpacked / "bin" / "edgetok-cpp"
    assert "rung" in run(*emulator, tool, "inspect", asked.bundle)


def _foreign(folder: Path) -> tuple[tuple[str, ...], tuple[object, ...]]:
    """How to compile for arm64, and how to run that here.

    The emulator shows what lies under `system` first. Otherwise it would show the file of this
    machine's processor, on which ONNX Runtime crashes.
    """
    qemu = shutil.which("qemu-aarch64-static")
    if qemu is None:
        pytest.skip("qemu-user-static is not installed")
    system = folder / "system"
    (system / "proc").mkdir(parents=True)
    (system / "proc" / "cpuinfo").write_text(CORTEX_A72)
    for name in ("lib", "usr"):
        (system / name).symlink_to(BUILDS / "deps" / "aarch64" / "root" / name)
    toolchain = ROOT / "runtimes" / "cpp" / "cmake" / "aarch64.cmake"
    return (f"-DCMAKE_TOOLCHAIN_FILE={toolchain}",), (qemu, "-L", system)
