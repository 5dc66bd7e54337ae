"""Writes docs/results.md from the JSON files that the other scripts left in docs/results/.

python benchmarks/render.py
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import common

RESULTS = common.ROOT / "docs/results"
KINDS = ("attribute", "detail", "global", "place", "reading")

Result = dict[str, Any]


def main() -> None:
    sections: Sequence[tuple[str, str, Callable[[Result], str]]] = (
        ("accuracy", "Accuracy of methods at equal budgets", _accuracy),
        ("accuracy-oracle", "What a controller could reach", _table),
        ("controller", "Certified controllers and what they save", _table),
        ("limit", "A limit on the first token while a core is loaded", _table),
        ("pace", "Limits decided on recorded times", _table),
        ("decision", "What a decision costs", _table),
        ("parity", "Graphs against PyTorch", _table),
        ("agreement", "Quantized answers against float32", _table),
        ("agreement-blame", "Which parts rounding hurts", _table),
        ("memory", "What a rung costs", _table),
        ("speed", "Speed beside Hugging Face", _table),
        ("rungs", "Rungs beside the full one and beside the machine's bounds", _table),
        ("products", "Products by how a weight is stored", _table),
        ("tower", "Towers that reduce inside, beside the plain one", _table),
        ("export_time", "What one more rung costs to export", _table),
        ("prefill", "Prefill that takes visual tokens away, beside the plain one", _table),
        ("cache", "Policies of the KV cache", _table),
        ("cache-bits", "Caches of fewer bits", _table),
        ("reuse", "Second questions and chunks behind a prompt", _table),
        ("flavours", "Portable graphs beside those of ort", _table),
        ("engines-decoder", "TensorRT engines of the decoder", _table),
        ("engines_ladder", "TensorRT engines of a whole ladder", _table),
    )
    parts = ["# Results\n", _HEAD]
    for name, title, render in sections:
        path = RESULTS / f"{name}.json"
        if path.exists():
            result = json.loads(path.read_text())
            script = f"benchmarks/{name.split('-')[0]}.py"
            machine = result["machine"]
            where = f"{machine['cores']} cores of {machine['processor']}"
            libraries = f"onnxruntime {machine['onnxruntime']}, torch {machine['torch']}"
            head = f"`{script}`: {result['title']}.\n{where}; {libraries}."
            parts.append(f"## {title}\n\n{head}\n")
            parts.append(render(result))
    (RESULTS.parent / "results.md").write_text("\n".join(parts))
    _fill("engines.md", "engines_ladder")


def _fill(page: str, name: str) -> None:
    """Put a table between its marks in a page that people write."""
    result = json.loads((RESULTS / f"{name}.json").read_text())
    path = RESULTS.parent / page
    mark, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, _, rest = path.read_text().partition(mark)
    behind = rest.partition(end)[2]
    shown = f"{result['title']}:\n\n{_table(result)}"
    path.write_text(f"{before}{mark}\n\n{shown}\n{end}{behind}")


_HEAD = """Every figure here was printed by a script of `benchmarks/`; the JSON files in `results/`
hold them with the facts of the machine. They are about the demo model (`examples/demo_vlm`), on its
evaluation questions, which no method was tuned on. They say how methods compare on this small
model, and nothing about large ones. Rows of int8 and int4 weights were measured before quantized
bundles multiplied whole numbers (CHANGELOG.md), but for the table of `products.py`.
"""


def _accuracy(result: Result) -> str:
    rows = result["rows"]
    budgets = sorted({row["tokens"] for row in rows}, reverse=True)
    lines = [_line(["percent right", *(f"{b} tokens" for b in budgets)]), _rule(len(budgets) + 1)]
    names = list(dict.fromkeys((row["method"], row["seed"]) for row in rows))
    repeated = {m for m, s in names if s}
    for method, seed in names:
        cells = [_find(rows, method, seed, b) for b in budgets]
        name = f"{method}, seed {seed}" if method in repeated else method
        lines.append(_line([name, *(f"{c['all']} ({c['low95']}–{c['high95']})" for c in cells)]))
    for kind in KINDS:
        lines += ["", f"{kind}:", "", _line(["", *(f"{b}" for b in budgets)])]
        lines.append(_rule(len(budgets) + 1))
        for method, seed in names:
            cells = [_find(rows, method, seed, b) for b in budgets]
            name = f"{method}, seed {seed}" if method in repeated else method
            lines.append(_line([name, *(str(c[kind]) for c in cells)]))
    return "\n".join(lines) + "\n"


def _find(rows: Sequence[Result], method: str, seed: int, budget: int) -> Result:
    wanted = (method, seed, budget)
    return next(r for r in rows if (r["method"], r["seed"], r["tokens"]) == wanted)


def _table(result: Result) -> str:
    columns = list(dict.fromkeys(key for row in result["rows"] for key in row))
    lines = [_line(columns), _rule(len(columns))]
    lines += [_line([_show(row.get(column, "")) for column in columns]) for row in result["rows"]]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _rule(columns: int) -> str:
    return "|" + "---|" * columns


def _show(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
