"""The decoder while it learns: which visual tokens it gets, its forward pass and its loss."""

from dataclasses import dataclass
from typing import Any

import torch
from packing import Pack, build_mask, build_positions
from targets import FIRST_SHAPE, WHATS
from torch import Tensor
from torch.nn import functional as F
from tower import embed_patches
from transformers import (
    CLIPVisionModel,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)
from vocabulary import BACKGROUNDS, CHARACTERS, COLOUR_NAMES, DIGITS, GRID, KINDS, SHAPES

PATCHES = GRID * GRID


@dataclass(frozen=True)
class Sight:
    """What the tower makes of a batch of whole scenes."""

    features: Tensor
    """`hidden_states[-2]` without CLS [batch, 576, width]"""
    attention: Tensor
    """CLS attention of the block before, mean over heads [batch, 576]: compressors rank by it."""
    occupied: Tensor
    """bool [batch, 576]: some object stands here."""
    names: Tensor
    """int64 [batch, 576, 3]: vocabulary entries that name what stands here."""

    def take(self, rows: Tensor) -> "Sight":
        """Rows of the batch."""
        return Sight(**{name: value[rows] for name, value in vars(self).items()})


def look(tower: CLIPVisionModel, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Features [batch, 576, width] and CLS attention [batch, 576] of whole scenes."""
    positions = torch.arange(PATCHES, device=pixels.device)
    hidden = embed_patches(tower, pixels, positions)
    for layer in tower.encoder.layers[:-2]:
        hidden = layer(hidden, None)
    last = tower.encoder.layers[-2]
    with torch.no_grad():
        attention = attend_from_cls(last, hidden)
    return last(hidden, None)[:, 1:], attention


def attend_from_cls(layer: Any, hidden: Tensor) -> Tensor:
    """Attention of the CLS token over the patches, mean over heads [batch, patches]."""
    part = layer.self_attn
    normed = layer.layer_norm1(hidden)
    heads = part.num_heads
    query = part.q_proj(normed[:, :1]).unflatten(-1, (heads, -1)).transpose(1, 2)
    key = part.k_proj(normed).unflatten(-1, (heads, -1)).transpose(1, 2)
    scores: Tensor = (query @ key.mT).float() * part.head_dim**-0.5
    return scores.softmax(-1).mean(1)[:, 0, 1:]


def list_names(tokenizer: PreTrainedTokenizerFast) -> tuple[Tensor, Tensor]:
    """Vocabulary entries of everything a point can show [WHATS] and of the colours [1 + 8]."""
    words = [f" {name}" for name in (*BACKGROUNDS, *SHAPES)] + [*DIGITS, *CHARACTERS]
    whats = torch.tensor([tokenizer(word).input_ids[0] for word in words])
    colours = [tokenizer(f" {name}").input_ids[0] for name in COLOUR_NAMES]
    if len(whats) != WHATS:
        raise ValueError(f"{len(whats)} names for {WHATS} things; keep them in one order")
    return whats, torch.tensor([-1, *colours])


def name_patches(points: Tensor, whats: Tensor, colours: Tensor) -> Tensor:
    """Names of both points and of the colour [batch, 576, 3]; no colour repeats the thing."""
    named = whats[points[..., 0]]
    colour = colours[points[..., 1].amax(-1)]
    return torch.cat([named, torch.where(colour < 0, named[..., 0], colour)[..., None]], dim=-1)


def choose_patches(sight: Sight, mode: str, kept: int, generator: torch.Generator) -> Tensor:
    """Indices of the kept patches in reading order [batch, kept].

    `all` keeps all; `cls` the ones with most CLS attention, as compressors do; `random` any;
    `occupied` those with objects first, so that nearly every question can be answered.
    """
    if mode == "all":
        return torch.arange(PATCHES).expand(len(sight.features), PATCHES)
    noise = torch.rand(sight.attention.shape, generator=generator)
    scores = {
        "cls": sight.attention.cpu(),
        "random": noise,
        "occupied": sight.occupied.cpu() + noise,
    }[mode]
    return scores.topk(kept, dim=-1).indices.sort(dim=-1).values


def compute_decoder_loss(
    model: LlavaForConditionalGeneration,
    sight: Sight,
    chosen: Tensor,
    pack: Pack,
    prefix: list[int],
    naming_weight: float,
) -> tuple[Tensor, dict[str, float]]:
    """Loss over the answers' tokens, and what to log.

    Naming pulls each projected visual token towards the embeddings of the words for what it
    shows, which is most of the way to reading it out.
    """
    device = sight.features.device
    chosen = chosen.to(device)
    rows = torch.arange(len(chosen), device=device)[:, None]
    visual = model.model.multi_modal_projector(sight.features[rows, chosen].float())
    embed = model.get_input_embeddings()
    head = embed(torch.tensor(prefix, device=device)).expand(len(visual), -1, -1)
    sequence = torch.cat([head, visual.to(head.dtype), embed(pack.tokens)], dim=1)
    before = len(prefix) + visual.shape[1]
    hidden = model.model.language_model(
        inputs_embeds=sequence,
        attention_mask=build_mask(pack, before),
        position_ids=build_positions(pack, before),
        use_cache=False,
    ).last_hidden_state[:, before:]
    logits = model.lm_head(hidden[pack.asked]).float()
    targets = pack.tokens.roll(-1, dims=1)[pack.asked]
    loss = F.cross_entropy(logits, targets)
    scores = {"loss": loss.item(), **score_answers(logits.argmax(-1) == targets, pack)}
    if naming_weight:
        naming = compute_naming_loss(visual, sight.names[rows, chosen], embed.weight)
        loss, scores["naming"] = loss + naming_weight * naming, naming.item()
    return loss, scores


def compute_naming_loss(visual: Tensor, names: Tensor, embedding: Tensor) -> Tensor:
    """Cross-entropy of projected tokens [batch, kept, width] against names [batch, kept, 3]."""
    logits = F.rms_norm(visual.float(), visual.shape[-1:]) @ embedding.T.float()
    return -logits.log_softmax(-1).gather(-1, names).mean()


@torch.no_grad()
def score_answers(right: Tensor, pack: Pack) -> dict[str, float]:
    """Share of questions answered without a wrong token, per kind.

    With the answer so far given, this equals exact match of greedy decoding.
    """
    row = torch.arange(len(pack.owner), device=right.device)[:, None].expand_as(pack.owner)
    number = (row * (int(pack.owner.max()) + 1) + pack.owner)[pack.asked]
    wrong = torch.zeros(int(number.max()) + 1, device=right.device)
    wrong.index_add_(0, number, (~right).float())
    kind = torch.full_like(wrong, -1, dtype=torch.long)
    kind[number] = pack.kinds[pack.asked]
    return {
        name: (wrong[kind == place] == 0).float().mean().item() for place, name in enumerate(KINDS)
    }


def mark_occupied(points: Tensor) -> Tensor:
    """bool [batch, 576] from targets of points."""
    return (points[..., 0] >= FIRST_SHAPE).any(-1)
