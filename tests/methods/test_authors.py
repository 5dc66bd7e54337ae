"""Small cases whose results came out of the authors' own programs, given the same tensors.

`benchmarks/authors` says which functions at which commits, and compares at length.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from edgetok import tokens
from edgetok.export.reference.flow import Values
from edgetok.export.stages.probes import probe_flow
from edgetok.methods import TOWER_METHODS, expedit, find_method, prumerge
from edgetok.methods.inside import Inside
from edgetok.tokens import Look, Rows, reduce_inside
from edgetok.tokens.schedules import Encoder


def inside_of(name: str) -> Inside:
    found = find_method(name).inside
    assert found is not None
    return found


def look_at(rows: Any, encoder: Encoder, block: int = 0, sizes: Any = None) -> Look:
    """What a block of one head shows whose keys, queries and values are its rows."""
    x = torch.tensor(rows)
    head = x.unsqueeze(0)
    of = torch.ones(len(x)) if sizes is None else torch.tensor(sizes)
    return Look(x, head, head, head, of, encoder, block)


# --- prefix rows ----------------------------------------------------------------------------------


def test_tome_keeps_the_distillation_row_where_tome_keeps_it() -> None:
    """`bipartite_soft_matching(..., class_token=True, distill_token=True)` of ToMe@af95e4b."""
    rows = [[1.0, 1], [1, -1], [1, 0], [0.9, 0.1], [0, 1], [0.3, 0.7]]
    plan = inside_of("tome").reduce(look_at(rows, Encoder(4, (2, 2), 2, 1)), 3)
    want = torch.tensor([[1, 1], [1, -1], [0, 1], [0.95, 0.05], [0.3, 0.7]])
    torch.testing.assert_close(plan.apply(torch.tensor(rows)), want)
    assert plan.indices.tolist() == [0, 1, 4, 3, 5]
    assert plan.sizes.tolist() == [1, 1, 1, 2, 1]


class Still:
    """A block that leaves rows as they are; they are its queries, keys and values."""

    def attend(self, x: Tensor, mix: Any) -> Tensor:
        heads = torch.stack(x.chunk(2, 1))
        mix(heads, heads, heads, 1.0)
        return torch.zeros_like(x)

    def feed(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


@pytest.mark.parametrize("prefix", [1, 2, 5])
@pytest.mark.parametrize("name", TOWER_METHODS)
def test_prefix_rows_stand_unchanged_in_front_behind_every_block(name: str, prefix: int) -> None:
    encoder = Encoder(64, (8, 8), prefix, 6)
    x = torch.randn(prefix + 64, 12, generator=torch.Generator().manual_seed(prefix))
    seen = []

    def watch(_number: int, rows: Rows) -> None:
        seen.append(torch.equal(rows.x[:prefix], x[:prefix]))
        assert rows.indices[:prefix].tolist() == [-1] * prefix
        assert rows.sizes[:prefix].tolist() == [1.0] * prefix
        assert int((rows.indices[prefix:] >= 0).sum()) >= len(rows.x) - prefix - 1 or soft

    inside, soft = inside_of(name), name == "expedit"
    budget = min(k for k in inside.budgets(encoder) if k >= 16)
    steps = inside.steps(encoder, budget)
    with torch.no_grad():
        rows = reduce_inside(
            [Still()] * 6, x, inside_of(name), encoder, steps, lambda q, *_: torch.zeros_like(q[0]),
            watch,
        )  # fmt: skip
    assert seen == [True] * 6 and rows.x.shape == (prefix + budget, 12)


# --- PiToMe, MCTF, Expedit ------------------------------------------------------------------------


def test_pitome_merges_plain_means() -> None:
    """`merge_mean` of PiToMe@550b5de, which `clip_hf.py` calls: sizes 1 and 3 count alike."""
    rows = [[1.0, 0], [3, 0.1], [0, 1], [0.1, 6]]
    look = look_at(rows, Encoder(4, (2, 2), 0, 1), sizes=[1.0, 1, 3, 1])
    plan = inside_of("pitome").reduce(look, 3)
    made = sorted(plan.apply(look.x).tolist())
    want = sorted([[1, 0], [3, 0.1], [0.05, 3.5]])
    torch.testing.assert_close(torch.tensor(made), torch.tensor(want))
    assert sorted(plan.sizes.tolist()) == [1, 1, 4]


def test_pitome_merges_by_place_in_thirteen_of_24_blocks() -> None:
    """`use_bsm=(idx <= 12)` of `clip_hf.py`: by place, the order of rows says who may merge."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 8, generator=generator)
    encoder = Encoder(30, (5, 6), 0, 23, 24)

    def made(block: int, rows: Tensor) -> Tensor:
        plan = inside_of("pitome").reduce(look_at(rows.tolist(), encoder, block), 20)
        return plan.apply(rows).sum(1).sort().values

    shuffled = x[torch.randperm(30, generator=generator)]
    same = [torch.allclose(made(b, x), made(b, shuffled), atol=1e-4) for b in range(23)]
    assert same == [False] * 13 + [True] * 10


