"""openvino.genai's VLMPipeline, as a contestant of benchmarks/peers.py."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import openvino
import openvino_genai as genai
from serve import Clock, Costs, picture, serve


class Contestant:
    """An answer to fewer tokens than the picture has is one that CDPruner cut to about as many."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.question = options["question"]
        threads = options["threads"]
        self.pipe = genai.VLMPipeline(options["model"], "CPU", INFERENCE_NUM_THREADS=threads)

    def answer(self, tokens: int, steps: int, seed: int) -> Costs:
        """An answer to a new picture."""
        shown = openvino.Tensor(picture(seed, self.question["side_px"])[None])
        asked = self._configure(tokens, 1 + steps)
        text = f"user: <ov_genai_image_0>{self.question['first']['text']} assistant:"
        seen = _FirstAndLast()
        found = self.pipe.generate(text, images=[shown], generation_config=asked, streamer=seen)
        spent = found.perf_metrics
        out = seen.first | seen.rest | {"rows": spent.get_num_input_tokens()}
        share = spent.get_prepare_embeddings_duration().mean / spent.get_ttft().mean
        for unit in ("cpu", "wall"):  # the pipeline tells wall times alone
            out[f"tower_{unit}_ms"] = share * out[f"first_{unit}_ms"]
            out[f"prefill_{unit}_ms"] = (1 - share) * out[f"first_{unit}_ms"]
        return out

    def _configure(self, tokens: int, new_tokens: int) -> genai.GenerationConfig:
        asked, full = genai.GenerationConfig(), self.question["visual_tokens"]
        asked.max_new_tokens = asked.min_new_tokens = new_tokens
        asked.do_sample, asked.ignore_eos, asked.apply_chat_template = False, True, False
        if tokens < full:
            asked.pruning_ratio = round(100 - 100 * tokens / full)  # percent that goes
        return asked


class _FirstAndLast(genai.StreamerBase):
    """What an answer costs up to its first token, and each token from there to the last."""

    def __init__(self) -> None:
        super().__init__()
        self.clock, self.count = Clock(), 0
        self.first: Costs = {}
        self.rest: Costs = {}

    def write(self, token: int | list[int]) -> genai.StreamingStatus:
        self.count += len(token) if isinstance(token, list) else 1
        if self.first:
            self.rest = self.clock.read("decode", self.count - 1)
        else:
            self.first = self.clock.read("first")
            self.clock.start()
        return genai.StreamingStatus.RUNNING

    def end(self) -> None:
        """Nothing is left to write."""


if __name__ == "__main__":
    libraries = ("openvino", "openvino-genai")
    serve(Contestant, lambda: {name: version(name) for name in libraries})
