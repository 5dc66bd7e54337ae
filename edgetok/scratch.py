"""Room for arrays that are too large for memory: a nameless file beside what is being made.

The file has no name, so the system takes it back however the process ends.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from edgetok.errors import ResourceError

Array = npt.NDArray[Any]


class Scratch:
    """Hands out arrays that live in a file, so that memory holds only those in use.

    Args:
        directory: where the file is made, once it is needed; on a disk with room for all of them,
            not one in memory. The system's own temporary directory if None.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = Path(tempfile.gettempdir()) if directory is None else directory
        self._file: IO[bytes] | None = None
        self._end = 0

    def allocate(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """A writable array of zeros.

        Raises:
            ResourceError: if the disk is full, or no file can be made there.
        """
        wanted = np.dtype(dtype)
        size_bytes = int(np.prod(shape, dtype=np.int64)) * wanted.itemsize
        if not size_bytes:
            return np.zeros(shape, wanted)
        start, page = self._end, mmap.ALLOCATIONGRANULARITY
        file = self._reserve(start, size_bytes)
        self._end = -(-(start + size_bytes) // page) * page
        return np.memmap(file, wanted, "r+", start, shape)

    def hold(self, array: Array) -> Array:
        """A copy of `array` that lives in the file."""
        held = self.allocate(array.shape, array.dtype)
        held[...] = array
        return held

    def _reserve(self, start: int, size_bytes: int) -> IO[bytes]:
        """The file with this room taken: writing to a map of a full disk would kill the process."""
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._directory)  # noqa: SIM115
            os.posix_fallocate(self._file.fileno(), start, size_bytes)
        except OSError as error:
            raise ResourceError(
                f"{self._directory}: {size_bytes} bytes of scratch space cannot be had beside "
                f"{start} in use: {error.strerror}; free space or choose another output"
            ) from error
        return self._file
