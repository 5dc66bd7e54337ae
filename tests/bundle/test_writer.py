"""Writing: what is refused before any work, what is published, and what is left behind."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from edgetok.bundle import swap, target
from edgetok.bundle.reader import Bundle
from edgetok.bundle.target import clean_stale, target_lock
from edgetok.bundle.writer import BundleWriter
from edgetok.errors import BundleError, EdgetokError, ResourceError, UsageError


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def tree(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def test_two_exports_give_the_same_bytes(tiny, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    first = tiny.write(tmp_path / "a")
    monkeypatch.chdir(tmp_path / "elsewhere")
    second = tiny.write(Path("b"))
    assert first == second == Bundle.open(tmp_path / "a").digest
    assert tree(tmp_path / "a") == tree(tmp_path / "elsewhere" / "b")
    assert names(tmp_path) == ["a", "elsewhere"]


def test_order_of_writing_does_not_matter(tiny, tmp_path):
    with BundleWriter(tmp_path / "reversed") as writer:
        for path, data in reversed(tiny.contents().items()):
            writer.write(path, data)
        digest = writer.publish(tiny.manifest())
    assert digest == tiny.write(tmp_path / "a")


@pytest.mark.parametrize(
    "form",
    [bytes, bytearray, memoryview, lambda d: (d[i : i + 3] for i in range(0, len(d), 3))],
    ids=["bytes", "bytearray", "memoryview", "chunks"],
)
def test_every_form_of_data(tmp_path, form):
    data = bytes(range(256))
    with BundleWriter(tmp_path / "b") as writer:
        file = writer.write("a/b.bin", form(data))
        assert (file.bytes, writer.files["a/b.bin"]) == (256, file)
        (temporary,) = tmp_path.glob("b.tmp-*")
        assert (temporary / "a" / "b.bin").read_bytes() == data
    assert names(tmp_path) == []


def test_array_memory_is_counted_in_bytes(tmp_path):
    import numpy as np

    with BundleWriter(tmp_path / "b") as writer:
        assert writer.write("w", np.zeros((3, 4), np.float32).data).bytes == 48


def test_leaving_without_publishing_publishes_nothing(tiny, tmp_path):
    with BundleWriter(tmp_path / "b") as writer:
        writer.write("x", b"1")
    assert names(tmp_path) == []


def test_a_path_is_written_once_and_stays_inside(tmp_path):
    with BundleWriter(tmp_path / "b") as writer:
        writer.write("x", b"1")
        for path in ("x", "manifest.json"):
            with pytest.raises(UsageError, match="written once"):
                writer.write(path, b"2")
        for path in ("../x", "/x", "a//b", ".hidden"):
            with pytest.raises(BundleError, match="plain relative path"):
                writer.write(path, b"2")


def test_what_could_not_be_read_is_not_published(tiny, tmp_path):
    contents = tiny.contents()
    graph = "onnx/ort/tower.onnx"
    attempts = {
        "not admitted": contents | {graph: b"no graph"},
        "not listed in": {path: data for path, data in contents.items() if path != graph},
    }
    for message, files in attempts.items():
        with pytest.raises(BundleError, match=message), BundleWriter(tmp_path / "b") as writer:
            for path, data in files.items():
                writer.write(path, data)
            writer.publish(tiny.manifest())
        assert names(tmp_path) == []


# Name -> (what is there, options, error, message).
REFUSED = {
    "bundle": (lambda p, tiny: tiny.write(p), {}, UsageError, "--force"),
    "empty directory": (lambda p, tiny: p.mkdir(), {}, UsageError, "--force"),
    "file": (lambda p, tiny: p.write_text("x"), {}, UsageError, "is no directory"),
    "file, forced": (
        lambda p, tiny: p.write_text("x"),
        {"force": True},
        UsageError,
        "is no directory",
    ),
    "stranger's directory, forced": (
        lambda p, tiny: (p.mkdir(), (p / "thesis.tex").write_text("x")),
        {"force": True},
        UsageError,
        "neither a bundle nor empty",
    ),
    "stranger's manifest, forced": (
        lambda p, tiny: (p.mkdir(), (p / "manifest.json").write_text('{"name": "web app"}')),
        {"force": True},
        UsageError,
        "neither a bundle nor empty",
    ),
    "link to a directory": (
        lambda p, tiny: ((p.parent / "real").mkdir(), p.symlink_to("real")),
        {"force": True},
        UsageError,
        "symbolic link",
    ),
    "dangling link": (lambda p, tiny: p.symlink_to("gone"), {}, UsageError, "symbolic link"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_target_that_is_refused_stays_as_it_is(tiny, tmp_path, name):
    make, options, error, message = REFUSED[name]
    make(tmp_path / "b", tiny)
    before = (names(tmp_path), tree(tmp_path))
    with pytest.raises(error, match=message), BundleWriter(tmp_path / "b", **options):
        pytest.fail("the work had begun")
    assert (names(tmp_path), tree(tmp_path)) == before


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        ("missing/b", UsageError, "does not exist"),
        ("file/b", UsageError, "is a file"),
        ("model/b", UsageError, "is inside"),
        ("model/deep/b", UsageError, "is inside"),
        ("model", UsageError, "is inside"),
        ("alias/b", UsageError, "is inside"),
        ("x/../model/b", UsageError, "is inside"),
        ("holder", UsageError, "contains"),
        ("/", UsageError, "/"),
        ("a\0b", UsageError, "no usable path"),
        ("a\0b/c", UsageError, "no usable path"),
        ("\ud800", UsageError, "no usable path"),
        ("a" * 250, UsageError, "shorten it"),
        ("b" * 200 + "/" + "c" * 250, UsageError, "shorten it"),
        ("loop/b", EdgetokError, "loop"),
    ],
)
def test_paths_that_cannot_be_a_bundle(tmp_path, out, error, message):
    (tmp_path / "model" / "deep").mkdir(parents=True)
    (tmp_path / "x").mkdir()
    (tmp_path / "holder" / "inner").mkdir(parents=True)
    (tmp_path / "file").write_text("x")
    (tmp_path / "alias").symlink_to("model")
    (tmp_path / "loop").symlink_to("loop")
    sources = [tmp_path / "model", tmp_path / "holder" / "inner"]
    before = names(tmp_path)
    with (
        pytest.raises(error, match=message),
        BundleWriter(tmp_path / out, force=True, sources=sources),
    ):
        pytest.fail("the work had begun")
    assert names(tmp_path) == before


def test_unwritable_parent(tmp_path, monkeypatch):
    monkeypatch.setattr(target.os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(ResourceError, match="permissions"), BundleWriter(tmp_path / "b"):
        pytest.fail("the work had begun")
    assert names(tmp_path) == []


def test_too_little_space_is_noticed_before_any_work(tmp_path):
    with (
        pytest.raises(ResourceError, match="are free"),
        BundleWriter(tmp_path / "b", need_bytes=1 << 60),
    ):
        pytest.fail("the work had begun")
    assert names(tmp_path) == []


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "two renames"])
def test_force_replaces_a_bundle_whole(tiny, tmp_path, monkeypatch, exchange):
    if not exchange:
        _without_renameat2(monkeypatch)
    tiny.write(tmp_path / "b", seed=1)
    (tmp_path / "b" / "unlisted").write_text("goes, too")
    digest = tiny.write(tmp_path / "b", seed=2, force=True)
    bundle = tiny.use(tmp_path / "b")
    assert (bundle.digest, bundle.manifest.seed) == (digest, 2)
    assert names(tmp_path) == ["b"]
    assert not (tmp_path / "b" / "unlisted").exists()


def test_force_replaces_damaged_and_newer_bundles(tiny, tmp_path):
    tiny.write(tmp_path / "b")
    (tmp_path / "b" / tiny.WEIGHTS).unlink()
    tiny.edit_manifest(tmp_path / "b", lambda tree: tree.update(format_version=9, new=1))
    tiny.write(tmp_path / "b", force=True)
    tiny.use(tmp_path / "b")


def test_force_needs_nothing_to_replace(tiny, tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new"):
        tiny.write(tmp_path / name, force=True)
        tiny.use(tmp_path / name)


@pytest.mark.parametrize("exchange", [True, False], ids=["renameat2", "rename"])
def test_target_that_appears_during_the_work_is_not_touched(tiny, tmp_path, monkeypatch, exchange):
    if not exchange:
        _without_renameat2(monkeypatch)
    with pytest.raises(UsageError, match="--force"), BundleWriter(tmp_path / "b") as writer:
        for path, data in tiny.contents().items():
            writer.write(path, data)
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "mine").write_text("x")
        writer.publish(tiny.manifest())
    assert tree(tmp_path) == {"b/mine": b"x"}
    source = tmp_path / "source"
    source.mkdir()
    with pytest.raises(OSError, match=r"exist|not empty"):  # after the last check, in the rename
        swap.put_new(source, tmp_path / "b")
    assert tree(tmp_path) == {"b/mine": b"x"}


def _without_renameat2(monkeypatch):
    def missing(source, target, flags):
        raise OSError(errno.ENOSYS, "not implemented")

    monkeypatch.setattr(swap, "_renameat2", missing)


@pytest.mark.parametrize("failing_call", [0, 1])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), KeyboardInterrupt()])
def test_two_renames_put_the_old_directory_back(tmp_path, monkeypatch, failing_call, error):
    _without_renameat2(monkeypatch)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "x").write_text("old")
    (tmp_path / "new").mkdir()
    calls = []
    genuine = Path.rename

    def rename(self, target):
        calls.append(target)
        if len(calls) == failing_call + 1:
            raise error
        return genuine(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(type(error)):
        swap.put_over(tmp_path / "new", tmp_path / "old")
    assert tree(tmp_path) == {"old/x": b"old"}
    assert names(tmp_path) == ["new", "old"]


def test_second_writer_learns_who_holds_the_lock(tmp_path):
    with BundleWriter(tmp_path / "b"):
        with (
            pytest.raises(ResourceError, match=f"process {os.getpid()} is writing"),
            BundleWriter(tmp_path / "b"),
        ):
            pytest.fail("two writers at once")
        with BundleWriter(tmp_path / "other"):
            pass
    assert names(tmp_path) == []


def test_abandoned_lock_file_is_no_obstacle(tiny, tmp_path):
    (tmp_path / "b.lock").write_text("99999\n")
    tiny.write(tmp_path / "b")
    assert names(tmp_path) == ["b"]


def test_lock_on_a_file_that_was_just_removed_is_worth_nothing(tmp_path, monkeypatch):
    """Between opening and locking, the holder removes the file and the next one makes its own."""
    path = tmp_path / "b.lock"
    genuine = target._open_lock
    holders = []

    def opened_too_early(path: Path) -> int:
        descriptor = genuine(path)
        if not holders:
            path.unlink()
            holders.append(genuine(path))
            fcntl.flock(holders[0], fcntl.LOCK_EX)
        return descriptor

    monkeypatch.setattr(target, "_open_lock", opened_too_early)
    with pytest.raises(ResourceError, match="is writing"), target_lock(tmp_path / "b"):
        pytest.fail("two holders at once")
    assert path.exists()  # it is the other's
    os.close(holders[0])
    with target_lock(tmp_path / "b"):
        pass
    assert names(tmp_path) == []


def test_half_a_file_is_not_left_behind(tmp_path):
    def failing():
        yield b"half"
        raise ValueError("the other half")

    with BundleWriter(tmp_path / "b") as writer:
        with pytest.raises(ValueError, match="the other half"):
            writer.write("a/x", failing())
        assert writer.files == {}
        assert list(writer.path_of("a").iterdir()) == []
        assert writer.write("a/x", b"whole").bytes == 5


def test_lock_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "precious").write_text("x")
    (tmp_path / "b.lock").symlink_to("precious")
    with pytest.raises(ResourceError, match="cannot lock"), target_lock(tmp_path / "b"):
        pytest.fail("followed the link")
    assert (tmp_path / "precious").read_text() == "x"


def _dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_stale_directories_of_dead_writers_are_removed(tiny, tmp_path):
    dead = _dead_pid()
    stale = tmp_path / f"b.tmp-{dead}-00112233"
    kept = [
        tmp_path / f"b.tmp-{os.getpid()}-00112233",  # alive
        tmp_path / f"b.tmp-{dead}-x",  # not ours
        tmp_path / "b.tmp",
        tmp_path / "notes",
    ]
    for path in (stale, *kept):
        path.mkdir()
        (path / "x").write_text("x")
    (tmp_path / f"link.tmp-{dead}-00112233").symlink_to("notes")
    assert clean_stale(tmp_path) == [stale]
    assert not stale.exists()
    assert all((path / "x").exists() for path in kept)


def test_directory_of_a_living_writer_with_a_foreign_pid_is_kept(tmp_path):
    """A writer in another container: its id means nothing here, its lock does."""
    path = tmp_path / f"b.tmp-{_dead_pid()}-00112233"
    path.mkdir()
    with target.locked_directory(path):
        assert clean_stale(tmp_path) == []
    assert clean_stale(tmp_path) == [path]


def test_writer_cleans_up_after_a_dead_one(tiny, tmp_path):
    (tmp_path / f"b.tmp-{_dead_pid()}-00112233").mkdir()
    tiny.write(tmp_path / "b")
    assert names(tmp_path) == ["b"]


def test_published_manifest_lists_exactly_what_was_written(tiny, tmp_path):
    tiny.write(tmp_path / "b")
    manifest = Bundle.open(tmp_path / "b").manifest
    assert set(tree(tmp_path / "b")) == {*manifest.files, "manifest.json"}
    assert list(manifest.files) == sorted(manifest.files)
    assert msgspec.structs.replace(manifest, files={}) == tiny.manifest()
