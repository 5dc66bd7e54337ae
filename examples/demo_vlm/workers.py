"""Threads that each compute the gradient of a share of a step.

On a processor that others use too, one operation split over two threads waits for the slower one;
whole shares of a step handed to whichever thread is free do not.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor, nn

Scores = dict[str, float]
Task = Callable[[], tuple[Tensor, Scores]]
Argument = TypeVar("Argument")
Result = TypeVar("Result")


class Workers:
    """A fixed number of threads, each with operations of its own."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))

    def map(
        self, function: Callable[[Argument], Result], arguments: Iterable[Argument]
    ) -> list[Result]:
        """Results of the function in the arguments' order."""
        return list(self._pool.map(function, arguments))

    def compute_gradients(self, parameters: list[nn.Parameter], tasks: Sequence[Task]) -> Scores:
        """Leaves the gradient of the tasks' mean loss in the parameters; returns mean scores."""

        def run(task: Task) -> tuple[tuple[Tensor | None, ...], Scores]:
            loss, scores = task()
            share = loss / len(tasks)
            return torch.autograd.grad(share, parameters, allow_unused=True), scores

        rows: list[Scores] = []
        for gradients, scores in self.map(run, tasks):
            rows.append(scores)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is None:
                    continue
                known = parameter.grad
                parameter.grad = gradient if known is None else known.add_(gradient)
        return average_scores(rows)


def average_scores(rows: list[Scores]) -> Scores:
    """Mean of each score over the rows that have it and are numbers."""
    names = {name for row in rows for name in row}
    means = {}
    for name in sorted(names):
        known = [row[name] for row in rows if name in row and row[name] == row[name]]
        if known:
            means[name] = sum(known) / len(known)
    return means
