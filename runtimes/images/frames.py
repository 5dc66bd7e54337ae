"""Frames at even steps from a folder of images, or from a video through PyAV.

A video is read as a stream: of a long one, memory holds one frame at a time and eight bytes for
each of the others. Only plain containers are opened, and none that names other files.
"""

from __future__ import annotations

import os
import re
import stat
from array import array
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from edgetok import limits
from edgetok.errors import IncompatibleError, InputError
from edgetok.images.reading import ImageInput, require_size

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")  # of limits.IMAGE_FORMATS
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"
_AHEAD = 64  # frames that are rather decoded than jumped over: what lies between two key frames


def open_frames(path: str | os.PathLike[str], count: int) -> Collection[ImageInput]:
    """`count` frames of a folder or video, the first and the last among them.

    If there are fewer, some are shown twice.

    Raises:
        InputError: if there is no such thing, or no frame in it.
        IncompatibleError: for a video, if PyAV is not installed.
    """
    source = Path(path)
    if source.is_dir():
        files = _list_images(source)
        return [files[place] for place in spread(len(files), count)]
    return Video(source, count)


def spread(n: int, count: int) -> list[int]:
    """`count` of `n` places at even steps, the first and the last among them; ascending.

    >>> spread(10, 4)
    [0, 3, 6, 9]
    """
    return [place * (n - 1) // max(1, count - 1) for place in range(count)]


def _list_images(folder: Path) -> list[Path]:
    """Images of a folder in the order of the numbers in their names."""
    found: list[Path] = []
    with os.scandir(folder) as entries:
        for seen, entry in enumerate(entries):
            if seen >= limits.VIDEO_FRAMES:
                raise InputError(
                    f"{folder} has more than {limits.VIDEO_FRAMES} files; give a smaller folder"
                )
            hidden = entry.name.startswith(".")  # such as ._1.jpg, which a Mac puts beside 1.jpg
            if Path(entry.name).suffix.lower() in _SUFFIXES and not hidden and entry.is_file():
                found.append(Path(entry.path))
    if not found:
        raise InputError(f"{folder} has no images ({', '.join(_SUFFIXES)}) to take frames from")
    return sorted(found, key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Orders frame_2 before frame_10."""
    parts = re.findall(r"([0-9]+)|([^0-9]+)", path.name)
    return [(int(number or 0) if len(number) < 20 else 0, text or number) for number, text in parts]


@dataclass(frozen=True)
class Video(Collection[ImageInput]):
    """Frames of a video file, decoded each time they are asked for, one by one.

    Raises:
        InputError: when it is iterated, if the file is no video, damaged or exceeds a limit.
        IncompatibleError: when it is iterated, if PyAV is not installed.
    """

    path: Path
    count: int

    def __len__(self) -> int:
        return self.count

    def __contains__(self, picture: object) -> bool:
        return any(picture == frame for frame in self)

    def __iter__(self) -> Iterator[Image.Image]:
        with _open_file(self.path) as file, _sentences(self.path):
            times = self._list_times(file)
            if not times:
                raise InputError(f"{self.path} has no frames; record or export the video again")
            file.seek(0)
            yield from self._decode(
                file, [times[place] for place in spread(len(times), self.count)]
            )

    def _list_times(self, file: BinaryIO) -> array[int]:
        """Presentation times of all frames, ascending; nothing is decoded."""
        times = array("q")
        with self._open(file) as (container, stream):
            counted = _has_no_times(container)
            for number, packet in enumerate(container.demux(stream)):
                if number >= limits.VIDEO_FRAMES:
                    raise InputError(
                        f"{self.path} has more than {limits.VIDEO_FRAMES} frames; cut a piece out"
                    )
                time = packet.dts if packet.pts is None else packet.pts
                time = number if counted else time
                if packet.size and time is not None:
                    times.append(time)
        return array("q", sorted(times))

    def _decode(self, file: BinaryIO, wanted: list[int]) -> Iterator[Image.Image]:
        """The frames at these times; the last one there is where a file ends too early."""
        with self._open(file) as (container, stream):
            counted = _has_no_times(container)
            frames, frame, shown = _number(container.decode(stream), counted=counted), None, 0
            at = -1
            for number, time in enumerate(wanted):
                if number and not counted and self._is_far(stream, wanted[number - 1], time):
                    container.seek(time, stream=stream, backward=True)
                    frames = _number(container.decode(stream), counted=False)
                while frame is None or at < time:
                    following = next(frames, None)
                    if following is None:
                        break
                    at, frame = following
                if frame is None:
                    break
                shown += 1
                yield _to_picture(frame)
            if not shown:
                raise InputError(f"{self.path} is damaged: none of its frames can be decoded")

    def _is_far(self, stream: Any, before: int, time: int) -> bool:
        rate = float(stream.average_rate or 0) * float(stream.time_base or 0)
        return (time - before) * rate > _AHEAD

    @contextmanager
    def _open(self, file: BinaryIO) -> Iterator[tuple[Any, Any]]:
        av = _import_av()
        guards = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "none"}
        with av.open(file, "r", container_options=guards, metadata_errors="replace") as container:
            if not container.streams.video:
                raise InputError(f"{self.path} has no video in it; give a video or a folder")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise InputError(
                    f"{self.path} has a video of an unknown codec; give H.264 or MPEG-4"
                )
            require_size(stream.height, stream.width, f"a frame of {self.path}")
            stream.codec_context.options = {"max_pixels": str(limits.IMAGE_PIXELS)}
            yield container, stream


def _has_no_times(container: Any) -> bool:
    """AVI says when frames are decoded, not when they are shown; with B frames, these differ."""
    return bool(container.format.name == "avi")


def _number(frames: Iterator[Any], *, counted: bool) -> Iterator[tuple[int, Any]]:
    """Frames as a decoder gives them, in the order they are shown: with their number or time."""
    for number, frame in enumerate(frames):
        yield number if counted else _time_of(frame), frame


def _time_of(frame: Any) -> int:
    """When it is shown, or decoded where its container does not say; -1 if neither is known."""
    times = (time for time in (frame.pts, frame.dts, -1) if time is not None)
    return int(next(times))


def _to_picture(frame: Any) -> Image.Image:
    """An upright Pillow image: phones turn the frame, not the sensor."""
    picture: Image.Image = frame.to_image()
    turned = round(getattr(frame, "rotation", 0) or 0)
    return picture.rotate(turned, expand=True) if turned % 360 else picture


def _import_av() -> Any:
    try:
        import av
    except ImportError as error:
        raise IncompatibleError(
            "reading a video needs PyAV; install it with pip install 'edgetok[video]', or give a "
            "folder of images"
        ) from error
    return av


@contextmanager
def _open_file(path: Path) -> Iterator[BinaryIO]:
    try:
        # Non-blocking, so that a FIFO in place of a file does not hang.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read: {reason}; name a video or a folder") from error
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or not status.st_size:
            raise InputError(f"{path} is empty or no file; name a video or a folder of images")
        yield file


@contextmanager
def _sentences(path: Path) -> Iterator[None]:
    av = _import_av()
    try:
        yield
    except av.error.FFmpegError as error:
        raise InputError(
            f"{path} is no video that can be read ({error.strerror}); give one as MP4, MOV, "
            "Matroska, WebM or AVI, or a folder of images"
        ) from error
