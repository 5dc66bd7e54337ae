"""Phase two: the decoder learns to answer from symbols, while there may not yet be a tower."""

from functools import partial
from typing import Any

import numpy as np
import torch
from decoder import choose_patches, compute_answer_loss
from journal import Journal, Settings
from lessons import Pool, ask_about, make_generator, pick_mode
from optimiser import Optimiser
from packing import Packer
from pointing import mark_evidence, take_evidence
from symbols import Symbols, write_doubtful
from torch import Tensor
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

SHARES_PER_STEP = 2
"""Parts of a step whose gradients the workers compute on their own."""
FRESH_PER_SHARE, OLD_PER_SHARE = 1, 1
RATES = (0.02, 3e-3)
"""Peak learning rates of Muon and AdamW."""
MODES = {"all": 0.06, "random": 0.06, "occupied": 0.88}


class Share:
    """One of the parts of every step, with scenes of its own."""

    def __init__(
        self,
        number: int,
        settings: Settings,
        model: LlavaForConditionalGeneration,
        symbols: Symbols,
        packer: Packer,
        modes: dict[str, float],
    ) -> None:
        self.number, self.settings, self.modes = number, settings, modes
        self.model, self.symbols, self.packer = model, symbols, packer
        self.prefix, self.pool = packer.prefix, Pool()

    def compute_loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """Loss of the share of a step."""
        mode, kept = pick_mode(self.modes, np.random.default_rng([self.settings.seed, step]))
        rng = np.random.default_rng([self.settings.seed, step, self.number, 2])
        known = self.pool.draw(rng, FRESH_PER_SHARE, OLD_PER_SHARE)
        points = torch.stack([each.points for each in known])
        generator = make_generator(rng)
        chosen = choose_patches(None, points, mode, kept, generator)
        shown = points[torch.arange(len(points))[:, None], chosen]
        visual = write_doubtful(self.symbols, shown, chosen, generator)
        questions, conversation = ask_about([each.scene for each in known], rng)
        pack = self.packer.pack(questions, conversation).to(self.settings.device)
        evidence = take_evidence(mark_evidence(known, questions, pack), pack, chosen)
        loss, scores = compute_answer_loss(self.model, visual, pack, self.prefix, evidence)
        return loss, {f"{mode}/{name}": score for name, score in scores.items()}


def train_decoder(
    settings: Settings,
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    minutes: float,
    modes: dict[str, float],
) -> Symbols:
    """Trains the decoder in place for the budget; returns the symbols that it reads."""
    journal = Journal(settings, "decoder", minutes)
    torch.manual_seed(settings.seed)
    symbols = Symbols(model, tokenizer).to(settings.device)
    packer = Packer(tokenizer)
    shares = [
        Share(number, settings, model, symbols, packer, modes) for number in range(SHARES_PER_STEP)
    ]
    decoder = model.model.language_model
    named = [*decoder.named_parameters(), *symbols.named_parameters()]
    optimiser = Optimiser(named, RATES, settings.workers, settings.bf16)
    parts: dict[str, Any] = {"decoder": decoder, "symbols": symbols, "optimiser": optimiser}
    journal.restore(parts)

    def study(share: Share) -> tuple[Tensor, dict[str, float]]:
        with settings.autocast():
            return share.compute_loss(journal.steps)

    tasks = [partial(study, share) for share in shares]
    parameters = [parameter for _, parameter in named]
    while journal.progress < 1:
        scores = settings.workers.compute_gradients(parameters, tasks)
        optimiser.step(journal.rate_factor)
        journal.record(scores)
        journal.save(parts)
    journal.save(parts, force=True)
    return symbols
