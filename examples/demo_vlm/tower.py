"""The vision tower while it learns: its forward pass on windows, and its auxiliary heads."""

import torch
from model_build import PIXEL_MEAN, PIXEL_STD
from targets import (
    BAG,
    FIELD_PLACES,
    FIELDS,
    FIRST_CHARACTER,
    FIRST_DIGIT,
    FIRST_SHAPE,
    POINTS,
    Lesson,
)
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPVisionModel

BACKGROUND_WEIGHT = 0.1
"""Most points show background; so much less does each of them count."""
FIELD_WEIGHTS = {"what": 2.0}
"""Reading is the hard part; the other fields count 1."""
BAG_WEIGHT = 40.0
"""The bag's loss is a mean over hundreds of targets, most of them never hard."""


class TowerHeads(nn.Module):
    """Auxiliary heads: targets of each point from its patch, the bag from the CLS token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.points = nn.Linear(width, POINTS * sum(FIELDS.values()))
        self.bag = nn.Linear(width, BAG)
        self.bag_pooled = nn.Linear(width, BAG)

    def read_points(self, features: Tensor) -> tuple[Tensor, ...]:
        """Logits per field [batch, patches, POINTS, classes] from [batch, patches, width]."""
        logits = self.points(features).unflatten(-1, (POINTS, -1))
        return torch.split(logits, list(FIELDS.values()), dim=-1)


class FusedQuickGelu(nn.Module):
    """CLIP's activation, `x * sigmoid(1.702 x)`, in an operator with a fast gradient."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Same shape as the input."""
        return F.silu(hidden * 1.702) * (1 / 1.702)


def speed_up(tower: CLIPVisionModel) -> None:
    """Same mathematics in operators whose gradients are quick on a processor: 1.4x as fast."""
    tower.set_attn_implementation("eager")
    for layer in tower.encoder.layers:
        layer.mlp.activation_fn = FusedQuickGelu()


def normalise(pixels: Tensor) -> Tensor:
    """uint8 pixels as the preprocessor hands them to the tower, fp32."""
    mean = torch.tensor(PIXEL_MEAN, device=pixels.device).view(3, 1, 1)
    std = torch.tensor(PIXEL_STD, device=pixels.device).view(3, 1, 1)
    return (pixels.float() / 255 - mean) / std


def embed_patches(tower: CLIPVisionModel, pixels: Tensor, positions: Tensor) -> Tensor:
    """Patch and position embeddings [batch, 1 + patches, width], CLS first.

    A window takes its own places of the full grid, so positions need no interpolation later.
    """
    part = tower.embeddings
    patches = part.patch_embedding(normalise(pixels)).flatten(2).mT
    patches = patches + part.position_embedding(positions + 1)
    start = part.class_embedding + part.position_embedding.weight[0]
    hidden = torch.cat([start.expand(len(patches), 1, -1), patches], dim=1)
    normed: Tensor = tower.pre_layrnorm(hidden)
    return normed


def see(tower: CLIPVisionModel, pixels: Tensor, positions: Tensor) -> Tensor:
    """`hidden_states[-2]` [batch, 1 + patches, width]: all blocks but the last."""
    hidden = embed_patches(tower, pixels, positions)
    for layer in tower.encoder.layers[:-1]:
        hidden = layer(hidden, None)
    return hidden


def compute_tower_loss(
    tower: CLIPVisionModel, heads: TowerHeads, lesson: Lesson, with_last_block: bool
) -> tuple[Tensor, dict[str, float]]:
    """Loss over points and bag, and what to log.

    The last block is read by no one but the pooled CLS loss, so it is trained now and then only.
    """
    hidden = see(tower, lesson.pixels, lesson.positions)
    fields = heads.read_points(hidden[:, 1:])
    loss = weigh_points(fields, lesson.points)
    bag = F.binary_cross_entropy_with_logits(heads.bag(hidden[:, 0]), lesson.bag)
    loss = loss + BAG_WEIGHT * bag
    if with_last_block:
        pooled = tower.post_layernorm(tower.encoder.layers[-1](hidden, None)[:, 0])
        loss = loss + F.binary_cross_entropy_with_logits(heads.bag_pooled(pooled), lesson.bag)
    return loss, {"loss": loss.item(), "bag": bag.item(), **score_points(fields, lesson.points)}


def weigh_points(fields: tuple[Tensor, ...], points: Tensor) -> Tensor:
    """Cross-entropy summed over fields, points of the background weighted down."""
    weights = torch.where(points[..., 0] < FIRST_SHAPE, BACKGROUND_WEIGHT, 1.0).flatten()
    loss = fields[0].new_zeros(())
    for place, (name, logits) in enumerate(zip(FIELDS, fields, strict=True)):
        labels = points[..., place].flatten()
        each = F.cross_entropy(logits.flatten(0, 2), labels, reduction="none")
        loss = loss + FIELD_WEIGHTS.get(name, 1.0) * (each * weights).sum() / weights.sum()
    return loss


def compute_point_loss(heads: TowerHeads, features: Tensor, points: Tensor) -> Tensor:
    """The points' loss from features without CLS [batch, patches, width]."""
    return weigh_points(heads.read_points(features), points)


@torch.no_grad()
def score_points(fields: tuple[Tensor, ...], labels: Tensor) -> dict[str, float]:
    """Share of right points per group of things, and of right colours and orders."""
    what = labels[..., 0]
    right = fields[0].argmax(-1) == what
    groups = {
        "background": what < FIRST_SHAPE,
        "shape": (what >= FIRST_SHAPE) & (what < FIRST_DIGIT),
        "digit": (what >= FIRST_DIGIT) & (what < FIRST_CHARACTER),
        "character": what >= FIRST_CHARACTER,
    }
    scores = {name: right[mask].float().mean().item() for name, mask in groups.items()}
    colour, order = labels[..., 1], labels[..., 2]
    scores["colour"] = (fields[1].argmax(-1) == colour)[colour > 0].float().mean().item()
    scores["order"] = (fields[2].argmax(-1) == order)[order > 0].float().mean().item()
    for name in ("role", "across", "down"):
        place = FIELD_PLACES[name]
        hits = fields[place].argmax(-1) == labels[..., place]
        scores[name] = hits[labels[..., FIELD_PLACES["role"]] > 0].float().mean().item()
    place = FIELD_PLACES["anchor"]
    scores["anchor"] = fields[place].argmax(-1)[labels[..., place] == 1].float().mean().item()
    return scores
