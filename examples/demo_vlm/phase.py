"""One phase of the training: its loop, and the shares of a step that ask for answers."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from decoder import compute_answer_loss
from journal import Journal, Settings
from lessons import Known, ask_about, pick_mode
from optimiser import Optimiser
from packing import Packer
from pointing import mark_counted, mark_evidence, take_evidence
from torch import Tensor
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast
from workers import Task

Generator = np.random.Generator


def run_phase(
    journal: Journal,
    parts: dict[str, Any],
    named: Iterable[tuple[str, torch.nn.Parameter]],
    rates: tuple[float, float],
    tasks: list[Task],
) -> None:
    """Trains the named parameters until the phase's budget is used, from where it stopped.

    Args:
        parts: what is saved and restored, besides the optimiser.
        tasks: each gives the loss of one share of the step that the journal is at.
    """
    settings, named = journal.settings, list(named)
    optimiser = Optimiser(named, rates, settings.workers, settings.bf16)
    parts = {**parts, "optimiser": optimiser}
    journal.restore(parts)
    parameters = [parameter for _, parameter in named]
    while journal.progress < 1:
        scores = settings.workers.compute_gradients(parameters, tasks)
        optimiser.step(journal.rate_factor)
        journal.record(scores)
        journal.save(parts)
    journal.save(parts, force=True)


@dataclass(frozen=True)
class Shown:
    """What a share of a step shows the decoder."""

    known: list[Known]
    chosen: Tensor
    """int64 [batch, kept]: places of the shown patches in the grid"""
    visual: Tensor
    """[batch, kept, width of the decoder]"""
    extra: Tensor | float = 0.0
    """A loss beside the answers'."""
    scores: dict[str, float] = field(default_factory=dict)


Show = Callable[[str, int, Generator], Shown]
"""How visual tokens are sampled, how many, and randomness -> what is shown."""


class Share:
    """One of the parts of every step, with randomness of its own."""

    def __init__(
        self,
        number: int,
        settings: Settings,
        model: LlavaForConditionalGeneration,
        tokenizer: PreTrainedTokenizerFast,
        modes: dict[str, float],
        show: Show,
    ) -> None:
        self.number, self.settings, self.model = number, settings, model
        self.modes, self.show = modes, show
        self.packer = Packer(tokenizer)
        self.prefix = self.packer.prefix

    def compute_loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """Loss of the share of a step; all shares of a step sample visual tokens alike."""
        mode, kept = pick_mode(self.modes, np.random.default_rng([self.settings.seed, step]))
        rng = np.random.default_rng([self.settings.seed, step, self.number, 2])
        shown = self.show(mode, kept, rng)
        questions, conversation = ask_about([each.scene for each in shown.known], rng)
        pack = self.packer.pack(questions, conversation)
        marks = take_evidence(mark_evidence(shown.known, questions, pack), pack, shown.chosen)
        device = self.settings.device
        loss, scores = compute_answer_loss(
            self.model,
            shown.visual,
            pack.to(device),
            self.prefix,
            marks.to(device),
            mark_counted(questions, pack).to(device),
        )
        named = {f"{mode}/{name}": score for name, score in scores.items()}
        return loss + shown.extra, {**named, **shown.scores}
