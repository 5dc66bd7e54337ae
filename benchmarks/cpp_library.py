"""The C library from Python, by ctypes: for tests, as any other program sees it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from ctypes import (
    POINTER,
    Structure,
    byref,
    c_char_p,
    c_double,
    c_int,
    c_int32,
    c_int64,
    c_size_t,
    c_uint8,
    c_void_p,
)
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FORMATS = {"rgb": 0, "bgr": 1, "rgba": 2, "nv12": 3}
STOPS = ("stop", "length", "cache", "numeric", "cancelled")
ON_TOKEN = ctypes.CFUNCTYPE(c_int, c_void_p, c_int64)
_IDS = POINTER(c_int64)


class Sized(Structure):
    """A struct that says how large it is."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(struct_size=ctypes.sizeof(self), **fields)


class LoadOptions(Sized):
    _fields_ = (
        ("struct_size", c_size_t),
        ("budgets", _IDS),
        ("budget_count", c_size_t),
        ("threads", c_int32),
        ("flavour", c_char_p),
        ("packed", c_int32),
    )


class Memory(Sized):
    _fields_ = (
        ("struct_size", c_size_t),
        ("weights_bytes", c_int64),
        ("cache_bytes", c_int64),
        ("buffers_bytes", c_int64),
        ("resident_bytes", c_int64),
    )


class Pixels(Sized):
    _fields_ = (
        ("struct_size", c_size_t),
        ("format", c_int),
        ("width", c_int64),
        ("height", c_int64),
        ("data", c_void_p),
        ("stride", c_int64),
        ("uv", c_void_p),
        ("uv_stride", c_int64),
    )


class Prompt(Sized):
    _fields_ = (
        ("struct_size", c_size_t),
        ("before", _IDS),
        ("before_count", c_size_t),
        ("after", _IDS),
        ("after_count", c_size_t),
        ("question_first", c_size_t),
        ("question_count", c_size_t),
    )


class Request(Sized):
    _fields_ = (
        ("struct_size", c_size_t),
        ("budget", c_int64),
        ("max_ttft_ms", c_double),
        ("max_memory_mib", c_double),
        ("table", c_char_p),
        ("elbow", c_int32),
        ("max_new_tokens", c_int32),
        ("on_token", ON_TOKEN),
        ("user", c_void_p),
    )


class Timings(Sized):
    _fields_ = (
        ("struct_size", c_size_t),
        ("preprocess_ms", c_double),
        ("tower_ms", c_double),
        ("compress_ms", c_double),
        ("embed_ms", c_double),
        ("prefill_ms", c_double),
        ("ttft_ms", c_double),
        ("decode_ms", c_double),
    )


class Failure(Exception):
    """A status other than 0, with the library's message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Answer:
    """What `edgetok_generate` gave."""

    tokens: list[int]
    kept: list[int]
    tried: list[int]
    stop: str
    reason: str
    margin: float
    log_probability: float
    timings: dict[str, float]


class Library:
    """A loaded libedgetok."""

    def __init__(self, path: Path) -> None:
        self.raw: Any = ctypes.CDLL(str(path))
        self.raw.edgetok_message.restype = c_char_p
        self.raw.edgetok_answer_reason.restype = c_char_p
        self.raw.edgetok_answer_margin.restype = c_double
        self.raw.edgetok_answer_log_probability.restype = c_double
        self.raw.edgetok_image_data.restype = POINTER(ctypes.c_float)
        for name in ("tokens", "kept", "tried"):
            getattr(self.raw, f"edgetok_answer_{name}").restype = _IDS

    def require(self, status: int) -> None:
        """Raises Failure unless the status is 0."""
        if status:
            raise Failure(status, self.raw.edgetok_message().decode())

    def check(self, path: Path) -> None:
        """Open a bundle and check everything in it; raises Failure."""
        Bundle(self, path).check()


class _Handle:
    def __init__(self, library: Library, kind: str, value: c_void_p) -> None:
        self.library, self.value = library, value
        self._free = getattr(library.raw, f"edgetok_{kind}_free")

    def __del__(self) -> None:
        if hasattr(self, "value"):
            self._free(self.value)


class Bundle(_Handle):
    """An open bundle."""

    def __init__(self, library: Library, path: Path) -> None:
        made = c_void_p()
        name = str(path).encode()
        library.require(library.raw.edgetok_bundle_open(name, 0, byref(made)))
        super().__init__(library, "bundle", made)

    def check(self) -> None:
        """Admit every graph, read the processor, repeat the controller's cases."""
        self.library.require(self.library.raw.edgetok_bundle_check(self.value))


