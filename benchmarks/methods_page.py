"""Writes docs/methods.md: the methods as the code states them, and what `methods_report.py` found.

python benchmarks/methods_page.py
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgetok.kv import AT_PREFILL as HELD
from edgetok.kv import POLICIES, READINGS, STORES
from edgetok.kv.table import describe_policies, describe_stores
from edgetok.methods import FRAME_METHODS, METHODS, TOWER_METHODS
from edgetok.methods.table import describe_methods
from edgetok.prefill import PREFILL_METHODS
from edgetok.prefill.table import describe_prefill

DOCS = Path(__file__).resolve().parent.parent / "docs"
RESULTS, PLOT = DOCS / "results/methods.json", DOCS / "results/methods.png"
AUTHORS = DOCS / "results/authors.json"
BASELINES = ("random", "pool")
KNOWN = METHODS | TOWER_METHODS
ALPHA = 0.05

HEAD = """# Methods

Made by `make docs` from `edgetok/methods/`, where each file says what its frozen form keeps and
loses.

"""
LEGEND = """

**Frozen form**: `exact` returns the tokens of the authors' program up to rounding; `fixed-budget`
keeps a constant number where the paper's depends on the image; `own formulation` differs in what it
computes, as the last column says. On
a tower without a CLS token, methods that rank by its attention rank by the attention that patches
receive, as an own formulation, and those that read something else of it are refused.

