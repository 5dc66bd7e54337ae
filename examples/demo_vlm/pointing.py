"""Pointing: while it learns, the decoder is told which patches each word of an answer is read from.

Finding the right patch among hundreds is most of the way to an answer, and by the answers' loss
alone a small decoder spends most of a short training on discovering that it has to.
"""

from dataclasses import replace
from typing import Any

import torch
from lessons import Known
from packing import Pack
from questions import Question
from targets import FIELD_PLACES, list_cells
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

LAYERS = (2, 3)
"""Blocks whose first head is told, the earlier one of two compared things by the first of them; the
other heads and blocks are free."""
HEAD = 0
START_SHARE = 3.0
"""Where things are counted, the first token of the prompt gets as much attention as so many things:
what remains for them then tells how many they are."""


def mark_evidence(known: list[Known], questions: list[list[Question]], pack: Pack) -> Tensor:
    """Which patches each asked token is read from, per block of LAYERS [2, asked, 576], bool.

    The characters of a printed text are read one by one, things are counted at their anchors, of
    two that are compared each block sees one, and everything else is read from all patches of its
    items. There are none for the background.
    """
    rows, positions = pack.asked.nonzero(as_tuple=True)
    tables = [list_cells(each.scene) for each in known]
    found: dict[tuple[int, int, int], Tensor] = {}
    marks = []
    for row, position in zip(rows.tolist(), positions.tolist(), strict=True):
        number, step = int(pack.owner[row, position]), int(pack.steps[row, position])
        key = row, number, step
        if key not in found:
            question = questions[row][number]
            parts = [split_evidence(question, turn) for turn in range(len(LAYERS))]
            found[key] = torch.stack(
                [find_evidence(known[row], tables[row], part, step) for part in parts]
            )
        marks.append(found[key])
    return torch.stack(marks, dim=1)


def mark_counted(questions: list[list[Question]], pack: Pack) -> Tensor:
    """Which asked tokens belong to an answer that counts, bool [asked]."""
    rows, positions = pack.asked.nonzero(as_tuple=True)
    owners = pack.owner[rows, positions]
    asked = [
        questions[row][owner] for row, owner in zip(rows.tolist(), owners.tolist(), strict=True)
    ]
    return torch.tensor([each.kind == "global" and each.answer.isdigit() for each in asked])


def split_evidence(question: Question, turn: int) -> Question:
    """The question as one of the blocks answers it: about the first or the last of two things."""
    if question.kind != "place":
        return question
    about = question.about[:1] if turn == 0 else question.about[-1:]
    return replace(question, about=about)


def find_evidence(
    known: Known, table: list[tuple[int, int]], question: Question, step: int
) -> Tensor:
    """Patches that a token of a question's answer is read from, bool [576]."""
    wanted = [place in question.about for place, _ in table]
    spelled = question.kind in ("reading", "detail") and step > 0
    if spelled and step <= len(question.answer):
        wanted = [
            fits and (order == step - 1 or len(question.answer) == 1)
            for fits, (_, order) in zip(wanted, table, strict=True)
        ]
    marks = torch.tensor(wanted)[known.owners]
    if question.kind == "global":
        marks &= known.points[..., FIELD_PLACES["anchor"]] == 1
    return marks.any(-1)


def take_evidence(evidence: Tensor, pack: Pack, chosen: Tensor) -> Tensor:
    """The evidence among the kept patches [2, asked, kept], of chosen [batch, kept]."""
    rows = pack.asked.nonzero(as_tuple=True)[0]
    return evidence.gather(2, chosen[rows].expand(len(LAYERS), -1, -1))


def compute_pointing_loss(
    scores: Tensor, start: Tensor, evidence: Tensor, counted: Tensor
) -> Tensor:
    """Minus the log of the attention that one head gives the evidence, among visual tokens.

    Args:
        scores: [asked, kept], the head's for visual tokens.
        start: [asked, 1], the head's for the first token of the prompt.
        evidence: bool [asked, kept]; tokens without any are passed over.
        counted: bool [asked]: for these, each piece of evidence and the first token have their
            fixed shares instead.
    """
    shares = scores.log_softmax(-1)
    pointed = shares.masked_fill(~evidence, -torch.inf).logsumexp(-1)
    everything = torch.cat([start, scores], dim=-1).log_softmax(-1)
    wanted = torch.cat([torch.full_like(start, START_SHARE), evidence.to(start.dtype)], dim=-1)
    divided = (everything * wanted).sum(-1) / wanted.sum(-1)
    known = counted | evidence.any(-1)
    return -torch.where(counted, divided, pointed)[known].sum() / known.sum().clamp(min=1)


def score_visual(
    layer: Any, entering: Tensor, turns: tuple[Tensor, Tensor], pack: Pack, first: int, kept: int
) -> tuple[Tensor, Tensor]:
    """Scores of the pointing head for visual tokens [asked, kept] and the first token [asked, 1].

    Args:
        entering: [batch, length, width], what enters the block.
        turns: rotary cosines and sines of all positions.
        first: place of the first visual token.
    """
    part = layer.self_attn
    normed = layer.input_layernorm(entering)
    rows = slice(HEAD * part.head_dim, (HEAD + 1) * part.head_dim)
    query = torch.nn.functional.linear(normed, part.q_proj.weight[rows])[:, None]
    key = torch.nn.functional.linear(normed, part.k_proj.weight[rows])[:, None]
    query, key = apply_rotary_pos_emb(query.float(), key.float(), *turns)
    place = pack.asked.nonzero(as_tuple=True)
    before = normed.shape[1] - pack.asked.shape[1]
    asking = query[place[0], 0, before + place[1]]
    seen = key[:, 0, first : first + kept][place[0]]
    scores = (seen @ asking[:, :, None])[..., 0] * part.scaling
    start = (key[:, 0, 0][place[0]] * asking).sum(-1, keepdim=True) * part.scaling
    return scores, start
