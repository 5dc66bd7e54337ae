"""Many questions about one image packed into one sequence, each blind to the others."""

from dataclasses import dataclass, field

import torch
from questions import Question
from tokenizer_build import PREFIX, render_question
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from vocabulary import KINDS


@dataclass(frozen=True)
class Pack:
    """Questions about a batch of images; every row is padded to the longest.

    The sequence is: tokens before the image, visual tokens, packed questions. Offsets of
    `places` count from the first token after the image.
    """

    tokens: Tensor
    """int64 [batch, length]: question, answer, </s>, next question ..."""
    owner: Tensor
    """int64 [batch, length]: which question a token belongs to; -1 is padding."""
    places: Tensor
    """int64 [batch, length]: place inside its own question, so positions restart."""
    asked: Tensor
    """bool [batch, length]: the token after this one is part of the answer."""
    kinds: Tensor
    """int64 [batch, length]: kind of the question."""

    def to(self, device: torch.device) -> "Pack":
        """The pack on a device."""
        return Pack(**{name: value.to(device) for name, value in vars(self).items()})


@dataclass(frozen=True)
class Packer:
    """Turns questions into packs with one tokenizer."""

    tokenizer: PreTrainedTokenizerFast
    known: dict[Question, tuple[list[int], int]] = field(default_factory=dict)
    """Questions come again and again, and tokenising costs more than looking them up."""

    @property
    def prefix(self) -> list[int]:
        """Tokens before the image."""
        return list(self.tokenizer(PREFIX).input_ids[:-1])

    def tokenise(self, question: Question) -> tuple[list[int], int]:
        """Tokens of a question with its answer, and how many of them come before the answer."""
        if question not in self.known:
            prompt = render_question(question.prompt)
            before = len(self.tokenizer(prompt).input_ids)
            whole = self.tokenizer(f"{prompt} {question.answer}</s>").input_ids
            self.known[question] = list(whole), before
        return self.known[question]

    def pack(self, batch: list[list[Question]]) -> Pack:
        """One row per image."""
        rows = [self._pack_row(questions) for questions in batch]
        length = max(len(row) for row in rows)
        padding = (0, -1, 0, 0, 0)
        filled = [row + [padding] * (length - len(row)) for row in rows]
        columns = torch.tensor(filled).unbind(-1)
        return Pack(columns[0], columns[1], columns[2], columns[3].bool(), columns[4])

    def _pack_row(self, questions: list[Question]) -> list[tuple[int, int, int, int, int]]:
        row = []
        for number, question in enumerate(questions):
            tokens, before = self.tokenise(question)
            kind = KINDS.index(question.kind)
            for place, token in enumerate(tokens):
                asked = before - 1 <= place < len(tokens) - 1
                row.append((token, number, place, int(asked), kind))
        return row


def build_mask(pack: Pack, before: int) -> Tensor:
    """Who may look at whom, bool [batch, 1, before + length, before + length].

    The first `before` places (text before the image, and the image) are causal among themselves;
    a question's token sees all of them and its own question's past.
    """
    owner, places = pack.owner, pack.places
    same = owner[:, :, None] == owner[:, None, :]
    past = places[:, :, None] >= places[:, None, :]
    batch, length = owner.shape
    total = before + length
    mask = torch.zeros(batch, total, total, dtype=torch.bool, device=owner.device)
    mask[:, :before, :before] = torch.ones(before, before, device=owner.device).tril().bool()
    mask[:, before:, :before] = True
    mask[:, before:, before:] = same & past
    return mask[:, None]


def build_positions(pack: Pack, before: int) -> Tensor:
    """Rotary positions [batch, before + length]."""
    head = torch.arange(before, device=pack.places.device).expand(len(pack.places), before)
    return torch.cat([head, before + pack.places], dim=1)
