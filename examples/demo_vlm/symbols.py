"""Symbols: what a patch shows, written as a visual token, so that the decoder can learn to answer
before there is a tower that sees.

A visual token is the sum of one learned row per target of the patch's points. The decoder learns on
such tokens while the tower learns to see, each by itself; then the projector learns to write the
tower's features as these tokens, and only the last phase needs the whole model.
"""

import torch
from decoder import PATCHES
from targets import COLOUR_PLACE, FIELD_PLACES, FIELDS, POINTS, WHAT_PLACE, WHATS
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast
from vocabulary import BACKGROUNDS, CHARACTERS, COLOUR_NAMES, DIGITS, SHAPES

DOUBT = 0.25
"""Most of a symbol that is replaced by another one's: a real tower is never sure."""
MISREAD_SHARE = 0.03
"""Points whose target is another one altogether."""


SIDES = {"across": ("left", "right"), "down": ("top", "bottom")}
"""Words for the first and the last third of each axis."""


def lay_line(ends: list[Tensor], steps: int) -> Tensor:
    """Rows [steps, width] along an axis: the ends' words, over a slope that tells near from far."""
    slope = torch.linspace(-1.5, 1.5, steps)[:, None] * torch.randn(ends[0].shape)
    slope[: steps // 3] += ends[0]
    slope[-(steps // 3) :] += ends[1]
    return slope


class Symbols(nn.Module):
    """One row of the decoder's width per target of each field and point, and one per place."""

    def __init__(
        self, model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        super().__init__()
        words = model.get_input_embeddings().weight.detach()
        width = words.shape[1]
        tables = [torch.randn(POINTS, count, width) * 0.5 for count in FIELDS.values()]
        whats, colours = list_names(tokenizer)
        tables[WHAT_PLACE] = words[whats].expand(POINTS, -1, -1).clone()
        tables[COLOUR_PLACE][:, 1:] = words[colours]
        for name, (low, high) in SIDES.items():
            ends = [words[tokenizer(f" {word}").input_ids[0]] for word in (low, high)]
            tables[FIELD_PLACES[name]] += lay_line(ends, FIELDS[name])
        self.tables = nn.ParameterList([nn.Parameter(table) for table in tables])
        self.places = nn.Parameter(torch.randn(PATCHES, width) * 0.5)

    def forward(self, points: Tensor, patches: Tensor) -> Tensor:
        """Visual tokens [batch, kept, width] from targets [batch, kept, POINTS, FIELDS].

        Args:
            patches: int64 [batch, kept], places in the grid.
        """
        token = self.places[patches]
        for place, table in enumerate(self.tables):
            for point in range(POINTS):
                token = token + table[point][points[..., point, place]]
        return token


def list_names(tokenizer: PreTrainedTokenizerFast) -> tuple[Tensor, Tensor]:
    """Vocabulary entries of everything a point can show [WHATS] and of the colours [8]."""
    words = [f" {name}" for name in (*BACKGROUNDS, *SHAPES)] + [*DIGITS, *CHARACTERS]
    whats = torch.tensor([tokenizer(word).input_ids[0] for word in words])
    colours = torch.tensor([tokenizer(f" {name}").input_ids[0] for name in COLOUR_NAMES])
    if len(whats) != WHATS:
        raise ValueError(f"{len(whats)} names for {WHATS} things; keep them in one order")
    return whats, colours


def misread(points: Tensor, generator: torch.Generator, share: float) -> Tensor:
    """The targets with a share of them exchanged for any other of their field."""
    wrong = torch.rand(points.shape, generator=generator) < share
    counts = torch.tensor(list(FIELDS.values()))
    others = (torch.rand(points.shape, generator=generator) * counts).long()
    return torch.where(wrong, others, points)


def write_doubtful(
    symbols: Symbols,
    points: Tensor,
    patches: Tensor,
    generator: torch.Generator,
    device: torch.device,
) -> Tensor:
    """Visual tokens as a tower in doubt would have them written: mixed with another reading."""
    sure = symbols(misread(points, generator, MISREAD_SHARE).to(device), patches.to(device))
    other = symbols(misread(points, generator, 0.5).to(device), patches.to(device))
    doubt = (torch.rand((*points.shape[:2], 1), generator=generator) * DOUBT).to(device)
    return (1 - doubt) * sure + doubt * other
