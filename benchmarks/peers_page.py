"""Write docs/performance.md from what benchmarks/peers.py measured.

python benchmarks/peers.py --json docs/results/peers.json
python benchmarks/peers_page.py
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from peers import ratios  # noqa: E402
from peers.ratios import FULL, LLAVA, QWEN, QWEN_TOKENS, Report  # noqa: E402

RESULTS = ROOT / "docs/results/peers.json"
REAL_SIZES = ROOT / "docs/results/real-sizes.json"
PAGE = ROOT / "docs/performance.md"

HEAD = """# Performance beside others

Made by `make docs` from `docs/results/peers.json`, which `benchmarks/peers.py` writes: edgetok,
llama.cpp, openvino.genai and onnxruntime-genai on the same random checkpoints, all that run a
checkpoint in one run. Weights are random, so nothing is said here about answers;
[results.md](results.md) does that.

"""
AIMS = """
## What was aimed at, and where edgetok falls short

Ratios of medians: edgetok's figure divided by the other's, so below 1 edgetok is the better one.
Processor time, one thread. **Bold** is what misses its aim.

| what | measured | aim |
|---|---|---|
"""
LOSES = """
Edgetok is behind, whatever was aimed at, in: {}.
"""
ONE = """
## A picture and a question, one thread

Processor milliseconds. `llava135` is a LLaVA of CLIP-B/14 at 336 pixels (576 visual tokens, 11 of
12 blocks are run) and a decoder of 135 M with a head of its own; the question has 64 tokens. A
decoder that was given text alone has no tower. Each contestant's share for the tower is its own
account of it; openvino.genai's is taken from wall times.

"""
TWO = """
## The same on two threads

Wall milliseconds. They need two free cores: the load average of the run says whether there were.

"""
QWENS = """
## Qwen2-VL, where openvino.genai prunes as well

`qwen297`: Qwen2-VL of 297 M (text 896 wide, 12 layers; tower 640 wide, 16 blocks), 448 pixels, 256
visual tokens; a question of 64 tokens. openvino.genai's CDPruner is made for Qwen-VL alone. It
removes a percentage, and rounds up to even counts. Processor milliseconds, one thread; beside the
first token, its tower and its prefill.

"""
STARTS = """
## Loading, first answer, memory

Each line is a process of its own, started anew in every round; processor milliseconds from its
start, one thread. edgetok answers at 64 tokens first, and then at every rung that it has loaded;
the others at all 576. Private memory is what no file holds, after all those answers.

| contestant | loaded, ms | first answer, ms | private, loaded, MiB | private, after answers, MiB |
|---|---|---|---|---|
"""
FILES = """
## Files, and what they cost to make

Exports of edgetok include the proof of every graph against PyTorch; the others' conversions prove
nothing.

| model | file | MB | processor s | peak memory, MiB |
|---|---|---|---|---|
"""
BOUNDS = """
## Bounds

What `benchmarks/peers/bounds.c` measured: reading memory, multiply-adds of float32, and products
of 8 bits added into 32 (VPDPBUSD or SDOT), both in registers; an operation is a multiplication or
an addition. No program can be faster.

| threads | reading {}, GB/s | float32, Gop/s | int8, Gop/s |
|---|---|---|---|
"""
STAGES = """
What the stages of edgetok's int4 bundle need at least, if every product with weights ran at the
int8 peak and attention at that of float32, and what they took (one thread, processor ms):

| model | stage | products, Gop | attention, Gop | bound, ms | took, ms | share of the bound |
|---|---|---|---|---|---|---|
"""
COMMANDS = """
## Starting a command

Processor milliseconds of a command on the demo model (int8 weights and cache), from nothing to its
end.

| command | ms |
|---|---|
"""
METHOD = """
## Method

- Every contestant is a process in an environment of its own, loaded once. Every round asks each of
  them everything once, in turn, so that whatever else the machine does hits all of them alike. A
  round before the first is not counted. The figures are medians over the rounds.
- Processor time is that of the process, all its threads together: `time.process_time`, or
  `getrusage` in C++. With one thread it is what an idle core takes. A core that is shared with
  other work, or with another machine's, still makes it longer, because caches and units are shared.
