"""Whatever happens while a bundle is written, the target is the old bundle or the new one.

Crashes and signals need a process of their own; it is forked, which costs milliseconds.
"""

import errno
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from edgetok.bundle import swap
from edgetok.bundle.reader import Bundle
from edgetok.bundle.target import target_lock
from edgetok.bundle.writer import BundleWriter
from edgetok.errors import ResourceError, UsageError

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

WRITE, MKDIR, SYNC, OPEN = os.write, os.mkdir, os.fsync, os.open
RENAMEAT2 = swap._renameat2


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


class Steps:
    """Counts what the writer asks of the file system, and acts at one of these steps."""

    def __init__(self, monkeypatch, at: int, act: Callable[[], None]) -> None:
        self.count, self._at, self._act = 0, at, act
        monkeypatch.setattr(os, "write", self._counted(WRITE))
        monkeypatch.setattr(os, "mkdir", self._making)
        monkeypatch.setattr(os, "fsync", self._counted(SYNC))
        monkeypatch.setattr(os, "open", self._creating)
        monkeypatch.setattr(swap, "_renameat2", self._counted(RENAMEAT2))

    def _step(self) -> None:
        self.count += 1
        if self.count == self._at:
            self._act()

    def _counted(self, call):
        def step_and_call(*args, **kwargs):
            self._step()
            return call(*args, **kwargs)

        return step_and_call

    def _making(self, path, *args, **kwargs):
        if not Path(path).is_dir():  # an existing directory is not made again
            self._step()
        return MKDIR(path, *args, **kwargs)

    def _creating(self, path, flags, *args, **kwargs):
        if flags & os.O_CREAT:
            self._step()
        return OPEN(path, flags, *args, **kwargs)


def _raise(error: BaseException) -> NoReturn:
    raise error


def _count_steps(tiny, directory: Path, **options) -> int:
    with pytest.MonkeyPatch.context() as patch:
        steps = Steps(patch, -1, lambda: None)
        tiny.write(directory / "counted", seed=1, **options)
    return steps.count


FAILURES = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EACCES, "Permission denied"),
    OSError(errno.EIO, "Input/output error"),
    KeyboardInterrupt(),
    MemoryError(),
]


@pytest.mark.parametrize("replace", [False, True], ids=["new target", "old target"])
def test_every_failing_step_leaves_old_or_new(tiny, tmp_path, replace):
    total = _count_steps(tiny, tmp_path)
    assert total > 30
    out = tmp_path / "work" / "b"
    out.parent.mkdir()
    old = tiny.write(out, seed=1) if replace else None
    new = tiny.write(tmp_path / "new", seed=2)
    for step in range(1, total + 1):
        failure = FAILURES[step % len(FAILURES)]
        expected = ResourceError if isinstance(failure, OSError) else type(failure)
        with pytest.MonkeyPatch.context() as patch:
            Steps(patch, step, lambda failure=failure: _raise(failure))
            with pytest.raises(expected):
                tiny.write(out, seed=2, force=True)
        found = Bundle.open(out).digest if out.exists() else None
        assert found == old or (found == new and step == total)  # the last only syncs the parent
        assert names(out.parent) == (["b"] if found else [])


