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
    c_float,
    c_int,
    c_int32,
    c_int64,
    c_size_t,
    c_uint8,
    c_uint64,
    c_void_p,
)
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetok import names

FORMATS = {"rgb": 0, "bgr": 1, "rgba": 2, "nv12": 3}
SIGNALS = tuple(value for name, value in vars(names).items() if name.startswith("SIGNAL_"))
STOPS = ("stop", "length", "cache", "numeric", "cancelled")
ON_TOKEN = ctypes.CFUNCTYPE(c_int, c_void_p, c_int64)
_IDS = POINTER(c_int64)


class Sized(Structure):
    """A struct that says how large it is."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(**({"struct_size": ctypes.sizeof(self)} | fields))


class Rung(Sized):
    _fields_ = (
        ("struct_size", c_size_t),
        ("budget", c_int64),
        ("prompt_tokens", c_int64),
        ("new_tokens", c_int64),
    )


class LoadOptions(Sized):
    _fields_ = (
        ("struct_size", c_size_t),
        ("budgets", _IDS),
        ("budget_count", c_size_t),
        ("threads", c_int32),
        ("flavour", c_char_p),
        ("packed", c_int32),
        ("device", c_char_p),
        ("precision", c_char_p),
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
        ("temperature", c_double),
        ("top_p", c_double),
        ("seed", c_uint64),
        ("weights", POINTER(c_float)),
        ("weight_count", c_size_t),
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


class TextOptions(Sized):
    _fields_ = (("struct_size", c_size_t), ("library", c_char_p))


class EncoderInfo(Sized):
    _fields_ = (
        ("struct_size", c_size_t),
        ("task", c_char_p),
        ("output", c_char_p),
        ("shape", _IDS),
        ("rank", c_size_t),
        ("label_count", c_size_t),
        ("text_tokens", c_int64),
        ("scale", c_double),
        ("bias", c_double),
        ("similarity", c_char_p),
    )


class Tensor(Sized):
    _fields_ = (
        ("struct_size", c_size_t),
        ("name", c_char_p),
        ("data", POINTER(ctypes.c_float)),
        ("count", c_size_t),
        ("shape", _IDS),
        ("rank", c_size_t),
    )


class EncoderTimings(Sized):
    _fields_ = (
        ("struct_size", c_size_t),
        ("preprocess_ms", c_double),
        ("encode_ms", c_double),
    )


class Score(Sized):
    _fields_ = (
        ("struct_size", c_size_t),
        ("index", c_size_t),
        ("label", c_char_p),
        ("probability", c_double),
        ("logit", c_double),
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
    reused: int
    timings: dict[str, float]
    exit_layer: int
    signals: dict[str, float]


class Library:
    """A loaded libedgetok."""

    def __init__(self, path: Path) -> None:
        self.raw: Any = ctypes.CDLL(str(path))
        self.raw.edgetok_message.restype = c_char_p
        self.raw.edgetok_version.restype = c_char_p
        self.raw.edgetok_answer_reason.restype = c_char_p
        self.raw.edgetok_answer_margin.restype = c_double
        self.raw.edgetok_answer_log_probability.restype = c_double
        self.raw.edgetok_bundle_label.restype = c_char_p
        self.raw.edgetok_output_kept.restype = _IDS
        for name in ("bundle_rung_count", "output_tensor_count", "ranking_count"):
            getattr(self.raw, f"edgetok_{name}").restype = c_size_t
        self.raw.edgetok_output_budget.restype = c_int64
        self.raw.edgetok_answer_reused.restype = c_int64
        self.raw.edgetok_conversation_turns.restype = c_size_t
        self.raw.edgetok_conversation_tokens_left.restype = c_int64
        self.raw.edgetok_answer_exit_layer.restype = c_int64
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

    def rungs(self) -> list[dict[str, int]]:
        """The rungs, ascending."""
        found, raw = [], self.library.raw
        for index in range(raw.edgetok_bundle_rung_count(self.value)):
            rung = Rung()
            status = raw.edgetok_bundle_rung(self.value, c_size_t(index), byref(rung))
            self.library.require(status)
            found.append(_fields(rung))
        return found

    def encoder(self) -> dict[str, Any]:
        """What the bundle of an encoder is for, by name of field."""
        info = EncoderInfo()
        self.library.require(self.library.raw.edgetok_bundle_encoder(self.value, byref(info)))
        found = {name: getattr(info, name) for name, _ in EncoderInfo._fields_[1:]}
        label = self.library.raw.edgetok_bundle_label
        named = [label(self.value, c_size_t(n)).decode() for n in range(info.label_count)]
        return found | {"shape": info.shape[: info.rank], "labels": named}


class Image(_Handle):
    """A prepared image."""

    @property
    def pixels(self) -> NDArray[np.float32]:
        """A flat copy of what the tower reads."""
        count = c_size_t()
        first = self.library.raw.edgetok_image_data(self.value, byref(count))
        return np.ctypeslib.as_array(first, (count.value,)).copy()


class _Images(_Handle):
    """A handle that images are prepared for, by functions of this prefix."""

    prefix = "edgetok_image"

    def image_of(self, file: bytes) -> Image:
        """An image of a file's bytes."""
        made = c_void_p()
        data = (c_uint8 * len(file)).from_buffer_copy(file)
        prepare = getattr(self.library.raw, f"{self.prefix}_from_file")
        self.library.require(prepare(self.value, data, c_size_t(len(file)), byref(made)))
        return Image(self.library, "image", made)

    def image_of_many(self, pictures: Sequence[Image]) -> Image:
        """All pictures of a prompt as one image."""
        made = c_void_p()
        listed = (c_void_p * len(pictures))(*(picture.value for picture in pictures))
        self.library.require(
            self.library.raw.edgetok_image_from_many(
                self.value, listed, c_size_t(len(pictures)), byref(made)
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
        prepare = getattr(self.library.raw, f"{self.prefix}_from_pixels")
        self.library.require(prepare(self.value, byref(pixels), byref(made)))
        return Image(self.library, "image", made)


class Model(_Images):
    """A loaded bundle."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        budgets: Sequence[int] = (),
        threads: int = 1,
        flavour: str | None = None,
        packed: bool = False,
        device: str | None = None,
        precision: str | None = None,
    ) -> None:
        made, library = c_void_p(), bundle.library
        options = _options(budgets, threads, flavour)
        options.packed = packed
        options.device, options.precision = _encode(device), _encode(precision)
        library.require(library.raw.edgetok_model_load(bundle.value, byref(options), byref(made)))
        super().__init__(library, "model", made)

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
        prompt = _prompt(before, after, question)
        asked = _request(on_token, request)
        made, raw = c_void_p(), self.library.raw
        self.library.require(
            raw.edgetok_generate(self.value, image.value, byref(prompt), byref(asked), byref(made))
        )
        return _read_answer(self.library, made)

    def converse(self, image: Image) -> Conversation:
        """Begin to talk about an image."""
        made = c_void_p()
        self.library.require(
            self.library.raw.edgetok_converse(self.value, image.value, byref(made))
        )
        return Conversation(self.library, "conversation", made)

    def forget(self) -> None:
        """Have the next answer computed from its first row on."""
        self.library.require(self.library.raw.edgetok_model_forget(self.value))

    def cancel(self) -> None:
        """End the answer that another thread waits for."""
        self.library.raw.edgetok_model_cancel(self.value)

    @property
    def memory(self) -> dict[str, int]:
        """Bytes by what holds them."""
        memory = Memory()
        self.library.require(self.library.raw.edgetok_model_memory(self.value, byref(memory)))
        return _fields(memory)


class Encoder(_Images):
    """A loaded bundle without a language model."""

    prefix = "edgetok_encoder_image"

    def __init__(
        self,
        bundle: Bundle,
        *,
        budgets: Sequence[int] = (),
        threads: int = 1,
        flavour: str | None = None,
        device: str | None = None,
        packed: bool = False,
    ) -> None:
        made, library = c_void_p(), bundle.library
        options = _options(budgets, threads, flavour)
        options.device = _encode(device)
        options.packed = packed
        library.require(library.raw.edgetok_encoder_load(bundle.value, byref(options), byref(made)))
        super().__init__(library, "encoder", made)

    def encode(self, image: Image, budget: int = 0) -> Output:
        """Run a rung on an image; the largest when `budget` is 0."""
        made, raw = c_void_p(), self.library.raw
        status = raw.edgetok_encode(self.value, image.value, c_int64(budget), byref(made))
        self.library.require(status)
        return Output(self.library, "output", made)

    def encode_text(self, ids: Sequence[int]) -> Output:
        """The embedding of a text's token ids."""
        made, raw = c_void_p(), self.library.raw
        listed = (c_int64 * len(ids))(*ids)
        status = raw.edgetok_encode_text(self.value, listed, c_size_t(len(ids)), byref(made))
        self.library.require(status)
        return Output(self.library, "output", made)

    @property
    def memory(self) -> dict[str, int]:
        """Bytes by what holds them."""
        memory = Memory()
        self.library.require(self.library.raw.edgetok_encoder_memory(self.value, byref(memory)))
        return _fields(memory)


class Output(_Handle):
    """What an encoder made of an image or a text."""

    @property
    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """Copies of its tensors, the one that the task is about first."""
        found = {}
        for index in range(self.library.raw.edgetok_output_tensor_count(self.value)):
            tensor = Tensor()
            status = self.library.raw.edgetok_output_tensor(
                self.value, c_size_t(index), byref(tensor)
            )
            self.library.require(status)
            flat = np.ctypeslib.as_array(tensor.data, (tensor.count,)).copy()
            found[tensor.name.decode()] = flat.reshape(tensor.shape[: tensor.rank])
        return found

    @property
    def kept(self) -> list[int]:
        """The patch that each row left is centred on."""
        return _read_ids(self.library.raw.edgetok_output_kept, self)

    @property
    def budget(self) -> int:
        """Rows left; 0 of a text."""
        return int(self.library.raw.edgetok_output_budget(self.value))

    @property
    def timings(self) -> dict[str, float]:
        """Milliseconds by what they went to."""
        timings = EncoderTimings()
        self.library.require(self.library.raw.edgetok_output_timings(self.value, byref(timings)))
        return _fields(timings)

    def rank_classes(self) -> list[dict[str, Any]]:
        """All classes, the likeliest first."""
        made = c_void_p()
        self.library.require(self.library.raw.edgetok_rank_classes(self.value, byref(made)))
        return _read_ranking(_Handle(self.library, "ranking", made))

    def rank_texts(self, texts: Sequence[Output]) -> list[dict[str, Any]]:
        """How well each text goes with this picture, the best first."""
        made, raw = c_void_p(), self.library.raw
        listed = (c_void_p * len(texts))(*[text.value for text in texts])
        status = raw.edgetok_rank_texts(self.value, listed, c_size_t(len(texts)), byref(made))
        self.library.require(status)
        return _read_ranking(_Handle(self.library, "ranking", made))


def _read_ranking(ranking: _Handle) -> list[dict[str, Any]]:
    scores, raw = [], ranking.library.raw
    for place in range(raw.edgetok_ranking_count(ranking.value)):
        score = Score()
        status = raw.edgetok_ranking_score(ranking.value, c_size_t(place), byref(score))
        ranking.library.require(status)
        scores.append(_fields(score))
    return scores


def _options(budgets: Sequence[int], threads: int, flavour: str | None) -> LoadOptions:
    listed = (c_int64 * len(budgets))(*budgets)
    return LoadOptions(
        budgets=listed if budgets else None,
        budget_count=len(budgets),
        threads=threads,
        flavour=_encode(flavour),
    )


def _fields(struct: Sized) -> dict[str, Any]:
    """All fields but the size."""
    return {name: getattr(struct, name) for name, *_ in struct._fields_[1:]}


def _encode(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


class Conversation(_Handle):
    """Turns about one image."""

    def ask(
        self,
        before: Sequence[int],
        after: Sequence[int],
        question: range = range(0),
        on_token: Callable[[int], int] | None = None,
        **request: Any,
    ) -> Answer:
        """Answer the next turn; `request` are fields of `Request`."""
        prompt = _prompt(before, after, question)
        asked = _request(on_token, request)
        made, raw = c_void_p(), self.library.raw
        self.library.require(
            raw.edgetok_conversation_ask(self.value, byref(prompt), byref(asked), byref(made))
        )
        return _read_answer(self.library, made)

    @property
    def turns(self) -> int:
        """How many have been answered."""
        return int(self.library.raw.edgetok_conversation_turns(self.value))

    @property
    def tokens_left(self) -> int:
        """Tokens of questions and answers that the KV cache still takes."""
        return int(self.library.raw.edgetok_conversation_tokens_left(self.value))


def _prompt(before: Sequence[int], after: Sequence[int], question: range) -> Prompt:
    return Prompt(
        before=(c_int64 * len(before))(*before),
        before_count=len(before),
        after=(c_int64 * len(after))(*after),
        after_count=len(after),
        question_first=question.start,
        question_count=len(question),
    )


def _request(on_token: Callable[[int], int] | None, fields: dict[str, Any]) -> Request:
    if "weights" in fields:
        given = fields["weights"]
        listed = (c_float * len(given))(*given)
        fields = fields | {"weights": listed, "weight_count": len(given)}
    asked = Request(**fields)
    asked.on_token = ON_TOKEN(lambda _, token: on_token(token)) if on_token else ON_TOKEN()
    return asked


@dataclass(frozen=True)
class Encoded:
    """A question as token ids."""

    before: list[int]
    after: list[int]
    question: range


class Text(_Handle):
    """A bundle's chat template and tokenizer; `extensions` is onnxruntime-extensions' library."""

    def __init__(self, bundle: Bundle, extensions: Path) -> None:
        made, library = c_void_p(), bundle.library
        options = TextOptions(library=str(extensions).encode())
        library.require(library.raw.edgetok_text_open(bundle.value, byref(options), byref(made)))
        super().__init__(library, "text", made)

    def encode(self, question: str | bytes) -> Encoded:
        """The chat template around a question."""
        return self._encode(self.library.raw.edgetok_text_encode, question)

    def encode_turn(self, question: str | bytes) -> list[int]:
        """What stands between an answer and the next one."""
        return self._encode(self.library.raw.edgetok_text_encode_turn, question).after

    def _encode(self, function: Any, question: str | bytes) -> Encoded:
        data = question.encode() if isinstance(question, str) else question
        made, prompt, raw = c_void_p(), Prompt(), self.library.raw
        self.library.require(function(self.value, data, c_size_t(len(data)), byref(made)))
        handle = _Handle(self.library, "question", made)
        self.library.require(raw.edgetok_question_prompt(handle.value, byref(prompt)))
        first = prompt.question_first
        return Encoded(
            prompt.before[: prompt.before_count],
            prompt.after[: prompt.after_count],
            range(first, first + prompt.question_count),
        )

    def decoder(self) -> Decoder:
        """For the tokens of one answer."""
        made = c_void_p()
        self.library.require(self.library.raw.edgetok_decoder_make(self.value, byref(made)))
        return Decoder(self.library, "decoder", made)


class Decoder(_Handle):
    """From tokens to text, piece by piece."""

    def push(self, token: int) -> str:
        """The text that one more token completes."""
        return self._show(self.library.raw.edgetok_decoder_push, c_int64(token))

    def flush(self) -> str:
        """What is left."""
        return self._show(self.library.raw.edgetok_decoder_flush)

    def text(self, tokens: Sequence[int]) -> str:
        """The text of these tokens alone."""
        listed = (c_int64 * len(tokens))(*tokens)
        return self._show(self.library.raw.edgetok_decoder_text, listed, c_size_t(len(tokens)))

    def _show(self, function: Any, *arguments: Any) -> str:
        piece, count = c_char_p(), c_size_t()
        self.library.require(function(self.value, *arguments, byref(piece), byref(count)))
        return ctypes.string_at(piece, count.value).decode()


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
        reused=raw.edgetok_answer_reused(handle.value),
        timings={name: getattr(timings, name) for name, _ in Timings._fields_[1:]},
        exit_layer=raw.edgetok_answer_exit_layer(handle.value),
        signals=_read_signals(raw, handle),
    )


def _read_signals(raw: Any, handle: _Handle) -> dict[str, float]:
    """Those that towers and thumbnails give."""
    found, value = {}, c_double()
    for name in SIGNALS:
        if raw.edgetok_answer_signal(handle.value, name.encode(), byref(value)) == 0:
            found[name] = value.value
    return found


def _read_ids(getter: Any, handle: _Handle) -> list[int]:
    count = c_size_t()
    first = getter(handle.value, byref(count))
    return first[: count.value] if count.value else []