- Each answer is to a new picture of noise, and edgetok forgets the one before, so no cache of
  pictures or prefixes helps. Answers are greedy, of 33 tokens (17 on Qwen); ends are ignored.
- All contestants read equally many rows, and a run stops where one does not. openvino.genai adds a
  line break behind a picture.
- Files are made from one checkpoint in float32. edgetok: int4 or int8 weights, int8 KV cache,
  `visionzip`. llama.cpp: Q4_0 or Q8_0, tower Q8_0, float16 cache, compiled for this processor; with
  and without fused attention (the faster one counts in ratios). openvino.genai: int4 as
  optimum-intel makes it by default, in groups of 64 where 128 do not divide a width.
  onnxruntime-genai: int4 by its own builder, the decoder alone.
- A second question is asked about a picture that is encoded already: behind the rows of the first
  question's picture, and from the first row on.
"""


def render(report: Report, qwen_2b_mb: float) -> str:
    """The page."""
    lines = list(ratios.list_lines(report, qwen_2b_mb))
    parts = [HEAD, _facts(report), AIMS, *map(_line, lines)]
    behind = [line.what for line in lines if line.is_behind]
    parts += [LOSES.format("; ".join(behind) or "nothing"), _failures(report)]
    parts += [ONE, *_answers(report, 1), TWO, *_answers(report, 2), QWENS, *_qwen(report)]
    parts += [STARTS, *_starts(report), FILES, *_files(report), *_bounds(report)]
    parts += [STAGES, *_stages(report), COMMANDS, *_commands(report), METHOD]
    return "".join(parts)


def _row(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    yield _row(head)
    yield "|" + "---|" * len(head) + "\n"
    yield from map(_row, rows)


def _ms(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _mib(value: float | None) -> str:
    return "–" if value is None else f"{value / 2**20:.0f}"


def _line(line: ratios.Line) -> str:
    if line.value is None:
        shown = "not measured"
    else:
        shown = f"{line.value:.0f} {line.unit}" if line.unit else f"{line.value:.2f}"
    aim = f"{line.aim:.0f} {line.unit}" if line.unit else f"{line.aim:.2f}"
    bold = "**" if line.missed else ""
    limit = "at least" if line.more else "at most"
    return _row([line.what, f"{bold}{shown}{bold}", f"{limit} {aim}"])


def _facts(report: Report) -> str:
    machine = report.found["machine"]
    versions: dict[str, str] = {}
    for model in report.models:
        for row in report.rows(model, "answers"):
            versions |= row["versions"]
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    loads = [
        costs["load"]
        for model in report.models
        for row in [*report.rows(model, "answers"), *report.rows(model, "commands")]
        for costs in row["rounds"]
    ]
    commits = dict.fromkeys(model["commit"] for model in report.models.values())
    load = f"{min(loads):.1f} to {max(loads):.1f}"
    return (
        f"{machine['cores']} cores of {machine['processor']}, {machine['memory_mib']} MiB; load "
        f"average {load}. {told}; exported with torch {machine['torch']}, transformers "
        f"{machine['transformers']}. Commit {', '.join(commits)}.\n"
    )


def _failures(report: Report) -> str:
    failed = [
        f"- `{model}/{name}` could not be made: {why}\n"
        for model, found in report.models.items()
        for name, why in found["failed"].items()
    ]
    return "\n" + "".join(failed) if failed else ""


def _contestants(report: Report, model: str) -> list[str]:
    return list(dict.fromkeys(row["contestant"] for row in report.rows(model, "answers")))


def _answers(report: Report, threads: int) -> Iterator[str]:
    """A row per contestant on llava135: pictures, and texts of as many rows."""
    unit = "cpu" if threads == 1 else "wall"
    few, full = 64, FULL

    def cell(who: str, tokens: int, name: str) -> str:
        found = report.cost(LLAVA, who, tokens, f"{name}_{unit}_ms", "answer", threads)
        if found is None and name in ("prefill", "decode"):
            rows = tokens + ratios.TEXT_TOKENS
            found = report.cost(LLAVA, who, rows, f"{name}_{unit}_ms", "text", threads)
        return _ms(found)

    asked = [(full, "tower"), (few, "prefill"), (full, "prefill"), (few, "first"), (full, "first")]
    asked += [(few, "decode"), (full, "decode")]
    head = ["", "tower", "prefill of 64 + 64", "of 576 + 64", "first token, 64 tokens"]
    head += ["576 tokens", "decode at 128 rows, ms per token", "at 640 rows"]
    rows = [[who, *(cell(who, *a) for a in asked)] for who in _contestants(report, LLAVA)]
    return _table(head, [row for row in rows if set(row[1:]) != {"–"}])


def _qwen(report: Report) -> Iterator[str]:
    def cell(who: str, tokens: int) -> str:
        parts = [
            _ms(report.cost(QWEN, who, tokens, f"{name}_cpu_ms"))
            for name in ("first", "tower", "prefill")
        ]
        return f"{parts[0]} ({parts[1]}, {parts[2]})"

    people = _contestants(report, QWEN)
    yield from _table(
        ["", *(f"{tokens} tokens" for tokens in QWEN_TOKENS), "decode at 64, ms per token"],
        [
            [
                who,
                *(cell(who, tokens) for tokens in QWEN_TOKENS),
                _ms(report.cost(QWEN, who, 64, "decode_cpu_ms")),
            ]
            for who in people
        ],
    )


def _starts(report: Report) -> Iterator[str]:
    for row in report.rows(LLAVA, "starts"):
        who, start = row["contestant"], row["start"]
        name = f"{who}, {start}" if start else who
        times = [report.started(who, start, f"{n}_cpu_ms") for n in ("loaded", "first_answer")]
        memory = [report.started(who, start, f"{n}_bytes") for n in ("loaded", "private")]
        yield _row([name, *map(_ms, times), *map(_mib, memory)])


def _files(report: Report) -> Iterator[str]:
    for model, found in report.models.items():
        for name, cost in found["made"].items():
            shown = [f"{cost['bytes'] / 1e6:.0f}", f"{cost['cpu_s']:.0f}"]
            yield _row([model, f"`{name}`", *shown, _mib(cost["peak_bytes"])])


def _bounds(report: Report) -> Iterator[str]:
    found = report.found["bounds"]
    yield BOUNDS.format(" / ".join(found[0]["read_gb_s"]))
    for bound in found:
        read = " / ".join(f"{value:.0f}" for value in bound["read_gb_s"].values())
        peaks = [_ms(bound[name]) for name in ("float_gop_s", "int8_gop_s")]
        yield _row([bound["threads"], read, *peaks])


def _stages(report: Report) -> Iterator[str]:
    wanted = [(LLAVA, FULL, "tower"), (LLAVA, 64, "prefill"), (LLAVA, FULL, "prefill")]
    wanted += [(QWEN, 256, "tower"), (QWEN, 64, "prefill"), (QWEN, 256, "prefill")]
    for model, tokens, stage in wanted:
        rows = tokens + ratios.TEXT_TOKENS
        bound = report.bound_ms(model, rows, stage)
        took = report.cost(model, ratios.OURS, tokens, f"{stage}_cpu_ms")
        work = report.work(model, rows).get(stage, {})
        share = ratios.divide(bound, took)
        name = stage if stage == "tower" else f"prefill of {rows} rows"
        counts = [_ms(work.get(kind)) for kind in ("products", "attention")]
        shown = "–" if share is None else f"{share:.2f}"
        yield _row([model, name, *counts, _ms(bound), _ms(took), shown])


def _commands(report: Report) -> Iterator[str]:
    for row in report.rows(ratios.DEMO, "commands"):
        yield _row([f"`{row['command']}`", _ms(report.command(row["command"]))])


def read_inputs() -> tuple[Report, float]:
    """The report, and the megabytes of Qwen2-VL-2B's int4 bundle that families.md tells."""
    sizes = json.loads(REAL_SIZES.read_text())["rows"]
    qwen = next(row["bundle, MB"] for row in sizes if row["model"] == "qwen2-vl-2b")
    return Report(json.loads(RESULTS.read_text())), qwen


if __name__ == "__main__":
    PAGE.write_text(render(*read_inputs()), encoding="utf-8")
