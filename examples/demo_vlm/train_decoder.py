"""Phase two: the decoder learns to answer from symbols, while there may not yet be a tower."""

from functools import partial

import numpy as np
import torch
from decoder import choose_patches
from journal import Journal, Settings
from lessons import Pool, make_generator
from phase import Share, Shown, run_phase
from symbols import Symbols, write_doubtful
from torch import Tensor
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

SHARES_PER_STEP = 2
"""Parts of a step whose gradients the workers compute on their own."""
FRESH_PER_SHARE, OLD_PER_SHARE = 1, 1
RATES = (0.02, 3e-3)
"""Peak learning rates of Muon and AdamW."""
MODES = {"all": 0.06, "random": 0.06, "occupied": 0.88}


def show_symbols(
    pool: Pool,
    symbols: Symbols,
    device: torch.device,
    mode: str,
    kept: int,
    rng: np.random.Generator,
) -> Shown:
    """Scenes of a pool as symbols of their kept patches."""
    known = pool.draw(rng, FRESH_PER_SHARE, OLD_PER_SHARE)
    points = torch.stack([each.points for each in known])
    generator = make_generator(rng)
    chosen = choose_patches(None, points, mode, kept, generator)
    shown = points[torch.arange(len(points))[:, None], chosen]
    visual = write_doubtful(symbols, shown, chosen, generator, device)
    return Shown(known, chosen, visual)


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

    def study(share: Share) -> tuple[Tensor, dict[str, float]]:
        with settings.autocast():
            return share.compute_loss(journal.steps)

    tasks = []
    for number in range(SHARES_PER_STEP):
        show = partial(show_symbols, Pool(), symbols, settings.device)
        tasks.append(partial(study, Share(number, settings, model, tokenizer, modes, show)))
    decoder = model.model.language_model
    named = [*decoder.named_parameters(), *symbols.named_parameters()]
    run_phase(journal, {"decoder": decoder, "symbols": symbols}, named, RATES, tasks)
    return symbols
