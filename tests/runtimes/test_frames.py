"""Frames of folders and videos: which ones, upright, in bounded memory, and hostile files."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgetok import limits
from edgetok.errors import IncompatibleError, InputError
from edgetok.runtimes.images import frames as module
from edgetok.runtimes.images.frames import open_frames, spread

STEP = 9  # grey levels between two frames; codecs lose less


def write_folder(path: Path, count: int) -> Path:
    path.mkdir()
    for number in range(count):
        Image.new("RGB", (8, 6), (number, 0, 0)).save(path / f"frame_{number}.png")
    (path / "notes.txt").write_text("no image")
    (path / "inner.png").mkdir()
    return path


@pytest.fixture(scope="module")
def av() -> Any:
    return pytest.importorskip("av", reason="the extra `video` is not installed")


def write_video(
    av: Any,
    path: Path,
    count: int,
    codec: str = "mpeg4",
    size: tuple[int, int] = (64, 48),
    **options: str,
) -> Path:
    """Frame n is grey level STEP * n, its upper left quarter white."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.options = options
        for number in range(count):
            picture = np.full((size[1], size[0], 3), STEP * number % 200, np.uint8)
            picture[: size[1] // 2, : size[0] // 2] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def levels(pictures: Any) -> list[int]:
    """Numbers of the frames, by the grey of their lower right corners."""
    return [round(float(np.asarray(p)[-8:, -8:].mean()) / STEP) for p in pictures]


def test_steps_are_even_and_take_in_both_ends() -> None:
    assert spread(5, 5) == [0, 1, 2, 3, 4]
    assert spread(100, 4) == [0, 33, 66, 99]
    assert spread(2, 5) == [0, 0, 0, 0, 1]
    assert spread(7, 1) == [0]


def test_a_folder_is_read_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "frames", 12)
    found = open_frames(folder, 4)
    assert [Path(str(file)).name for file in found] == [f"frame_{n}.png" for n in (0, 3, 7, 11)]
    assert len(list(open_frames(folder, 30))) == 30


@pytest.mark.parametrize(
    ("suffix", "codec"), [("mp4", "mpeg4"), ("avi", "mpeg4"), ("mkv", "mpeg4"), ("webm", "libvpx")]
)
def test_a_video_is_sampled_at_even_steps(av: Any, tmp_path: Path, suffix: str, codec: str) -> None:
    path = write_video(av, tmp_path / f"film.{suffix}", 20, codec)
    found = open_frames(path, 4)
    assert len(found) == 4
    assert levels(found) == [0, 6, 12, 19]
    assert levels(found) == [0, 6, 12, 19]  # and again
    assert levels(open_frames(path, 1)) == [0]
    assert levels(open_frames(write_video(av, tmp_path / f"b.{suffix}", 2, codec), 3)) == [0, 0, 1]


@pytest.mark.parametrize("suffix", ["avi", "mp4", "mkv"])
def test_frames_come_by_when_they_are_shown(av: Any, tmp_path: Path, suffix: str) -> None:
    """B frames are decoded later than some that are shown after them."""
    path = write_video(av, tmp_path / f"film.{suffix}", 12, "libx264", bf="3")
    assert levels(open_frames(path, 4)) == [0, 3, 7, 11]
    assert levels(open_frames(path, 12)) == list(range(12))


def test_hidden_files_of_a_folder_are_no_frames(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "frames", 2)
    for name in ("._frame_0.png", ".DS_Store", "Thumbs.db", ".frame_9.png"):
        (folder / name).write_bytes(b"\0\5\26\7Mac OS X")
    found = [Path(str(file)).name for file in open_frames(folder, 2)]
    assert found == ["frame_0.png", "frame_1.png"]


