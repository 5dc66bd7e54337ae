"""What a row of the comparison is, and how functions are taken out of the authors' files."""

from __future__ import annotations

import ast
import math
import subprocess
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

GRID_STEPS, RANK_STEPS = 4096, 65536
GRID = "; their cosines on our grid"  # what was compared, with `Source.take(grid=True)`


@dataclass(frozen=True)
class Source:
    """A repository of the authors at one commit."""

    folder: Path
    commit: str

    def text(self, path: str) -> str:
        """A file."""
        command = ["git", "-C", str(self.folder), "show", f"{self.commit}:{path}"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def lines(self, path: str, first: int, last: int) -> str:
        """Lines of a file, counted from 1, without comments and the indentation that they share."""
        wanted = self.text(path).split("\n")[first - 1 : last]
        return textwrap.dedent("\n".join(x for x in wanted if not x.lstrip().startswith("#")))

    def take(self, path: str, *wanted: str, grid: bool = False, **given: Any) -> SimpleNamespace:
        """Functions and classes of a file by their names, with `given` in place of its imports.

        With `grid`, its products of matrices are rounded and its sorting is stable, as ours.

        Raises:
            LookupError: if the file has no such name.
        """
        tree = ast.parse(self.text(path))
        kinds = (ast.FunctionDef, ast.ClassDef)
        nodes: list[Any] = [n for n in ast.walk(tree) if isinstance(n, kinds) and n.name in wanted]
        missing = set(wanted).difference(node.name for node in nodes)
        if missing:
            raise LookupError(f"{path} has no {', '.join(sorted(missing))}")
        for node in nodes:
            node.decorator_list = []
        if grid:
            nodes = [ast.fix_missing_locations(Rounding().visit(node)) for node in nodes]
        typing_names = dict.fromkeys(("Optional", "Tuple", "Union", "List", "Callable"), Blank())
        scope: dict[str, Any] = {
            **{"torch": torch, "nn": nn, "F": nn.functional, "math": math},
            **typing_names,
            "on_grid": on_grid,
            **given,
        }
        exec(compile(ast.Module(nodes, []), path, "exec"), scope)
        return SimpleNamespace(**{name: scope[name] for name in wanted})


class Rounding(ast.NodeTransformer):
    """Puts products of matrices on the grid, and makes sorting stable."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.op, ast.MatMult):
            return node
        return ast.Call(ast.Name("on_grid", ast.Load()), [node], [])

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("argsort", "sort"):
            node.keywords.append(ast.keyword("stable", ast.Constant(value=True)))
        return node


class CoarseRanks:
    """torch, but it sorts what is near to each other, by 1/65536 of the largest, by place."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def argsort(self, scores: Tensor, descending: bool = False, **_: Any) -> Tensor:
        """Of scores [1, n]."""
        coarse = (scores / scores.abs().max() * RANK_STEPS).round()
        return coarse.argsort(dim=-1, descending=descending, stable=True)


class Blank:
    """Stands for a name of annotations."""

    def __getitem__(self, _: object) -> Any:
        return object


@dataclass(frozen=True)
class Row:
    """A comparison.

    Args:
        system: the name of our method, policy or store.
        repository: owner/name on GitHub.
        commit: what is looked at.
        compared: what, on which inputs.
        compare: the authors' repository -> for each case, the share of what they make that ours
            makes too; 1 only where all of it is equal.
    """

    system: str
    repository: str
    commit: str
    compared: str
    compare: Callable[[Source], Iterable[float]]


def overlap(theirs: Iterable[Any], ours: Iterable[Any]) -> float:
    """Share of theirs, things that can be put into a set, that ours has."""
    wanted = set(theirs)
    return len(wanted & set(ours)) / len(wanted)


def equal_rows(theirs: Tensor, ours: Tensor, off: float = 1e-4) -> float:
    """Share of rows [n, D] that are equal in place, relative to the largest number."""
    if theirs.shape != ours.shape:
        return 0.0
    scale = float(theirs.abs().max())
    return float(((theirs - ours).abs().amax(1) <= off * scale).float().mean())


def rounded(rows: Tensor) -> list[tuple[float, ...]]:
    """The first 8 numbers of each row [n, D] to 3 places, for `overlap`."""
    return [tuple(row) for row in (rows[:, :8] * 1e3).round().tolist()]


def random_rows(n: int, widths: Iterable[int] = (64, 256), seeds: int = 4) -> Iterator[Tensor]:
    """[n, width], plain, and in clusters of rows that are nearly alike."""
    for width in widths:
        for seed in range(seeds):
            generator = torch.Generator().manual_seed(1000 * width + seed)
            rows = torch.randn(n, width, generator=generator)
            if seed % 2:
                homes = torch.randint(n // 12, (n,), generator=generator)
                rows = rows[homes] + 0.3 * torch.randn(n, width, generator=generator)
            yield rows


def on_grid(values: Tensor, steps: int = GRID_STEPS) -> Tensor:
    """To multiples of 1/4096, as ours compares cosines."""
    return (values * steps).round() / steps
