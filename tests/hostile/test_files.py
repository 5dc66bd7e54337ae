"""Bundles whose files are not what they should be, each named for what is wrong."""

import io
import os
import signal
import socket
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetok.bundle.golden import TENSORS_FILE, decode_npz, encode_npz
from edgetok.bundle.paths import open_beneath, require_safe_path
from edgetok.bundle.reader import Bundle
from edgetok.errors import BundleError

WEIGHTS = "weights/model.bin"


@pytest.fixture(autouse=True)
def _time_limit():
    """A FIFO must be refused, not waited for."""
    signal.alarm(20)
    yield
    signal.alarm(0)


def _moved(bundle: Path, path: str = WEIGHTS) -> Path:
    """Move a file or folder of the bundle out of it; returns where it is now."""
    outside = bundle.with_name("outside")
    (bundle / path).rename(outside)
    return outside


def _socket(path: Path) -> None:
    path.unlink()
    home = Path.cwd()
    os.chdir(path.parent)  # names of sockets are limited to 108 bytes
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(home)


# Name -> (damage, what the message says).
FILES = {
    "link out of the bundle": (
        lambda b: (b / WEIGHTS).symlink_to(_moved(b)),
        r"weights/model\.bin: `model\.bin` is a symbolic link",
    ),
    "link inside the bundle": (
        lambda b: ((b / WEIGHTS).rename(b / "real.bin"), (b / WEIGHTS).symlink_to("../real.bin")),
        "is a symbolic link",
    ),
    "dangling link": (
        lambda b: ((b / WEIGHTS).unlink(), (b / WEIGHTS).symlink_to("gone")),
        "is a symbolic link",
    ),
    "linked folder": (
        lambda b: (b / "weights").symlink_to(_moved(b, "weights")),
        "`weights` is a symbolic link",
    ),
    "linked manifest": (
        lambda b: (b / "manifest.json").symlink_to(_moved(b, "manifest.json")),
        r"manifest\.json: .*symbolic link",
    ),
    "hard link": (lambda b: os.link(b / WEIGHTS, b.with_name("outside")), "2 names"),
    "hard link inside": (lambda b: os.link(b / WEIGHTS, b / "twin"), "2 names"),
    "FIFO": (lambda b: ((b / WEIGHTS).unlink(), os.mkfifo(b / WEIGHTS)), "no regular file"),
    "FIFO as manifest": (
        lambda b: ((b / "manifest.json").unlink(), os.mkfifo(b / "manifest.json")),
        "no regular file",
    ),
    "socket": (lambda b: _socket(b / WEIGHTS), "no regular file"),
    "directory": (lambda b: ((b / WEIGHTS).unlink(), (b / WEIGHTS).mkdir()), "no regular file"),
    "directory as manifest": (
        lambda b: ((b / "manifest.json").unlink(), (b / "manifest.json").mkdir()),
        "no regular file",
    ),
    "file as folder": (
        lambda b: (_moved(b, "weights"), (b / "weights").write_text("x")),
        "weights/model.bin",
    ),
    "missing file": (lambda b: (b / WEIGHTS).unlink(), "missing"),
    "missing folder": (lambda b: _moved(b, "weights"), "missing"),
    "missing manifest": (lambda b: (b / "manifest.json").unlink(), "incomplete"),
    "empty file": (lambda b: (b / WEIGHTS).write_bytes(b""), "0 bytes, but the manifest says"),
    "grown file": (lambda b: os.truncate(b / WEIGHTS, 1 << 40), "1099511627776 bytes, but"),
}


@pytest.mark.parametrize("name", FILES)
def test_file_that_is_not_what_was_published(bundle_dir, name):
    damage, message = FILES[name]
    damage(bundle_dir)
    for check_hashes in (False, True):
        with pytest.raises(BundleError, match=message):
            Bundle.open(bundle_dir, check_hashes=check_hashes)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs devices")
def test_device_is_refused():
    root_fd = os.open("/dev", os.O_RDONLY | os.O_DIRECTORY)
    try:
        with pytest.raises(BundleError, match="no regular file"):
            open_beneath(root_fd, "zero")
    finally:
        os.close(root_fd)


@pytest.mark.parametrize("name", FILES)
def test_damage_after_opening_is_noticed_too(bundle_dir, name):
    bundle = Bundle.open(bundle_dir)
    FILES[name][0](bundle_dir)
    if "manifest" in name:  # it was read whole when the bundle was opened
        assert bundle.path_of(WEIGHTS).is_file()
        return
    for access in (bundle.read, bundle.path_of):
        with pytest.raises(BundleError):
            access(WEIGHTS)


UNSAFE = [
    "",
    "/",
    "/etc/passwd",
    "..",
    "../x",
    "a/../b",
    "a/..",
    "./a",
    ".",
    "a/.",
    ".hidden",
    "a/.hidden",
    "a//b",
    "a/",
    "/a",
    "a.",
    "a./b",
    "a\\b",
    "..\\b",
    "C:a",
    "C:\\a",
    "\\\\server\\share",
    "a\0b",
    "a\nb",
    "a b",
    "~/a",
    "-rf",
    "$HOME",
    "%2e%2e/a",
    "file:///etc/passwd",
    "a:stream",
    "á",
    "a\u202eb",
    "a\u2215b",
    "\uff0e\uff0e/a",
    "\ud800",
    "x" * 241,
    "/".join("abcdefghi"),
    "*/_ORT_MEM_ADDR_/*",
]


