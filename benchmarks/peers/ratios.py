"""Ratios of one run of benchmarks/peers.py: edgetok's median divided by that of a peer."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

OURS, INT8, FLOAT = "edgetok int4", "edgetok int8", "edgetok float32"
INSIDE = "edgetok int4, half of the groups"
CPP, OPENVINO, GENAI = "edgetok int4, C++", "openvino.genai int4", "onnxruntime-genai int4"
LLAMA, LLAMA4, LLAMA8 = "llama.cpp Q4_0, head Q8_0", "llama.cpp Q4_0", "llama.cpp Q8_0"
PLAIN = ", no flash attention"
LLAVA, QWEN, DEMO = "llava135", "qwen297", "demo"
FULL, TEXT_TOKENS = 576, 64  # of llava135, and of the first question
QWEN_TOKENS = (256, 128, 64, 26)


class Report:
    """What benchmarks/peers.py wrote; a value that was not measured is None."""

    def __init__(self, found: dict[str, Any]) -> None:
        self.found = found
        self.models: dict[str, dict[str, Any]] = found["models"]

    def cost(
        self, model: str, who: str, tokens: int, name: str, do: str = "answer", threads: int = 1
    ) -> float | None:
        """The median over rounds of one figure, such as `first_cpu_ms`."""
        rows = self.rows(model, "answers", contestant=who, tokens=tokens, do=do, threads=threads)
        return _median(rows, name)

    def started(self, who: str, start: str, name: str) -> float | None:
        """The median over starts on llava135."""
        return _median(self.rows(LLAVA, "starts", contestant=who, start=start), name)

    def command(self, name: str) -> float | None:
        """Processor milliseconds of a command on the demo model."""
        return _median(self.rows(DEMO, "commands", command=name), "cpu_ms")

    def made(self, model: str, name: str, what: str) -> float | None:
        """`cpu_s`, `peak_bytes` or `bytes` of a file."""
        return self.models.get(model, {}).get("made", {}).get(name, {}).get(what)

    def work(self, model: str, rows: int) -> dict[str, dict[str, float]]:
        """Operations by stage, of a prompt of so many rows; empty where they were not counted."""
        counted = self.models.get(model, {}).get("operations", {})
        found: dict[str, dict[str, float]] = counted.get(str(rows), {})
        return found

    def bound_ms(self, model: str, rows: int, stage: str, threads: int = 1) -> float | None:
        """Time of a stage at the peak of 8-bit products, attention at that of floats."""
        work = self.work(model, rows)
        peak = next((b for b in self.found["bounds"] if b["threads"] == threads), None)
        if not work or peak is None or not peak["int8_gop_s"]:
            return None
        products, attention = work[stage]["products"], work[stage]["attention"]
        return 1e3 * (products / peak["int8_gop_s"] + attention / peak["float_gop_s"])

    def fastest(self, people: Sequence[str], tokens: int, name: str) -> float | None:
        """The least of the medians of some contestants on texts of llava135."""
        found = [self.cost(LLAVA, who, tokens, name, "text") for who in people]
        return min((value for value in found if value is not None), default=None)

    def rows(self, model: str, kind: str, **wanted: object) -> list[dict[str, Any]]:
        """`answers`, `starts` or `commands` of a model, those that are as wanted."""
        rows = self.models.get(model, {}).get(kind, [])
        return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def _median(rows: Sequence[dict[str, Any]], name: str) -> float | None:
    found = [costs[name] for row in rows for costs in row["rounds"] if name in costs]
    return statistics.median(found) if found else None


@dataclass(frozen=True)
class Line:
    """A line of the page's first table.

    Args:
        value: a ratio, or what `unit` says.
        aim: that was set before; more is better where `more`.
        other: whether another program's figure is what edgetok's is divided by.
    """

    what: str
    value: float | None
    aim: float
    unit: str = ""
    more: bool = False
    other: bool = True

    @property
    def is_behind(self) -> bool:
        """Whether another program is better, whatever was aimed at."""
        ratio = self.other and not self.unit and not self.more
        return ratio and self.value is not None and self.value > 1

    @property
    def missed(self) -> bool:
        if self.value is None:
            return False
        return self.value < self.aim if self.more else self.value > self.aim


def divide(ours: float | None, theirs: float | None) -> float | None:
    """A ratio; None where either is not known."""
    return None if ours is None or not theirs else ours / theirs


def list_lines(report: Report, qwen_2b_mb: float) -> Iterator[Line]:
    """Everything that was aimed at."""
    yield from _first_tokens(report)
    yield from _qwen(report)
    yield from _stages(report)
    yield from _memory(report, qwen_2b_mb)
    yield from _making(report)


def _first_tokens(report: Report) -> Iterator[Line]:
    def first(who: str, tokens: int) -> float | None:
        return report.cost(LLAVA, who, tokens, "first_cpu_ms")

    few, all_tokens = first(OURS, 64), first(OURS, FULL)
    openvino, llama = first(OPENVINO, FULL), first(LLAMA, FULL)
    head = "first token with a picture, int4"
    yield Line(f"{head}: 64 tokens / openvino.genai with all 576", divide(few, openvino), 0.40)
    yield Line(f"{head}: 576 tokens / openvino.genai", divide(all_tokens, openvino), 0.9)
    yield Line(f"{head}: 576 tokens / llama.cpp with mtmd", divide(all_tokens, llama), 0.4)
    for who, name in ((OURS, "int4"), (INT8, "int8")):
        for tokens in (64, FULL):
            ratio = divide(first(who, tokens), first(FLOAT, tokens))
            yield Line(
                f"first token, {tokens} tokens: {name} / our own float32", ratio, 0.5, other=False
            )


def _qwen(report: Report) -> Iterator[Line]:
    """Of several counts of tokens, the worst."""
    for who, name, aim in (
        (OURS, "exact tower", 0.95),
        (INSIDE, "half of the groups left after a quarter of the blocks", 0.55),
    ):
        pairs = [
            [report.cost(QWEN, each, tokens, "first_cpu_ms") for each in (who, OPENVINO)]
            for tokens in QWEN_TOKENS
        ]
        ratios = [ratio for a, b in pairs if (ratio := divide(a, b)) is not None]
        what = f"Qwen2-VL of 297 M, first token / openvino.genai with CDPruner: {name}"
        yield Line(what, max(ratios, default=None), aim)


def _stages(report: Report) -> Iterator[Line]:
    def ours(who: str, tokens: int, name: str) -> float | None:
        return report.cost(LLAVA, who, tokens, name)

    for tokens in (64, FULL):
        rows = tokens + TEXT_TOKENS
        theirs = report.fastest([LLAMA, LLAMA4, LLAMA + PLAIN], rows, "prefill_cpu_ms")
        ratio = divide(ours(OURS, tokens, "prefill_cpu_ms"), theirs)
        yield Line(f"prefill of {tokens} + 64 rows / llama.cpp Q4_0", ratio, 0.45)
    for who, peer, name in (
        (OURS, LLAMA, "int4 with an int8 head / llama.cpp Q4_0 with a Q8_0 head"),
        (INT8, LLAMA8, "int8 / llama.cpp Q8_0"),
    ):
        theirs = report.fastest([peer, peer + PLAIN], FULL + TEXT_TOKENS, "decode_cpu_ms")
        ratio = divide(ours(who, FULL, "decode_cpu_ms"), theirs)
        yield Line(f"decode at 640 rows: {name}", ratio, 0.95)
    again, anew = (
        report.cost(LLAVA, OURS, 64, f"{n}_cpu_ms", "second") for n in ("second", "anew")
    )
    yield Line(
        "a second question of 45 tokens / its prefill anew, 64 tokens",
        divide(again, anew),
        0.4,
        other=False,
    )
    for stage, tokens, aim in (("tower", FULL, 0.7), ("prefill", FULL, 0.6)):
        bound = report.bound_ms(LLAVA, tokens + TEXT_TOKENS, stage)
        share = divide(bound, ours(OURS, tokens, f"{stage}_cpu_ms"))
        yield Line(
            f"share of the int8 bound that {stage} reaches, 576 tokens", share, aim, more=True
        )


def _memory(report: Report, qwen_2b_mb: float) -> Iterator[Line]:
    def bytes_of(*names: str) -> float | None:
        found = [report.made(LLAVA, name, "bytes") for name in names]
        return None if None in found else sum(value for value in found if value is not None)

    files = divide(
        bytes_of("edgetok-int4.bundle"), bytes_of("decoder-Q4_0.gguf", "tower-Q8_0.gguf")
    )
    yield Line("int4 bundle / llama.cpp's files, Q4_0 with tower Q8_0", files, 1.0)
    yield Line("int4 bundle of Qwen2-VL-2B's shape (families.md)", qwen_2b_mb, 1550, "MB")
    one = report.started(OURS, "one rung", "private_bytes")
    four = report.started(OURS, "four rungs", "private_bytes")
    theirs = report.started(LLAMA, "", "private_bytes")
    yield Line("private memory after an answer / llama.cpp's", divide(one, theirs), 0.9)
    yield Line("the same, four rungs / one rung", divide(four, one), 1.06, other=False)


def _making(report: Report) -> Iterator[Line]:
    ours = report.started(OURS, "one rung", "first_answer_cpu_ms")
    theirs = report.started(LLAMA, "", "first_answer_cpu_ms")
    yield Line(
        "load to first answer, 64 tokens / llama.cpp with its tower", divide(ours, theirs), 0.5
    )
    exported = report.made(LLAVA, "edgetok-int4.bundle", "cpu_s")
    converted = report.made(LLAVA, "openvino-int4", "cpu_s")
    yield Line(
        "export of four rungs, int4 / optimum-cli to OpenVINO", divide(exported, converted), 1.0
    )
    yield Line("`edgetok run` on the demo model", report.command("edgetok run"), 400, "ms")
