"""Samples: the user's images and prompts, from a JSONL file or a folder of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec
import numpy as np

from edgetok import limits
from edgetok.errors import InputError, UsageError

FOLDER_PROMPT = "Describe the image."
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")  # of limits.IMAGE_FORMATS


@dataclass(frozen=True, slots=True)
class Sample:
    """One image with its prompt.

    Args:
        image: absolute path of a file that existed when the samples were read.
        answer: what a right answer is, where known.
        kind: the group it is counted in, such as "colour" or "text".
    """

    image: Path
    prompt: str
    answer: str | None = None
    kind: str | None = None


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    """One line of a samples file."""

    image: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
    prompt: Annotated[str, msgspec.Meta(min_length=1)]
    answer: str | None = None
    kind: str | None = None


def load_samples(path: Path | str, *, count: int | None = None) -> tuple[Sample, ...]:
    """Read samples from a JSONL file or a folder of images.

    Each line of a file is an object with `image` (a path, relative to the file), `prompt`, and
    optionally `answer` and `kind`; blank lines are skipped. A folder gives its images in order of
    their names, each with the prompt "Describe the image.".

    Args:
        count: read the first `count` samples only.

    Raises:
        InputError: if there is nothing to read, a line is no sample or an image is missing; names
            the file and line.
    """
    source = Path(path)
    if count is not None and count < 1:
        raise UsageError(f"{count} samples were asked for; ask for 1 or more")
    found = _folder(source) if source.is_dir() else _file(source)
    samples = tuple(islice(found, limits.SAMPLES if count is None else count))
    if not samples:
        raise InputError(f"{source} holds no samples; give a JSONL file or a folder of images")
    return samples


def draw(samples: Sequence[Sample], count: int, seed: int = 0) -> tuple[Sample, ...]:
    """`count` samples spread evenly over kinds and over the list; all of them if there are fewer.

    The list, ordered by kind, is cut into `count` equal parts and one sample is drawn from each,
    so every kind is represented in proportion. The same seed draws the same samples everywhere.
    """
    if count < 1:
        raise UsageError(f"{count} samples were asked for; ask for 1 or more")
    total = len(samples)
    if count >= total:
        return tuple(samples)
    by_kind = sorted(range(total), key=lambda i: samples[i].kind or "")
    raw = np.random.PCG64(seed).random_raw(count).tolist()  # NumPy never changes the raw stream
    starts = [total * part // count for part in range(count + 1)]
    chosen = [
        by_kind[start + number % (end - start)]
        for number, start, end in zip(raw, starts, starts[1:], strict=False)
    ]
    return tuple(samples[i] for i in sorted(chosen))


def _folder(folder: Path) -> Iterator[Sample]:
    for image in sorted(folder.iterdir()):
        if image.suffix.lower() in IMAGE_SUFFIXES and image.is_file():
            yield Sample(image.resolve(), FOLDER_PROMPT)


def _file(path: Path) -> Iterator[Sample]:
    try:
        size_bytes = path.stat().st_size
        if size_bytes > limits.SAMPLES_FILE_BYTES:
            raise InputError(
                f"{path} has {size_bytes} bytes; the limit is {limits.SAMPLES_FILE_BYTES}: "
                f"split it, or give a part of it"
            )
        with path.open("rb") as file:
            yield from _lines(file, path)
    except OSError as error:
        raise InputError(f"cannot read samples from {path}: {error.strerror}") from error


def _lines(file: BinaryIO, path: Path) -> Iterator[Sample]:
    number = 0
    while line := file.readline(limits.SAMPLE_LINE_BYTES + 1):
        number += 1
        if number > limits.SAMPLES:
            raise InputError(f"{path} has more than {limits.SAMPLES} lines; split it")
        if len(line) > limits.SAMPLE_LINE_BYTES:
            raise InputError(f"{path}:{number}: longer than {limits.SAMPLE_LINE_BYTES} bytes")
        if line.strip():
            yield _sample(line, path, f"{path}:{number}")


def _sample(line: bytes, path: Path, where: str) -> Sample:
    try:
        fields = msgspec.json.decode(line, type=_Line)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{where}: {error}; a line is an object with `image`, `prompt`, and optionally "
            f"`answer` and `kind`"
        ) from error
    image = path.resolve().parent / fields.image  # an absolute path stays as it is
    try:
        found = image.is_file()
    except (OSError, ValueError):  # a name too long for the system, or one with a NUL
        found = False
    if not found:
        raise InputError(f"{where}: no image at {image}")
    return Sample(image.resolve(), fields.prompt, fields.answer, fields.kind)
