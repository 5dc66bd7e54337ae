"""llama.cpp through llama-cpp-python and mtmd, as a contestant of benchmarks/peers.py."""

from __future__ import annotations

import ctypes
from importlib.metadata import version
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp import mtmd_cpp as mtmd
from serve import Clock, Costs, picture, serve

_ROWS = 1024  # of the cache and of a batch: a prompt is one batch
_IMAGE = 1  # of mtmd's kinds of chunks


class Contestant:
    """Options: `tower`, mtmd's file, but for texts alone; `flash`, whether attention is fused."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.question = options["question"]
        threads = options["threads"]
        self.llm = llama_cpp.Llama(
            options["model"],
            n_ctx=_ROWS,
            n_batch=_ROWS,
            n_ubatch=_ROWS,
            n_threads=threads,
            n_threads_batch=threads,
            flash_attn=options.get("flash", True),
            verbose=False,
        )
        self.tower = self._load_tower(options["tower"], threads) if options.get("tower") else None

    def _load_tower(self, path: str, threads: int) -> Any:
        asked = mtmd.mtmd_context_params_default()
        asked.use_gpu, asked.n_threads, asked.print_timings = False, threads, False
        asked.warmup = False
        made = mtmd.mtmd_init_from_file(path.encode(), self.llm.model, asked)
        if made is None:
            raise RuntimeError(f"mtmd refused {path}")
        return made

    def answer(self, tokens: int, steps: int, seed: int) -> Costs:
        """An answer to a new picture with all its visual tokens."""
        shown = picture(seed, self.question["side_px"])
        asked = self.question["first"]
        whole, part = Clock(), Clock()
        self.llm.reset()
        chunks = self._cut(shown)
        chunk = self._find_image(chunks)
        _require_ok(mtmd.mtmd_encode_chunk(self.tower, chunk))
        out = part.read("tower")
        part.start()
        self.llm.eval(asked["before"])
        self._read_image(chunk)
        self.llm.eval(asked["after"])
        token = self._choose()
        out |= part.read("prefill") | whole.read("first") | {"rows": self.llm.n_tokens}
        mtmd.mtmd_input_chunks_free(chunks)
        return out | self._decode(token, steps)

    def text(self, tokens: int, steps: int, seed: int) -> Costs:
        """An answer to so many tokens of text."""
        ids = np.random.default_rng(seed).integers(10, 600, tokens).tolist()
        self.llm.reset()
        clock = Clock()
        self.llm.eval(ids)
        token = self._choose()
        out = clock.read("prefill") | {"rows": self.llm.n_tokens}
        return out | self._decode(token, steps)

    def _decode(self, token: int, steps: int) -> Costs:
        clock = Clock()
        for _ in range(steps):
            self.llm.eval([token])
            token = self._choose()
        return clock.read("decode", steps) if steps else {}

    def _choose(self) -> int:
        logits = llama_cpp.llama_get_logits_ith(self.llm.ctx, -1)
        return int(np.ctypeslib.as_array(logits, (self.llm.n_vocab(),)).argmax())

    def _cut(self, shown: np.ndarray) -> Any:
        """mtmd's chunks of a prompt that is the picture alone."""
        side = shown.shape[0]
        pixels = shown.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        bitmap = mtmd.mtmd_bitmap_init(side, side, pixels)
        text = mtmd.mtmd_input_text()
        text.text = mtmd.mtmd_default_marker()
        text.text_len, text.parse_special = len(text.text), True
        chunks = mtmd.mtmd_input_chunks_init()
        bitmaps = (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap)
        _require_ok(mtmd.mtmd_tokenize(self.tower, chunks, ctypes.byref(text), bitmaps, 1))
        mtmd.mtmd_bitmap_free(bitmap)
        return chunks

    def _find_image(self, chunks: Any) -> Any:
        count = mtmd.mtmd_input_chunks_size(chunks)
        found = [mtmd.mtmd_input_chunks_get(chunks, index) for index in range(count)]
        return next(c for c in found if mtmd.mtmd_input_chunk_get_type(c) == _IMAGE)

    def _read_image(self, chunk: Any) -> None:
        """The decoder over the visual tokens, behind the rows it has read."""
        embeds, position = mtmd.mtmd_get_output_embd(self.tower), ctypes.c_int32(0)
        callback = mtmd.mtmd_helper_post_decode_callback()
        place = (self.llm.n_tokens, 0, _ROWS, ctypes.byref(position), callback, None)
        context = self.llm.ctx
        _require_ok(mtmd.mtmd_helper_decode_image_chunk(self.tower, context, chunk, embeds, *place))
        self.llm.n_tokens = position.value


def _require_ok(status: int) -> None:
    if status != 0:
        raise RuntimeError(f"mtmd returned {status}")


if __name__ == "__main__":
    serve(Contestant, lambda: {"llama-cpp-python": version("llama-cpp-python")})