@pytest.mark.parametrize("path", UNSAFE, ids=ascii)
def test_unsafe_path(path):
    with pytest.raises(BundleError) as caught:
        require_safe_path(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("path", ["a", "onnx/ort/tower_64.onnx", "a-b_c.d", "x" * 240, "0/1/2"])
def test_safe_path(path):
    assert require_safe_path(path) == path


def _archive(*entries: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return packed.getvalue()


def _npy(shape: str, body: bytes = b"", descr: str = "'<f4'", order: str = "False") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


def _lying_about_size(data: bytes) -> bytes:
    """Make the central directory claim that the first entry unpacks to 4 GiB."""
    at = data.index(b"PK\x01\x02") + 24
    return data[:at] + struct.pack("<I", 0xFFFFFFF0) + data[at + 4 :]


# Name -> (contents of golden/tensors.npz, what the message says).
ARCHIVES = {
    "garbage": (b"garbage", "not a zip file"),
    "empty": (b"", "not a zip file"),
    "pickle": (_npy("(1,)", b"x" * 8, descr="'|O'"), "not a zip file"),
    "pickle inside": (_archive(("0/pixels.npy", _npy("(1,)", b"x" * 8, descr="'|O'"))), "type obj"),
    "bomb": (
        _archive(("0/pixels.npy", bytes(50_000_000)), method=zipfile.ZIP_DEFLATED),
        "is compressed",
    ),
    "claims 4 GiB": (_lying_about_size(_archive(("0/pixels.npy", b"x"))), "unpacks to 4294967280"),
    "shape claims 8 TiB": (_archive(("0/pixels.npy", _npy("(2199023255552,)"))), "does not have 0"),
    "shape overflows": (_archive(("0/pixels.npy", _npy("(2**64, 0)"))), "npz"),
    "negative shape": (_archive(("0/pixels.npy", _npy("(-1, -4)", bytes(16)))), "shape"),
    "shape is code": (_archive(("0/pixels.npy", _npy("__import__('os').abort()"))), "npz"),
    "Fortran order": (_archive(("0/pixels.npy", _npy("(1,)", bytes(4), order="True"))), "not one"),
    "long header": (_archive(("0/pixels.npy", _npy("(" + "1," * 20_000 + ")"))), "npz"),
    "no array": (_archive(("0/pixels.npy", b"x")), "npz"),
    "nothing in it": (_archive(), "`0/pixels` is missing"),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_hostile_archive(tiny, bundle_dir, name):
    content, message = ARCHIVES[name]
    (bundle_dir / TENSORS_FILE).write_bytes(content)
    tiny.seal(bundle_dir)
    with pytest.raises(BundleError, match=message):
        tiny.use(bundle_dir)


@settings(max_examples=200, deadline=None)
@given(
    edits=st.lists(
        st.tuples(st.integers(0, 1 << 12), st.integers(0, 8), st.binary(max_size=4)),
        min_size=1,
        max_size=4,
    )
)
def test_mutated_archive_is_decoded_or_a_bundle_error(tiny, edits):
    data = tiny.contents()[TENSORS_FILE]
    for at, length, replacement in edits:
        at %= len(data)
        data = data[:at] + replacement + data[at + length :]
    try:
        arrays = decode_npz(data)
    except BundleError as error:
        assert str(error).isprintable()
    else:
        assert all(isinstance(array, np.ndarray) for array in arrays.values())


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archive_with_two_entries_of_one_name(tiny, bundle_dir):
    entry = ("0/pixels.npy", _npy("(1,)", bytes(4)))
    (bundle_dir / TENSORS_FILE).write_bytes(_archive(entry, entry))
    tiny.seal(bundle_dir)
    with pytest.raises(BundleError, match="same name"):
        tiny.use(bundle_dir)


@pytest.mark.parametrize(
    ("key", "array", "message"),
    [
        ("0/pixels", np.zeros((3, 4, 5), np.float32), "0/pixels` is float32"),
        ("0/pixels", np.zeros((3, 4, 4), np.float64), "0/pixels` is float64"),
        ("0/2/kept", np.arange(3), r"0/2/kept` is int64 \(3,\)"),
        ("0/4/logits", np.zeros(8, np.float32), "0/4/logits"),
        ("0/8/logits", np.zeros(7, np.float32), "`0/8/logits` belongs to no case"),
        ("1/pixels", np.zeros((3, 4, 4), np.float32), "`1/pixels` belongs to no case"),
    ],
)
def test_golden_tensor_that_does_not_fit(tiny, bundle_dir, key, array, message):
    arrays = decode_npz((bundle_dir / TENSORS_FILE).read_bytes()) | {key: array}
    (bundle_dir / TENSORS_FILE).write_bytes(encode_npz(arrays))
    tiny.seal(bundle_dir)
    with pytest.raises(BundleError, match=message):
        tiny.use(bundle_dir)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("[]", "0 cases"),
        ('[{"image": "golden/1.png", "prompt": "", "tensors": "0"}]', "not in the bundle"),
        ('[{"image": "../x", "prompt": "", "tensors": "0"}]', "not in the bundle"),
        ('[{"image": "golden/0.png", "prompt": "", "tensors": "../0"}]', "tensors"),
        (
            "[" + ",".join(['{"image": "golden/0.png", "prompt": "", "tensors": "0"}'] * 2) + "]",
            "share",
        ),
    ],
)
def test_golden_cases_that_do_not_fit(tiny, bundle_dir, lines, message):
    (bundle_dir / "golden" / "cases.json").write_text(lines)
    tiny.seal(bundle_dir)
    with pytest.raises(BundleError, match=message):
        tiny.use(bundle_dir)
