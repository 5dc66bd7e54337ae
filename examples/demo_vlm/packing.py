"""Many questions about one image packed into one sequence: each blind to the others, or the turns
of one conversation."""

from dataclasses import dataclass, field

import torch
from questions import Question
from tokenizer_build import PREFIX, render_question, render_turn
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
    thread: Tensor
    """int64 [batch, length]: which conversation; tokens see no other than their own."""
    places: Tensor
    """int64 [batch, length]: place inside its own conversation, so positions restart."""
    asked: Tensor
    """bool [batch, length]: the token after this one is part of the answer."""
    kinds: Tensor
    """int64 [batch, length]: kind of the question."""
    steps: Tensor
    """int64 [batch, length]: which token of the answer comes next, where one does."""

    def to(self, device: torch.device) -> "Pack":
        """The pack on a device."""
        return Pack(**{name: value.to(device) for name, value in vars(self).items()})


@dataclass(frozen=True)
class Packer:
    """Turns questions into packs with one tokenizer."""

    tokenizer: PreTrainedTokenizerFast
    known: dict[tuple[Question, bool], tuple[list[int], int]] = field(default_factory=dict)
    """Questions come again and again, and tokenising costs more than looking them up."""

    @property
    def prefix(self) -> list[int]:
        """Tokens before the image."""
        return list(self.tokenizer(PREFIX).input_ids[:-1])

    def tokenise(self, question: Question, first: bool) -> tuple[list[int], int]:
        """Tokens of a question with its answer, and how many of them come before the answer.

        Args:
            first: it stands right after the image; else it is a later turn of a conversation.
        """
        key = question, first
        if key not in self.known:
            prompt = render_question(question.prompt) if first else render_turn(question.prompt)
            before = len(self.tokenizer(prompt).input_ids)
            whole = self.tokenizer(f"{prompt} {question.answer}</s>").input_ids
            self.known[key] = list(whole), before
        return self.known[key]

    def pack(self, batch: list[list[Question]], conversations: bool = False) -> Pack:
        """One row per image, its questions each by itself or as the turns of one conversation."""
        rows = [self._pack_row(questions, conversations) for questions in batch]
        length = max(len(row) for row in rows)
        padding = (0, -1, -1, 0, 0, 0, 0)
        filled = [row + [padding] * (length - len(row)) for row in rows]
        columns = torch.tensor(filled).unbind(-1)
        return Pack(*columns[:4], columns[4].bool(), *columns[5:])

    def _pack_row(self, questions: list[Question], conversation: bool) -> list[tuple[int, ...]]:
        row: list[tuple[int, ...]] = []
        for number, question in enumerate(questions):
            tokens, before = self.tokenise(question, first=number == 0 or not conversation)
            kind = KINDS.index(question.kind)
            thread, start = (0, len(row)) if conversation else (number, 0)
            for place, token in enumerate(tokens):
                asked = before - 1 <= place < len(tokens) - 1
                step = max(0, place - before + 1)
                row.append((token, number, thread, start + place, int(asked), kind, step))
        return row


def build_mask(pack: Pack, before: int) -> Tensor:
    """Who may look at whom, bool [batch, 1, before + length, before + length].

    The first `before` places (text before the image, and the image) are causal among themselves;
    a later token sees all of them and its own conversation's past.
    """
    thread, places = pack.thread, pack.places
    same = thread[:, :, None] == thread[:, None, :]
    past = places[:, :, None] >= places[:, None, :]
    batch, length = thread.shape
    total = before + length
    mask = torch.zeros(batch, total, total, dtype=torch.bool, device=thread.device)
    mask[:, :before, :before] = torch.ones(before, before, device=thread.device).tril().bool()
    mask[:, before:, :before] = True
    mask[:, before:, before:] = same & past
    return mask[:, None]


def build_positions(pack: Pack, before: int) -> Tensor:
    """Rotary positions [batch, before + length]."""
    head = torch.arange(before, device=pack.places.device).expand(len(pack.places), before)
    return torch.cat([head, before + pack.places], dim=1)