**Differs from the authors' program**: their functions and ours got the same tensors; a percentage
is the share of their kept tokens, or of their groups, that ours has too
([all comparisons](#beside-the-authors-programs)). `nothing` means all of them. Rounding decides
where scores nearly agree: similarities are compared on a grid of 1/4096 here, so that every runtime
keeps the same tokens, and the authors' own programs in half and in single precision keep sets that
differ as much or more. `not compared`: no program was found, or
nobody has run it beside ours.

**FLOPs** of choosing and mixing, for N visual tokens of the tower, K kept, rows of width D, keys
of width H: two for each multiplication in a matrix product, one for each number that any other
arithmetic, comparison or reduction makes or reads; sorting and gathering count nothing.
`tests/methods/test_cost.py` holds them against what runs. Methods that compare projected tokens
run the projector on N rows, the others on K. T is the rows of the prompt. A method
inside the tower saves and spends there: `benchmarks/tower.py` counts and times whole towers, see
[results.md](results.md). MCTF, which merges the attention maps of all heads along with
its rows, is slower than the plain tower of the demo model.
"""

OF_FRAMES = """
## Several pictures, or frames of a video

`edgetok export --images N` makes a bundle for prompts of N pictures, which share each budget
([frames.md](frames.md)). With the methods above, but for those inside the tower, each picture has
an equal share. These divide it by what the pictures show, or by what the user says; their cost is
not stated.

"""
AT_PREFILL = """
## Reduction at prefill

`edgetok export --prefill NAME[:RATIO]` takes visual tokens away between the layers of the decoder,
behind any of the methods above. Made from `edgetok/prefill/`. Layer numbers of papers, which have
decoders of 32 layers, are scaled to the depth of the model; FastV's layer 2 is not. The first layer
always sees all tokens. A ratio of 1 is the plain decoder. Each layer's KV cache is as long as what
is left there, and the bundle says so (`edgetok inspect`). A plan file in place of a name gives each
layer a share of its own; `benchmarks/plan.py` finds one on calibrate samples by G-Search and
P-Sigmoid (arXiv 2412.00556).

"""
AT_PREFILL_LEGEND = """

**Reads**: attention of the layer before the cut or behind it, of a few probe rows beside the fused
operator. `visiondrop`, `atp-llava` and `vasparse` ask from all visual rows and `aim` from all rows,
because their papers do. Keys of a layer that has not run yet are projected once more for the
probe, as are queries of the rows that ask, and those two matrices are stored a second time.

**Positions**: `kept` rows have the rotary position that they had; `renumbered` ones are counted
anew behind each cut, and so are the tokens of the answer.
"""


def main() -> None:
    report = json.loads(RESULTS.read_text()) if RESULTS.exists() else None
    (DOCS / "methods.md").write_text(render(report), encoding="utf-8")
    if report:
        plot(report, PLOT)


IN_CACHE = """
## Policies of the KV cache

`edgetok export --kv-policy NAME --kv-slots ROWS` gives each layer a cache of constant size. When a
layer is full, the policy says which rows stay. Made from `edgetok/kv/policies/`; what they cost is
in [results.md](results.md). With `renumbered` positions a conversation has no end. `tidaldecode`
takes nothing away and has no slots: `--kv-reads ROWS` says how many rows a step reads instead.

"""

IN_STORES = """
## Stores of the KV cache

`edgetok export --kv NAME` says how rows are held. `int8` and `int4` round with scales that are
measured on `--samples`, `fp16` converts; these follow papers, and need no samples. Made from
`edgetok/kv/stores/`; their buffers are in [bundle-files.md](bundle-files.md).

"""


BESIDE = """
## Beside the authors' programs

`benchmarks/authors` takes functions out of the authors' files, at the commits named, and hands them
and ours the same tensors: random ones, plain, in clusters or peaked, of the shapes that their
models have. **Share** is how much of what theirs makes (kept tokens, groups, merged rows) ours
makes too, mean over the cases; **equal** counts the cases in which that is all of it. "On our grid"
runs their code with its cosines rounded, and its sorting stable, as ours: where that makes all
cases equal, rounding is the whole difference.

| method | authors' code | compared | equal | share, % |
|---|---|---|---|---|
"""


def describe_authors(found: Sequence[dict[str, Any]]) -> str:
    """What `benchmarks/authors` found, a row for each comparison."""
    return BESIDE + "".join(
        f"| `{row['system']}` | {row['code']} | {row['compared']} | {row['equal']} of "
        f"{row['cases']} | {100 * row['overlap']:.1f} |\n"
        for row in found
    )


def render(report: dict[str, Any] | None) -> str:
    """The whole page; without a report, what the code states."""
    late = AT_PREFILL + describe_prefill(PREFILL_METHODS.values()) + AT_PREFILL_LEGEND
    policies = [*POLICIES.values(), *READINGS.values(), *HELD.values()]
    cache = IN_CACHE + describe_policies(policies) + "\n"
    cache += IN_STORES + describe_stores(STORES) + "\n"
    frames = OF_FRAMES + describe_methods(FRAME_METHODS.values()) + "\n"
    page = HEAD + describe_methods(KNOWN.values()) + LEGEND + frames + late + cache
    page += describe_authors(json.loads(AUTHORS.read_text()))
    return page + _accuracy(report) if report else page


def _accuracy(report: dict[str, Any]) -> str:
    rows = report["rows"]
    budgets = sorted({row["tokens"] for row in rows}, reverse=True)
    names = sorted({(row["method"], row["seed"]) for row in rows}, key=lambda n: _rank(rows, n))
    machine = report["machine"]
    text = f"""
## Accuracy on the demo model

`benchmarks/methods_report.py` (five questions to each of `--images`) on {report["title"]} of the
demo model's evaluation range, which no method was tuned on; PyTorch {machine["torch"]}, float32,
weights {report["weights_sha256"][:12]}.
Percent right with Wilson's 95 % interval. **r** and **p** mark what is not better than random
choice (the best of its seeds) or than pooling: more questions won than lost, and p below {ALPHA}
in McNemar's exact test on the same questions. Questions about one image count as independent, and
no correction is made for the number of comparisons. A method that cannot make a number of tokens
gets the next lower one that it can. The outcomes equal those of generation with an exported
bundle on {report["agreement"]}.

![accuracy of every method at each budget](results/methods.png)

"""
    text += _table(rows, names, budgets, _with_interval)
    for kind in rows[0]["kinds"]:
        cell = lambda row, kind=kind: _percent(row["kinds"][kind])  # noqa: E731
        text += f"\n{kind}:\n\n" + _table(rows, names, budgets, cell)
    return text


def _rank(rows: Sequence[dict[str, Any]], name: tuple[str, int]) -> tuple[int, Any, Any]:
    """The order of the table: as METHODS has them, what is no method first."""
    method, seed = name
    return (list(KNOWN).index(method) if method in KNOWN else -1), method, seed


def _table(
    rows: Sequence[dict[str, Any]], names: Sequence[tuple[str, int]], budgets: Any, cell: Any
) -> str:
    by_key = {(row["method"], row["seed"], row["tokens"]): row for row in rows}
    lines = [["", *(str(b) for b in budgets)], ["---"] * (1 + len(budgets))]
    for method, seed in names:
        drawn = any(m == method and s for m, s in names)
        title = f"{method}, seed {seed}" if drawn else method
        found = [by_key.get((method, seed, b)) for b in budgets]
        lines.append([title, *(cell(row) if row else "" for row in found)])
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _percent(score: dict[str, Any]) -> str:
    return f"{100 * score['right'] / score['of']:.1f}"


def _with_interval(row: dict[str, Any]) -> str:
    low, high = (f"{100 * row['all'][end]:.1f}" for end in ("low", "high"))
    marks = "".join(f" **{b[0]}**" for b in BASELINES if b in row and not is_better(row[b]))
    return f"{_percent(row['all'])} ({low}–{high}){marks}"


def is_better(test: dict[str, Any]) -> bool:
    """Whether a paired test speaks for the method and against the baseline."""
    return bool(test["wins"] > test["losses"] and test["p"] < ALPHA)


def plot(report: dict[str, Any], path: Path) -> None:
    """One panel per budget: every method with its interval, and lines at the baselines."""
    from matplotlib.figure import Figure  # without pyplot no display is looked for

    rows = [row for row in report["rows"] if row["method"] != "all tokens"]
    budgets = sorted({row["tokens"] for row in rows}, reverse=True)
    tallest = max(sum(row["tokens"] == b for row in rows) for b in budgets)
    figure = Figure(figsize=(3.2 * len(budgets), 1 + 0.19 * tallest), layout="constrained")
    panels = figure.subplots(1, len(budgets), sharex=True, squeeze=False)[0]
    for axes, budget in zip(panels, budgets, strict=True):
        _draw_panel(axes, [row for row in rows if row["tokens"] == budget])
        axes.set_title(f"{budget} tokens", fontsize=9)
    figure.supxlabel("percent right (95 % intervals)", fontsize=8)
    figure.savefig(path, dpi=80, metadata={"Software": None})


def _draw_panel(axes: Any, rows: list[dict[str, Any]]) -> None:
    rows = sorted(rows, key=lambda row: row["all"]["right"])
    for place, row in enumerate(rows):
        share, low, high = (100 * v for v in (_share(row), row["all"]["low"], row["all"]["high"]))
        better = all(is_better(row[b]) for b in BASELINES if b in row)
        colour = "black" if row["method"] in BASELINES else "tab:blue" if better else "silver"
        axes.plot([low, high], [place, place], color=colour, linewidth=1)
        axes.plot([share], [place], ".", color=colour)
    for baseline in BASELINES:
        own = [100 * _share(row) for row in rows if row["method"] == baseline]
        if own:
            axes.axvline(max(own), color="black", linewidth=0.5, linestyle=":")
    axes.set_yticks(range(len(rows)), [row["method"] for row in rows], fontsize=6)
    axes.tick_params(axis="x", labelsize=6)


def _share(row: dict[str, Any]) -> float:
    return float(row["all"]["right"] / row["all"]["of"])


if __name__ == "__main__":
    main()