def test_pitome_ends_on_the_margin_of_the_whole_tower(monkeypatch: pytest.MonkeyPatch) -> None:
    """0.9 - 0.9 · 22 / 24 = 0.075 behind the last block that LLaVA runs of CLIP-L."""
    margins, energy = [], tokens.energy

    def note(similar: Tensor, margin: float) -> Tensor:
        margins.append(margin)
        return energy(similar, margin)

    monkeypatch.setattr(tokens, "energy", note, raising=False)
    rows = torch.randn(12, 4).tolist()
    inside_of("pitome").reduce(look_at(rows, Encoder(12, (3, 4), 0, 23, 24), 22), 8)
    assert margins == [pytest.approx(0.075)]


def test_mctf_leaves_the_first_block_alone() -> None:
    """`--activate_layer [1,...,11] --r_evals [16]` of MCTF@2004da0, on 196 patches."""
    want = [196, 180, 164, 148, 132, 116, 100, 84, 68, 52, 36, 20]
    assert list(inside_of("mctf").steps(Encoder(196, (14, 14), 1, 12), 20)) == want


def test_mctf_uses_the_first_block_where_the_others_cannot_do_it() -> None:
    assert inside_of("mctf").steps(Encoder(64, (8, 8), 1, 2), 16) == (32, 16)


def test_expedit_has_the_constants_released_for_sam() -> None:
    """Defaults of `ImageEncoderViT` in `hourglass_image_encoder.py`, Expedit-SAM@75a1c30."""
    found = expedit.ROUNDS, expedit.TEMPERATURE, expedit.WINDOW, expedit.NEAREST
    assert found == (5, 0.01, 5, 20)


# --- FlowCut --------------------------------------------------------------------------------------

# Two heads of width 2, the CLS row and three patches; attention of the CLS row. Scores of
# `compute_score` behind `CLIPAttention_forward`, FlowCut@a2ecd24.
VALUES = torch.tensor([[[2.0, 0], [1, 0], [0, 1], [1, 1]], [[0, 1], [0, 2], [1, 0], [1, 1]]])
CLS_ATTENTION = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.4, 0.1, 0.3, 0.2]])
SCORES = torch.tensor([1.43341, 0.50088, 1.08702])


def keys_for(attention: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys [heads, n, H] whose CLS row attends as given."""
    query, key = torch.zeros(2, 2, 4, 2)
    query[:, :, 0], key[:, :, 0] = 1.0, attention.log()
    return query, key


def test_flowcut_scores_inside_the_tower() -> None:
    query, key = keys_for(CLS_ATTENTION)
    rows = torch.zeros(4, 4)
    look = Look(rows, query, key, VALUES, torch.ones(4), Encoder(3, (1, 3), 1, 1), 0)
    observe = inside_of("flowcut").observe
    assert observe is not None
    torch.testing.assert_close(observe(look), SCORES, atol=1e-5, rtol=0)
    again = observe(replace(look, running=torch.zeros(3)))
    torch.testing.assert_close(again, SCORES / 2, atol=1e-5, rtol=0)


def test_flowcut_scores_behind_the_tower() -> None:
    query, key = (part.unsqueeze(0) for part in keys_for(CLS_ATTENTION))
    found = probe_flow([(query, key, 1.0)], [VALUES.unsqueeze(0)], 1)
    torch.testing.assert_close(found, SCORES, atol=1e-5, rtol=0)


def test_flowcut_scores_of_the_reference() -> None:
    vision: Any = SimpleNamespace(blocks=(), heads=2, prefix_tokens=1)
    query, key = keys_for(CLS_ATTENTION)
    named = {"q_proj": query, "k_proj": key, "v_proj": VALUES}
    rows = {name: part.transpose(0, 1).flatten(1) for name, part in named.items()}
    maps = CLS_ATTENTION.unsqueeze(1).expand(2, 4, 4)
    found = Values(vision)._score_block(maps, rows)
    torch.testing.assert_close(found, SCORES, atol=1e-5, rtol=0)


# --- PruMerge+ ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [576, 729])
def test_even_places_of_prumerge_plus_cover_the_picture(n: int) -> None:
    """The authors' `arange(0, 575, step)` ends within a step of the end, whatever the step."""
    for centres in range(1, n):
        places = prumerge.even_places(n, centres).tolist()
        step = places[1] if len(places) > 1 else n
        assert places == list(range(0, n - 1, step)) and len(places) <= centres
        assert places[-1] + step >= n - 1


@pytest.mark.parametrize(
    "outliers, centres, step", [(30, 121, 6), (40, 174, 4), (50, 225, 3), (63, 234, 3)]
)
def test_prumerge_plus_steps_as_its_authors_do(outliers: int, centres: int, step: int) -> None:
    """`int(int(1 / ratio) / 3)` of LLaVA-PruMerge@097c041, ratio the share of outliers in 576.

    `centres`: how many its function makes where outliers are spread over the picture.
    """
    assert int(int(576 / outliers) / 3) == step
    assert prumerge.even_places(576, centres).tolist() == list(range(0, 575, step))


# --- GlobalCom2 -----------------------------------------------------------------------------------


def test_tokens_of_tiles_stand_line_by_line_across_tiles() -> None:
    """2 x 2 tiles of 2 x 2 patches, all kept: the order of a picture of 4 x 4 patches."""
    found = tokens.along_canvas(torch.arange(16), (2, 2), (2, 2)).tolist()
    assert found == [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]
    some = tokens.along_canvas(torch.tensor([1, 2, 4, 9, 14]), (2, 2), (2, 2)).tolist()
    assert some == [1, 4, 2, 9, 14]
