"""Writing what a prompt is into the inputs of graphs, each by its name."""

from __future__ import annotations

import numpy as np

from edgetok import names
from edgetok.errors import UsageError
from edgetok.runtimes.backends.backend import Graph, Tensor
from edgetok.runtimes.runtime.protocol import FloatArray, TextRows, VisualTokens
from edgetok.runtimes.runtime.requirements import require_rows, require_tokens, require_visual


def feed_rows(rows: Tensor, embeds: FloatArray) -> None:
    """A prompt [n, D] into rows [1, S, D]."""
    count = len(embeds)
    rows.host[0, :count] = embeds
    rows.host[0, count:] = 0  # never read, but must be finite
    rows.push()


def feed_visual(
    graph: Graph, budget: int, count: int, start: int | None, visual: VisualTokens | None
) -> int:
    """What prefill asks of the visual rows of a prompt of `count` rows; the first one, 0 if nobody
    asks.

    Raises:
        InputError: if they do not lie before the last row.
        UsageError: if something is asked that is not given.
    """
    inputs, first = graph.inputs, 0
    if names.VISUAL_START in inputs:
        first = require_visual(start, budget, count)
        inputs[names.VISUAL_START].write(np.array([first], np.int64))
    if names.VISUAL_KEPT in inputs:
        inputs[names.VISUAL_KEPT].write(require_tokens(visual, budget).kept)
    if names.VISUAL_DEEP in inputs:
        deep = require_tokens(visual, budget).deep
        if deep is None:
            raise UsageError("this bundle adds to visual rows; give tokens of its own `compress`")
        inputs[names.VISUAL_DEEP].write(deep)
    return first


def feed_prompt(name: str, buffer: Tensor, text: TextRows | None) -> None:
    """A prompt, or where the question is in it, into what a text-aware method reads.

    Raises:
        InputError: if it has more rows than the graph has room for.
        UsageError: if there is none.
    """
    if text is None:
        raise UsageError("this bundle's method looks at the prompt; give its text rows as well")
    count, rows = len(text.rows), buffer.host
    require_rows(count, len(rows), "text tokens")
    if name == names.TEXT_EMBEDS:
        rows[:count] = text.rows  # mostly its own memory: `embed` writes where this graph reads
        rows[count:] = 0  # never read, but must be finite
    else:
        rows.fill(0)
        rows[text.question.start : text.question.stop] = 1
    buffer.push()
