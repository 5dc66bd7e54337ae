"""Cuts against plain loops: the same tokens, whatever stands in the padding."""

from __future__ import annotations

import importlib.util
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from edgetok.prefill import PREFILL_METHODS
from edgetok.prefill.look import Look
from edgetok.prefill.probes import Probe, Span

HEADS, GROUPS, WIDTH, HIDDEN, GATES = 4, 2, 8, 24, 40
MIXING = ("visiondrop", "sparsevlm")
CUTS = [name for name, method in PREFILL_METHODS.items() if method.cut is not None]


@pytest.fixture(scope="module")
def loops() -> ModuleType:
    name, path = "prefill_loops", Path(__file__).with_name("loops.py")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Prompt:
    """Random rows of a prompt: text, visual tokens, text; `entered` has visual rows more."""

    def __init__(self, start: int, count: int, after: int, seed: int, gone: int = 3) -> None:
        self.start, self.count, self.after = start, count, after
        self.rows = start + count + after
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        self.asks = [draw(HEADS, self.rows, WIDTH) for _ in range(2)]
        self.keys = [draw(GROUPS, self.rows, WIDTH) for _ in range(2)]
        self.hidden, self.gates = draw(self.rows, HIDDEN), draw(self.rows, GATES)
        self.entered = 0.3 * draw(self.rows + gone, HIDDEN)
        self.gone = gone
        self.places = 1 + 0.2 * draw(self.rows, 6)
        self.norm = 1 + 0.3 * draw(HIDDEN)

    def maps(self, layer: int) -> np.ndarray:
        """Causal attention [heads, n, n] in float64, head by head."""
        found = np.zeros((HEADS, self.rows, self.rows))
        for head in range(HEADS):
            query = self.asks[layer][head].double().numpy()
            key = self.keys[layer][head // (HEADS // GROUPS)].double().numpy()
            for row in range(self.rows):
                logits = query[row] @ key[: row + 1].T / WIDTH**0.5
                weights = np.exp(logits - logits.max())
                found[head, row, : row + 1] = weights / weights.sum()
        return found

    def seen(self, loops: ModuleType) -> object:
        return loops.Seen(
            before=self.maps(0),
            behind=self.maps(1),
            keys=self.keys[1].double().numpy(),
            hidden=self.hidden.double().numpy(),
            entered=self.entered.double().numpy(),
            gates=self.gates.double().numpy(),
            keys_before=self.keys[0].double().numpy(),
            places=self.places.double().numpy(),
            norm=self.norm.double().numpy(),
            start=self.start,
            count=self.count,
        )

    def look(self, room: int, junk: float) -> Look:
        """As a graph has it: `room` rows for text in all, the rest of them filled with `junk`."""
        rows = self.count + room
        span = Span(
            torch.tensor([self.start]), torch.tensor([self.rows - 1]), self.count, room, rows
        )

        def fill(part: Tensor, rows: int = rows) -> Tensor:
            shape = [*part.shape[:-2], rows - part.shape[-2], part.shape[-1]]
            return torch.cat([part, torch.full(shape, junk)], dim=-2)

        places = fill(self.places)
        probes = [
            Probe(partial((fill(ask) * WIDTH**-0.5).index_select, 1), fill(key), span, places)
            for ask, key in zip(self.asks, self.keys, strict=True)
        ]
        wide = Span(
            span.start, span.last + self.gone, self.count + self.gone, room, rows + self.gone
        )
        entered = fill(self.entered, wide.rows)
        hidden, gates = fill(self.hidden), fill(self.gates)
        return Look(
            visual=hidden[span.visual_rows()],
            text=hidden[span.text_rows()],
            is_text=span.is_text(),
            visual_input=entered[wide.visual_rows()],
            text_input=entered[wide.text_rows()],
            previous=probes[0],
            next=probes[1],
            gates=(gates[span.visual_rows()], gates[self.rows - 1]),
            layer=2,
            norm=lambda rows: rows * self.norm,
        )


PROMPTS = [(3, 20, 6, 0), (0, 15, 9, 1), (7, 24, 1, 2), (1, 12, 4, 3)]


@pytest.mark.parametrize("name", CUTS)
@pytest.mark.parametrize("shape", PROMPTS)
def test_the_same_tokens_as_plain_loops(
    name: str, shape: tuple[int, int, int, int], loops: ModuleType
) -> None:
    prompt = Prompt(*shape)
    cut, seen = PREFILL_METHODS[name].cut, prompt.seen(loops)
    assert cut is not None
    for keep in (2, prompt.count // 2, prompt.count - 1):
        plan = cut(prompt.look(prompt.start + prompt.after, 0.0), keep)
        assert plan.source_rows == prompt.count
        if name == "random":  # any fixed subset, in order
            assert plan.indices.tolist() == sorted(set(plan.indices.tolist()))
        elif name in MIXING:
            kept, weights = getattr(loops, name)(seen, keep)
            assert plan.indices.tolist() == kept
            np.testing.assert_allclose(plan.matrix().numpy(), weights, atol=1e-6)
        else:
            assert plan.indices.tolist() == loops.LOOPS[name](seen, keep)


@pytest.mark.parametrize("name", CUTS)
def test_padding_is_never_looked_at(name: str) -> None:
    """The same tokens in a tight prompt, in a roomy one, and with large numbers in the padding."""
    prompt = Prompt(4, 18, 5, seed=7)
    cut = PREFILL_METHODS[name].cut
    assert cut is not None
    looks = [prompt.look(*case) for case in ((9, 0.0), (30, 0.0), (30, 50.0), (30, -50.0))]
    for keep in (1, 9, 17):
        plans = [cut(look, keep) for look in looks]
        assert len({tuple(plan.indices.tolist()) for plan in plans}) == 1
        for plan in plans[1:]:
            torch.testing.assert_close(plan.matrix(), plans[0].matrix())


@pytest.mark.parametrize("name", CUTS)
def test_tokens_stay_in_order(name: str) -> None:
    """Those that are kept as they are; what is made of the others comes behind them."""
    prompt = Prompt(4, 18, 5, seed=8)
    cut = PREFILL_METHODS[name].cut
    assert cut is not None
    kept = cut(prompt.look(12, 0.0), 9).indices.tolist()
    falls = sum(a >= b for a, b in pairwise(kept))
    assert falls <= (1 if name in MIXING else 0)


def test_probes_are_rows_of_the_whole_map() -> None:
    prompt = Prompt(3, 10, 4, seed=5)
    probe, want = prompt.look(15, 3.0).before, torch.from_numpy(prompt.maps(0)).float()
    columns, n = slice(3, 13), prompt.rows
    torch.testing.assert_close(probe.from_last(), want[:, -1, columns])
    torch.testing.assert_close(probe.from_visual(), want[:, columns, columns])
    torch.testing.assert_close(probe.from_text()[:, :4], want[:, 13:, columns])
    assert probe.from_text().shape[1] == 15 and not probe.from_text()[:, 4:].any()
    torch.testing.assert_close(probe.whole()[:, :n, :n], want)
    assert not probe.whole()[:, n:].any() and not probe.whole()[:, :n, n:].any()