def _in_child(work: Callable[[], object]) -> int:
    """Run `work` in a forked process; its id. The exit status is 0 unless `work` raises."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work()
        status = 0
    except UsageError:
        status = 2
    except ResourceError as error:
        print(error, file=sys.__stderr__)
        status = 6
    except KeyboardInterrupt:
        status = 130
    finally:
        os._exit(status)


def _exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("replace", [False, True], ids=["new target", "old target"])
def test_crash_at_every_step_leaves_old_or_new(tiny, tmp_path, replace):
    total = _count_steps(tiny, tmp_path)
    out = tmp_path / "work" / "b"
    out.parent.mkdir()
    old = tiny.write(out, seed=1) if replace else None
    new = tiny.write(tmp_path / "new", seed=2)

    def crash_at(step: int) -> Callable[[], object]:
        def work() -> None:
            with pytest.MonkeyPatch.context() as patch:
                Steps(patch, step, lambda: os._exit(77))
                tiny.write(out, seed=2, force=True)

        return work

    for step in range(1, total + 1):
        assert _exit_code(_in_child(crash_at(step))) == 77
        found = Bundle.open(out).digest if out.exists() else None
        assert found == old or (found == new and step == total)
    assert len(names(out.parent)) > 1  # crashes cannot clean up
    tiny.write(out, seed=2, force=True)  # but the next writer does
    assert names(out.parent) == ["b"]
    assert Bundle.open(out).digest == new


def _write_slowly(tiny, out: Path, ready: int) -> None:
    def chunks():
        yield b"x" * 1000
        os.write(ready, b"!")
        time.sleep(30)

    with BundleWriter(out, force=True) as writer:
        writer.write("weights/model.bin", chunks())


@pytest.mark.parametrize(
    ("number", "code", "left"),
    [(signal.SIGINT, 130, ["b"]), (signal.SIGKILL, -9, ["b", "b.lock", "b.tmp"])],
)
def test_signal_in_the_middle_of_a_file(tiny, tmp_path, number, code, left):
    out = tmp_path / "work" / "b"
    out.parent.mkdir()
    old = tiny.write(out, seed=1)
    reading, ready = os.pipe()
    pid = _in_child(lambda: _write_slowly(tiny, out, ready))
    assert os.read(reading, 1) == b"!"
    os.kill(pid, number)
    assert _exit_code(pid) == code
    os.close(reading)
    os.close(ready)
    assert [name.split("-")[0] for name in names(out.parent)] == left
    assert Bundle.open(out).digest == old
    tiny.write(out, seed=2, force=True)
    assert names(out.parent) == ["b"]


@pytest.mark.parametrize("room_bytes", [0, 1, 5000])
def test_full_disk_names_the_file_and_how_far_it_came(tiny, tmp_path, capfd, room_bytes):
    out = tmp_path / "work" / "b"
    out.parent.mkdir()

    def work() -> None:
        unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room_bytes, unlimited[1]))
        try:
            tiny.write(out)  # begins with the weights, 12288 bytes
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)  # the message goes to a file, too

    assert _exit_code(_in_child(work)) == 6
    message = capfd.readouterr().err
    expected = f"{out}/weights/model.bin: cannot be written after {room_bytes} bytes: File too"
    assert expected in message
    assert names(out.parent) == []


@pytest.mark.parametrize("force", [False, True])
def test_concurrent_writers_give_one_whole_bundle(tiny, tmp_path, force):
    digests = [tiny.write(tmp_path / f"seed{seed}", seed=seed) for seed in range(3)]
    for attempt in range(10):
        out = tmp_path / f"round{attempt}" / "b"
        out.parent.mkdir()
        barrier, start = os.pipe()

        def work(seed: int, barrier=barrier, start=start, out=out) -> None:
            os.close(start)
            os.read(barrier, 1)  # returns at the end of file, for all at once
            tiny.write(out, seed=seed, force=force)

        pids = [_in_child(lambda seed=seed: work(seed)) for seed in range(3)]
        os.close(start)
        os.close(barrier)
        codes = [_exit_code(pid) for pid in pids]
        winners = [digests[seed] for seed, code in enumerate(codes) if code == 0]
        assert set(codes) <= {0, 2, 6}
        assert len(winners) == 1 or (force and winners)
        assert tiny.use(out).digest in winners
        assert names(out.parent) == ["b"]


def test_lock_excludes_while_lock_files_come_and_go(tmp_path):
    """Removing a lock file must never let two holders in."""
    inside = tmp_path / "inside"

    def work() -> None:
        entered = 0
        deadline = time.monotonic() + 20
        while entered < 100 and time.monotonic() < deadline:
            try:
                with target_lock(tmp_path / "b"):
                    os.close(os.open(inside, os.O_CREAT | os.O_EXCL))  # fails if another is in
                    inside.unlink()
                    entered += 1
            except ResourceError:
                continue
        if entered < 100:
            raise TimeoutError

    pids = [_in_child(work) for _ in range(3)]
    assert [_exit_code(pid) for pid in pids] == [0, 0, 0]
    assert names(tmp_path) == []
