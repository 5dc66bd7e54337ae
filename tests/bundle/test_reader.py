"""Opening, reading and the errors of both."""

import errno
import hashlib
import shutil
from pathlib import Path

import pytest

from edgetok import limits
from edgetok.bundle import reader
from edgetok.bundle.golden import load_golden
from edgetok.bundle.reader import Bundle
from edgetok.errors import BundleError
from edgetok.runtimes.processor import read_processor


def test_what_was_written_is_read(tiny, bundle_dir):
    bundle = tiny.use(bundle_dir)
    assert bundle.ladder.budgets == tiny.BUDGETS
    for path, data in tiny.contents().items():
        assert bundle.read(path) == data
        assert bundle.path_of(path).read_bytes() == data
    manifest_bytes = (bundle_dir / "manifest.json").read_bytes()
    assert bundle.digest == hashlib.sha256(manifest_bytes).hexdigest()
    assert set(bundle.manifest.files) == set(tiny.contents())


def test_stage_finds_own_and_shared_graphs(tiny, bundle_dir):
    bundle = Bundle.open(bundle_dir)
    assert bundle.stage("compress", 4).file == "onnx/ort/compress_4.onnx"
    assert bundle.stage("tower", 2) is bundle.stage("tower", 4)
    with pytest.raises(BundleError, match=r"compress for 3 visual tokens; .*\(2, 4\)"):
        bundle.stage("compress", 3)
    with pytest.raises(BundleError, match="no portable graph"):
        bundle.stage("tower", 2, "portable")


def test_moved_bundle_still_opens(tiny, bundle_dir, monkeypatch):
    shutil.move(bundle_dir, bundle_dir.with_name("moved"))
    monkeypatch.chdir(bundle_dir.parent)
    bundle = Bundle.open("moved")
    monkeypatch.chdir("/")
    assert bundle.path_of(tiny.WEIGHTS).is_absolute()
    assert bundle.read(tiny.WEIGHTS) == tiny.weights()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such directory"),
        (lambda path: path.write_text("x"), "not a directory"),
        (lambda path: path.mkdir(), "incomplete"),
    ],
    ids=["missing", "file", "incomplete"],
)
def test_what_is_no_bundle(tmp_path, make, message):
    make(tmp_path / "b")
    with pytest.raises(BundleError, match=message):
        Bundle.open(tmp_path / "b")


def test_unlisted_files_are_not_part_of_the_bundle(bundle_dir):
    (bundle_dir / "extra.txt").write_text("hello")
    bundle = Bundle.open(bundle_dir)
    for access in (bundle.read, bundle.path_of):
        for path in ("extra.txt", "manifest.json", "../x", "/etc/passwd", "\0"):
            with pytest.raises(BundleError, match="not listed"):
                access(path)


