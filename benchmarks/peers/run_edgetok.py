"""edgetok from Python, as a contestant of benchmarks/peers.py."""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import Any

from serve import Clock, Costs, picture, serve

import edgetok
from edgetok.runtimes.answers.model import Model

_STAGES = ("tower", "compress", "prefill")


class Contestant:
    """Options: `budgets`, the rungs to load; all when None."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.question = options["question"]
        model = edgetok.load(
            options["model"], threads=options["threads"], budgets=options.get("budgets")
        )
        parts = model.runtime, model.processor, model.digest
        self.by_cpu = Model(*parts, clock=time.process_time)
        self.by_wall = Model(*parts, clock=time.perf_counter)

    def answer(self, tokens: int, steps: int, seed: int) -> Costs:
        """An answer to a new picture by each clock; with no steps, one answer by both."""
        cpu = self._ask(self.by_cpu, tokens, steps, seed, "cpu")
        return cpu | self._ask(self.by_wall, tokens, steps, seed + 1, "wall") if steps else cpu

    def _ask(self, model: Model, tokens: int, steps: int, seed: int, unit: str) -> Costs:
        shown = picture(seed, self.question["side_px"])
        model.forget()
        clock = Clock()
        found = model.generate(
            shown,
            self.question["first"]["text"],
            budget=tokens,
            max_new_tokens=1 + steps,
            min_new_tokens=1 + steps,
        )
        whole = clock.read("first")
        spent = found.timings_ms
        out = {f"{stage}_{unit}_ms": spent[stage] for stage in _STAGES}
        out["rows"] = found.budget + found.prompt_tokens
        if not steps:
            return out | whole
        out[f"first_{unit}_ms"] = spent["ttft"]
        out[f"decode_{unit}_ms"] = spent["decode_total"] / (len(found.token_ids) - 1)
        return out

    def second(self, tokens: int, seed: int) -> Costs:
        """A second question about a picture, behind the first one's rows and from its first row."""
        first, second = (self.question[name]["text"] for name in ("first", "second"))
        image = self.by_cpu.encode(picture(seed, self.question["side_px"]))
        options = {"budget": tokens, "max_new_tokens": 1}
        self.by_cpu.generate(image, first, **options)
        clock = Clock()
        reused = self.by_cpu.generate(image, second, **options)
        out = clock.read("second")
        self.by_cpu.forget()
        clock.start()
        self.by_cpu.generate(image, second, **options)
        rows = reused.budget + reused.prompt_tokens
        return out | clock.read("anew") | {"rows": rows, "reused_rows": reused.reused_rows}


if __name__ == "__main__":
    serve(Contestant, lambda: {name: version(name) for name in ("edgetok", "onnxruntime")})
