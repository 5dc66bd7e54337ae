"""onnxruntime-genai's decoder, texts alone, as a contestant of benchmarks/peers.py."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

import numpy as np
import onnxruntime_genai as genai
from serve import Clock, Costs, serve

_ROWS = 1024


class Contestant:
    def __init__(self, options: dict[str, Any]) -> None:
        config = genai.Config(options["model"])
        session = {"session_options": {"intra_op_num_threads": options["threads"]}}
        config.overlay(json.dumps({"model": {"decoder": session}}))
        self.model = genai.Model(config)

    def text(self, tokens: int, steps: int, seed: int) -> Costs:
        """An answer to so many tokens of text."""
        asked = genai.GeneratorParams(self.model)
        asked.set_search_options(max_length=_ROWS, min_length=_ROWS, do_sample=False)
        generator = genai.Generator(self.model, asked)
        ids = np.random.default_rng(seed).integers(10, 600, tokens, dtype=np.int32)
        clock = Clock()
        generator.append_tokens(ids)
        generator.generate_next_token()
        out = clock.read("prefill") | {"rows": tokens}
        clock.start()
        for _ in range(steps):
            generator.generate_next_token()
        return out | (clock.read("decode", steps) if steps else {})


if __name__ == "__main__":
    libraries = ("onnxruntime-genai", "onnxruntime")
    serve(Contestant, lambda: {name: version(name) for name in libraries})