def test_what_lies_far_ahead_is_jumped_to(
    av: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(av, tmp_path / "film.mp4", 20)
    monkeypatch.setattr(module, "_AHEAD", 2)
    assert levels(open_frames(path, 4)) == [0, 6, 12, 19]


def test_a_frame_that_the_phone_turned_is_upright(av: Any, tmp_path: Path) -> None:
    """The container's matrix says a quarter turn clockwise: the white corner goes right."""
    path = write_video(av, tmp_path / "film.mp4", 2)
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 44
    one = 1 << 16
    data[matrix : matrix + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    picture = next(iter(open_frames(path, 1)))
    assert isinstance(picture, Image.Image)
    assert picture.size == (48, 64)
    assert picture.getpixel((44, 4))[0] > 200 > 100 > picture.getpixel((4, 4))[0]  # type: ignore[index]


MEASURE = """
import resource, sys
from edgetok.runtimes.images.frames import open_frames
next(iter(open_frames(sys.argv[1], 150)))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert sum(p.size == (512, 512) for p in open_frames(sys.argv[1], 150)) == 150
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_the_video(av: Any, tmp_path: Path) -> None:
    """150 frames of 0.8 MB each are 118 MB; one at a time they are not."""
    path = write_video(av, tmp_path / "film.mp4", 150, size=(512, 512))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) * (1 if sys.platform == "darwin" else 1024) < 40 << 20


def spoil(av: Any, path: Path, how: str) -> Path:
    """A file that is no good video."""
    file = path / f"{how}.mp4"
    if how == "empty":
        file.write_bytes(b"")
    elif how == "noise":
        file.write_bytes(np.random.default_rng(0).bytes(5000))
    elif how == "cut short":
        file.write_bytes(write_video(av, path / "whole.mp4", 20).read_bytes()[:900])
    elif how == "playlist":
        file.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/hostname\n")
    elif how == "list of files":
        file.write_text("ffconcat version 1.0\nfile /etc/hostname\n")
    elif how == "pipe":
        os.mkfifo(file)
    elif how == "sound alone":
        with av.open(str(file), "w") as container:
            stream = container.add_stream("aac", rate=8000)
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            sound.sample_rate = 8000
            container.mux(stream.encode(sound))
            container.mux(stream.encode(None))
    elif how == "no samples":
        data = write_video(av, path / "whole.mp4", 4).read_bytes()
        file.write_bytes(data.replace(b"stsz", b"free"))
    return file


@pytest.mark.parametrize(
    "how",
    [
        *("empty", "noise", "cut short", "playlist", "list of files", "pipe", "missing"),
        *("sound alone", "no samples"),
    ],
)
def test_what_is_no_video_is_refused_with_a_sentence(av: Any, tmp_path: Path, how: str) -> None:
    with pytest.raises(InputError, match=r"(give|name|export)"):
        list(open_frames(spoil(av, tmp_path, how), 3))


def test_a_damaged_video_gives_pictures_or_a_sentence(av: Any, tmp_path: Path) -> None:
    """Bytes flipped everywhere in turn; nothing else than one of both comes out."""
    good = write_video(av, tmp_path / "film.mp4", 6).read_bytes()
    generator = np.random.default_rng(1)
    refused = 0
    for _ in range(60):
        data = bytearray(good)
        for place in generator.integers(0, len(data), 12):
            data[place] ^= 1 << generator.integers(8)
        (tmp_path / "bad.mp4").write_bytes(data)
        try:
            assert len(list(open_frames(tmp_path / "bad.mp4", 3))) <= 3
        except InputError:
            refused += 1
    assert refused > 0


def test_limits_are_named(av: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(av, tmp_path / "film.mp4", 6)
    folder = write_folder(tmp_path / "frames", 6)
    monkeypatch.setattr(limits, "IMAGE_PIXELS", 1000)
    with pytest.raises(InputError, match="64x48 = 3072 pixels; at most 1000"):
        list(open_frames(path, 2))
    monkeypatch.setattr(limits, "VIDEO_FRAMES", 5)
    with pytest.raises(InputError, match="more than 5 files"):
        open_frames(folder, 2)
    monkeypatch.setattr(limits, "IMAGE_PIXELS", 10_000)
    with pytest.raises(InputError, match="more than 5 frames; cut a piece out"):
        list(open_frames(path, 2))


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match="has no images"):
        open_frames(tmp_path, 2)


def test_without_pyav_a_sentence_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "film.mp4").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(IncompatibleError, match=r"edgetok\[video\]"):
        list(open_frames(tmp_path / "film.mp4", 2))