class Image(_Handle):
    """A prepared image."""

    @property
    def pixels(self) -> NDArray[np.float32]:
        """A flat copy of what the tower reads."""
        count = c_size_t()
        first = self.library.raw.edgetok_image_data(self.value, byref(count))
        return np.ctypeslib.as_array(first, (count.value,)).copy()


class Model(_Handle):
    """A loaded bundle."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        budgets: Sequence[int] = (),
        threads: int = 1,
        flavour: str = "ort",
        packed: bool = False,
    ) -> None:
        made, library = c_void_p(), bundle.library
        listed = (c_int64 * len(budgets))(*budgets)
        options = LoadOptions(
            budgets=listed if budgets else None,
            budget_count=len(budgets),
            threads=threads,
            flavour=flavour.encode(),
            packed=packed,
        )
        library.require(library.raw.edgetok_model_load(bundle.value, byref(options), byref(made)))
        super().__init__(library, "model", made)

    def image_of(self, file: bytes) -> Image:
        """An image of a file's bytes."""
        made = c_void_p()
        data = (c_uint8 * len(file)).from_buffer_copy(file)
        self.library.require(
            self.library.raw.edgetok_image_from_file(
                self.value, data, c_size_t(len(file)), byref(made)
            )
        )
        return Image(self.library, "image", made)

    def image(
        self, data: NDArray[np.uint8], form: str = "rgb", size: tuple[int, int] | None = None
    ) -> Image:
        """An image of pixels [h, w, channels], or of the planes of `size` [h, w]."""
        data = np.ascontiguousarray(data)
        height, width = size or data.shape[:2]
        pixels = Pixels(
            format=FORMATS[form], width=width, height=height, data=data.ctypes.data_as(c_void_p)
        )
        made = c_void_p()
        self.library.require(
            self.library.raw.edgetok_image_from_pixels(self.value, byref(pixels), byref(made))
        )
        return Image(self.library, "image", made)

    def generate(
        self,
        image: Image,
        before: Sequence[int],
        after: Sequence[int],
        question: range = range(0),
        on_token: Callable[[int], int] | None = None,
        **request: Any,
    ) -> Answer:
        """Answer; `request` are fields of `Request`."""
        prompt = Prompt(
            before=(c_int64 * len(before))(*before),
            before_count=len(before),
            after=(c_int64 * len(after))(*after),
            after_count=len(after),
            question_first=question.start,
            question_count=len(question),
        )
        asked = Request(**request)
        called = ON_TOKEN(lambda _, token: on_token(token)) if on_token else ON_TOKEN()
        asked.on_token = called
        made, raw = c_void_p(), self.library.raw
        self.library.require(
            raw.edgetok_generate(self.value, image.value, byref(prompt), byref(asked), byref(made))
        )
        return _read_answer(self.library, made)

    def cancel(self) -> None:
        """End the answer that another thread waits for."""
        self.library.raw.edgetok_model_cancel(self.value)

    @property
    def memory(self) -> dict[str, int]:
        """Bytes by what holds them."""
        memory = Memory()
        self.library.require(self.library.raw.edgetok_model_memory(self.value, byref(memory)))
        names = [name for name, _ in Memory._fields_[1:]]
        return {name: getattr(memory, name) for name in names}


def _read_answer(library: Library, made: c_void_p) -> Answer:
    raw, handle, timings = library.raw, _Handle(library, "answer", made), Timings()
    library.require(raw.edgetok_answer_timings(handle.value, byref(timings)))
    return Answer(
        tokens=_read_ids(raw.edgetok_answer_tokens, handle),
        kept=_read_ids(raw.edgetok_answer_kept, handle),
        tried=_read_ids(raw.edgetok_answer_tried, handle),
        stop=STOPS[raw.edgetok_answer_stop(handle.value)],
        reason=raw.edgetok_answer_reason(handle.value).decode(),
        margin=raw.edgetok_answer_margin(handle.value),
        log_probability=raw.edgetok_answer_log_probability(handle.value),
        timings={name: getattr(timings, name) for name, _ in Timings._fields_[1:]},
    )


def _read_ids(getter: Any, handle: _Handle) -> list[int]:
    count = c_size_t()
    first = getter(handle.value, byref(count))
    return first[: count.value] if count.value else []
