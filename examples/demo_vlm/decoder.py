"""The decoder while it learns: which visual tokens it gets, its forward pass and its loss."""

from typing import Any

import torch
from packing import Pack, build_mask, build_positions
from pointing import LAYERS, compute_pointing_loss, score_visual
from targets import FIRST_SHAPE
from torch import Tensor
from torch.nn import functional as F
from tower import embed_patches
from transformers import CLIPVisionModel, LlavaForConditionalGeneration
from vocabulary import GRID, KINDS

PATCHES = GRID * GRID
POINTING_WEIGHT = 0.3


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


def choose_patches(
    attention: Tensor | None, points: Tensor, mode: str, kept: int, generator: torch.Generator
) -> Tensor:
    """Indices of the kept patches in reading order [batch, kept].

    `all` keeps all; `cls` the ones with most CLS attention, as compressors do; `random` any;
    `occupied` those with objects first, so that nearly every question can be answered.

    Args:
        attention: CLS attention [batch, 576], read by `cls` only.
        points: int64 [batch, 576, POINTS, FIELDS], read by `occupied` only.
    """
    if mode == "all":
        return torch.arange(PATCHES).expand(len(points), PATCHES)
    scores = torch.rand(points.shape[:2], generator=generator)
    if mode == "occupied":
        scores = scores + mark_occupied(points).cpu()
    if mode == "cls":
        if attention is None:
            raise ValueError("mode 'cls' ranks by the tower's attention, and there is none")
        scores = attention.cpu()
    return scores.topk(kept, dim=-1).indices.sort(dim=-1).values


def compute_answer_loss(
    model: LlavaForConditionalGeneration,
    visual: Tensor,
    pack: Pack,
    prefix: list[int],
    evidence: Tensor,
    counted: Tensor,
) -> tuple[Tensor, dict[str, float]]:
    """Loss over the answers' tokens and over where they are read from, and what to log.

    Args:
        visual: [batch, kept, width], what the projector gives.
        evidence: bool [2, asked, kept], what `mark_evidence` gives for the kept patches.
        counted: bool [asked], what `mark_counted` gives.
    """
    device = visual.device
    embed = model.get_input_embeddings()
    head = embed(torch.tensor(prefix, device=device)).expand(len(visual), -1, -1)
    hidden = torch.cat([head, visual.to(head.dtype), embed(pack.tokens)], dim=1)
    before = len(prefix) + visual.shape[1]
    decoder = model.model.language_model
    mask, positions = build_mask(pack, before), build_positions(pack, before)
    turns = decoder.rotary_emb(hidden, position_ids=positions)
    pointing = []
    for place, layer in enumerate(decoder.layers):
        if place in LAYERS:
            marks = evidence[LAYERS.index(place)]
            shown = score_visual(layer, hidden, turns, pack, len(prefix), visual.shape[1])
            pointing.append(compute_pointing_loss(*shown, marks, counted))
        hidden = layer(hidden, attention_mask=mask, position_embeddings=turns)
    logits = model.lm_head(decoder.norm(hidden[:, before:][pack.asked])).float()
    targets = pack.tokens.roll(-1, dims=1)[pack.asked]
    loss = F.cross_entropy(logits, targets)
    pointed = torch.stack(pointing).mean()
    scores = {"loss": loss.item(), "pointing loss": pointed.item()}
    scores.update(score_answers(logits.argmax(-1) == targets, pack))
    return loss + POINTING_WEIGHT * pointed, scores


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
