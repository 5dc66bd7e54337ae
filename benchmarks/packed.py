"""Many questions about one image, and many compressors of it, answered in one forward pass.

Every row of a batch holds the tokens before the image, visual tokens, and questions with their
right answers, each question blind to the others. With the answer so far given, all its tokens
being the likeliest is the same as greedy decoding making exactly this answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgetok.families.parts import TextParts

HIDDEN = torch.finfo(torch.float32).min
ROWS_AT_ONCE = 8  # more leave the processor's cache


@dataclass(frozen=True)
class Asked:
    """Token ids behind the image: a prompt, and its right answer with the stop token."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        """What the model reads: the stop token is only expected."""
        return self.prompt + self.answer[:-1]


@torch.inference_mode()
def answer_all(
    text: TextParts, before: Sequence[int], visual: Tensor, asked: Sequence[Sequence[Asked]]
) -> list[list[bool]]:
    """Whether greedy decoding gives the right answers: visual [B, K, D] and B lists of questions.

    Args:
        before: token ids before the image, the same for all rows.
    """
    found: list[list[bool]] = []
    for start in range(0, len(asked), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        found += _answer(text, before, visual[part], asked[part])
    return found


def _answer(
    text: TextParts, before: Sequence[int], visual: Tensor, asked: Sequence[Sequence[Asked]]
) -> list[list[bool]]:
    head = len(before) + visual.shape[1]
    ids, owner, places = _lay_out(asked)
    rows = text.embed(torch.tensor([list(before)])).expand(len(visual), -1, -1)
    out = text.model(
        inputs_embeds=torch.cat([rows, visual, text.embed(ids)], dim=1),
        attention_mask=_mask(owner, places, head),
        position_ids=torch.cat([torch.arange(head).expand(len(ids), -1), head + places], dim=1),
        use_cache=False,
    )
    likeliest = text.head(out.last_hidden_state[:, head:]).argmax(-1)
    return [_read(line, row) for line, row in zip(likeliest, asked, strict=True)]


def _lay_out(asked: Sequence[Sequence[Asked]]) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, owner (-1 is padding) and place in its own question of every token: [B, L] each."""
    rows = [
        [
            (token, number, place)
            for number, q in enumerate(row)
            for place, token in enumerate(q.ids)
        ]
        for row in asked
    ]
    longest = max(len(row) for row in rows)
    filled = torch.tensor([row + [(0, -1, 0)] * (longest - len(row)) for row in rows])
    return filled[..., 0], filled[..., 1], filled[..., 2]


def _mask(owner: Tensor, places: Tensor, head: int) -> Tensor:
    """[B, 1, head + L, head + L]: causal up to the image, then each question by itself."""
    total = head + owner.shape[1]
    seen = torch.zeros(len(owner), total, total, dtype=torch.bool)
    seen[:, :, :head] = torch.ones(total, head).tril().bool()
    same = owner[:, :, None] == owner[:, None, :]
    seen[:, head:, head:] = same & (places[:, :, None] >= places[:, None, :])
    return torch.where(seen, 0.0, HIDDEN)[:, None]


def _read(likeliest: Tensor, row: Sequence[Asked]) -> list[bool]:
    """Per question, whether each token of its answer is the likeliest behind those before it."""
    found, start = [], 0
    for question in row:
        first = start + len(question.prompt) - 1
        given = likeliest[first : first + len(question.answer)].tolist()
        found.append(tuple(given) == question.answer)
        start += len(question.ids)
    return found