def test_every_flipped_byte_is_noticed(tiny, bundle_dir):
    for path, good in tiny.contents().items():
        for at in {0, len(good) // 2, len(good) - 1}:
            damaged = bytearray(good)
            damaged[at] ^= 1
            (bundle_dir / path).write_bytes(damaged)
            with pytest.raises(BundleError, match=path) as caught:
                Bundle.open(bundle_dir)
            for data in (good, bytes(damaged)):  # both digests are named
                assert hashlib.sha256(data).hexdigest() in str(caught.value)
        (bundle_dir / path).write_bytes(good)
    Bundle.open(bundle_dir)


def test_every_wrong_size_is_noticed_without_hashing(tiny, bundle_dir):
    for path, good in tiny.contents().items():
        for damaged in (b"", good[:1], good[: len(good) // 2], good[:-1], good + b"\0"):
            (bundle_dir / path).write_bytes(damaged)
            with pytest.raises(BundleError, match=f"{path}: {len(damaged)} bytes"):
                Bundle.open(bundle_dir, check_hashes=False)
        (bundle_dir / path).write_bytes(good)


def test_read_checks_the_hash_even_if_open_did_not(tiny, bundle_dir):
    path = "processor/tokenizer.json"
    (bundle_dir / path).write_bytes(b"[]\n")
    bundle = Bundle.open(bundle_dir, check_hashes=False)
    with pytest.raises(BundleError, match="sha256"):
        bundle.read(path)


def test_file_replaced_after_opening_is_noticed(tiny, bundle_dir):
    bundle = Bundle.open(bundle_dir)
    other = bundle_dir / "other"
    other.write_bytes(bytes(len(tiny.weights())))
    other.replace(bundle_dir / tiny.WEIGHTS)
    with pytest.raises(BundleError, match="changed after"):
        bundle.path_of(tiny.WEIGHTS)
    with pytest.raises(BundleError, match="sha256"):
        bundle.read(tiny.WEIGHTS)


def test_file_swapped_between_check_and_use_is_not_read(tiny, bundle_dir, monkeypatch):
    """What is hashed is the descriptor that is read, so a swap comes too late."""
    bundle = Bundle.open(bundle_dir)
    genuine = reader.open_beneath

    def swapping(root_fd: int, path: str) -> int:
        descriptor = genuine(root_fd, path)
        evil = bundle_dir / "evil"
        evil.write_bytes(bytes(len(tiny.weights())))
        evil.replace(bundle_dir / path)
        return descriptor

    monkeypatch.setattr(reader, "open_beneath", swapping)
    assert bundle.read(tiny.WEIGHTS) == tiny.weights()
    assert (bundle_dir / tiny.WEIGHTS).read_bytes() == bytes(len(tiny.weights()))


def _open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_descriptors_do_not_leak(tiny, bundle_dir):
    before = _open_descriptors()
    for _ in range(3):
        tiny.use(bundle_dir)
        with pytest.raises(BundleError):
            Bundle.open(bundle_dir).read("nothing")
        with pytest.raises(BundleError):
            Bundle.open(bundle_dir / "weights")
    assert _open_descriptors() == before


def test_failing_disk_is_an_error_of_the_bundle(tiny, bundle_dir, monkeypatch):
    bundle = Bundle.open(bundle_dir)

    def broken(descriptor: int, count: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(reader.os, "read", broken)
    with pytest.raises(BundleError, match=r"model\.bin: cannot be read: Input/output"):
        bundle.read(tiny.WEIGHTS)
    with pytest.raises(BundleError, match=r"manifest\.json: cannot be read: Input/output"):
        Bundle.open(bundle_dir)


def test_a_tokenizer_beyond_the_limit_is_not_read(tiny, bundle_dir, monkeypatch):
    opened = Bundle.open(bundle_dir)
    assert opened.tokenizer() == opened.read("processor/tokenizer.json")
    monkeypatch.setattr(limits, "TOKENIZER_BYTES", 2)
    words = r"tokenizer\.json: 3 bytes; a tokenizer has at most 2"
    with pytest.raises(BundleError, match=words):
        opened.tokenizer()
    with pytest.raises(BundleError, match=words):
        read_processor(opened)


def test_bundle_of_version_1_is_read_forever(tiny):
    """A bundle as the first release will write it; from then on it is never written again."""
    bundle = tiny.use(Path(__file__).parent / "data" / "v1")
    assert bundle.digest == "7a6c412a8a37b6aa87e1243531c66b194a1846d240447941e2a8ac2110907c6c"
    assert bundle.ladder.budgets == (2, 4)


def test_golden_cases_round_trip(tiny, bundle_dir):
    (case,) = load_golden(Bundle.open(bundle_dir))
    expected = tiny.golden()
    assert (case.name, case.image, case.prompt) == ("0", "golden/0.png", "What is this?")
    assert (case.pixels == expected.pixels).all()
    assert (case.text_ids == expected.text_ids).all()
    assert set(case.rungs) == set(tiny.BUDGETS)
    for budget, rung in case.rungs.items():
        assert (rung.kept == expected.rungs[budget].kept).all()
        assert (rung.logits == expected.rungs[budget].logits).all()
        assert (rung.answer_ids == expected.rungs[budget].answer_ids).all()
