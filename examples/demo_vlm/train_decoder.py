"""Phases two and three: decoder and projector over the tower's features, then all together."""

from collections import deque
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from decoder import (
    Sight,
    choose_patches,
    compute_decoder_loss,
    list_names,
    look,
    mark_occupied,
    name_patches,
)
from journal import Journal, Settings
from optimiser import Optimiser
from packing import Packer
from questions import Question, ask_questions
from scenes import Scene, draw_scene
from splits import open_split
from targets import cut_lesson
from torch import Tensor
from tower import TowerHeads, compute_point_loss
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast
from vocabulary import GRID

SHARES_PER_STEP = 4
"""Parts of a step whose gradients the workers compute on their own."""
IMAGES_PER_SHARE = 2
FRESH_PER_SHARE = 1
"""The other image of a share was seen before, with other questions and other tokens."""
POOL_SCENES = 1000
"""How many seen scenes each share remembers."""
KINDS_PER_IMAGE = (
    ["reading"] * 2 + ["detail"] * 4 + ["attribute"] * 5 + ["place"] * 6 + ["global"] * 4
)
KEPT = (64, 96, 128, 192)
"""How many visual tokens a sampled subset keeps."""
NAMING_EARLY, NAMING_LATE = 0.3, 0.05
POINTS_WEIGHT = 0.3
"""Weights beside the answers' loss: of naming, and in the joint phase of the points' targets."""
EARLY = 0.65
"""Up to this share of the decoder's budget most images come as their occupied patches only."""


@dataclass(frozen=True)
class Seen:
    """A scene and what the tower made of it; the tensors have no batch dimension."""

    scene: Scene
    sight: Sight


def pick_mode(rng: np.random.Generator, early: bool) -> tuple[str, int]:
    """How visual tokens are sampled in a step, and how many are kept."""
    shares = {"all": 0.12, "cls": 0.2, "random": 0.03, "occupied": 0.65}
    if not early:
        shares = {"all": 0.3, "cls": 0.45, "random": 0.1, "occupied": 0.15}
    mode = str(rng.choice(list(shares), p=list(shares.values())))
    kept = 128 if mode == "occupied" else int(rng.choice(KEPT))
    return mode, kept


def stack_sights(seen: list[Seen]) -> Sight:
    """One batch from several scenes."""
    sights = [item.sight for item in seen]
    return Sight(
        features=torch.stack([sight.features.float() for sight in sights]),
        attention=torch.stack([sight.attention for sight in sights]),
        occupied=torch.stack([sight.occupied for sight in sights]),
        names=torch.stack([sight.names for sight in sights]),
    )


class Share:
    """One of the parts of every step, with scenes of its own."""

    def __init__(
        self,
        number: int,
        settings: Settings,
        model: LlavaForConditionalGeneration,
        packer: Packer,
        heads: TowerHeads | None,
    ) -> None:
        self.number, self.settings, self.model, self.heads = number, settings, model, heads
        self.packer, self.prefix = packer, packer.prefix
        self.names = list_names(packer.tokenizer)
        self.pool: deque[Seen] = deque(maxlen=POOL_SCENES)

    def see_fresh(
        self, seeds: list[int], rng: np.random.Generator
    ) -> tuple[list[Scene], Sight, Tensor]:
        """Scenes of the seeds, what the tower makes of them, and its auxiliary loss."""
        scenes = [draw_scene(seed) for seed in seeds]
        lesson = cut_lesson(scenes, GRID, 1, rng)
        device = self.settings.device
        features, attention = look(self.model.model.vision_tower, lesson.pixels.to(device))
        loss = features.new_zeros(())
        if self.heads is not None:
            loss = compute_point_loss(self.heads, features, lesson.points.to(device))
        names = name_patches(lesson.points, *self.names).to(device)
        occupied = mark_occupied(lesson.points).to(device)
        return scenes, Sight(features, attention, occupied, names), loss

    def see_pooled(self, seeds: list[int], rng: np.random.Generator) -> tuple[list[Scene], Sight]:
        """Fresh scenes and as many from the pool, with features at rest."""
        with torch.no_grad():
            scenes, sight, _ = self.see_fresh(seeds, rng)
        light = Sight(sight.features.half(), sight.attention, sight.occupied, sight.names)
        fresh = []
        for place, scene in enumerate(scenes):
            bare = replace(scene, pixels=np.empty((0, 0, 3), np.uint8))
            fresh.append(Seen(bare, light.take(torch.tensor(place))))
        known = IMAGES_PER_SHARE - len(fresh)
        old = []
        if self.pool:
            old = [self.pool[int(place)] for place in rng.integers(0, len(self.pool), known)]
        self.pool.extend(fresh)
        seen = fresh + old
        return [item.scene for item in seen], stack_sights(seen)

    def ask(self, scenes: list[Scene], rng: np.random.Generator) -> list[list[Question]]:
        """Questions about each scene."""
        return [ask_questions(scene, KINDS_PER_IMAGE, rng) for scene in scenes]

    def compute_loss(self, step: int, early: bool) -> tuple[Tensor, dict[str, float]]:
        """Loss of the share of a step; the tower learns too where there are heads."""
        joint = self.heads is not None
        mode, kept = pick_mode(np.random.default_rng([self.settings.seed, step]), early)
        rng = np.random.default_rng([self.settings.seed, step, self.number, 2 + int(joint)])
        count = IMAGES_PER_SHARE if joint else FRESH_PER_SHARE
        seeds = [int(seed) for seed in rng.integers(0, len(open_split("train")), count)]
        extra: Tensor | float = 0.0
        if joint:
            scenes, sight, extra = self.see_fresh(seeds, rng)
        else:
            scenes, sight = self.see_pooled(seeds, rng)
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        chosen = choose_patches(sight, mode, kept, generator)
        pack = self.packer.pack(self.ask(scenes, rng)).to(self.settings.device)
        loss, scores = compute_decoder_loss(
            self.model, sight, chosen, pack, self.prefix, NAMING_EARLY if early else NAMING_LATE
        )
        return loss + POINTS_WEIGHT * extra, {f"{mode}/{name}": s for name, s in scores.items()}


def train_answers(
    settings: Settings,
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    heads: TowerHeads,
    minutes: float,
    rates: tuple[float, float],
    joint: bool,
) -> None:
    """Trains answers in place for the budget: the decoder alone, or jointly with the tower."""
    if minutes <= 0:
        return  # and leave no state: a later, longer call would take it for trained
    journal = Journal(settings, "joint" if joint else "decoder", minutes)
    packer = Packer(tokenizer)
    shares = [
        Share(number, settings, model, packer, heads if joint else None)
        for number in range(SHARES_PER_STEP)
    ]
    tower = model.model.vision_tower
    tower.requires_grad_(joint)
    parts: dict[str, Any] = {"model": model, "heads": heads}
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    named += list(heads.named_parameters()) if joint else []
    parts["optimiser"] = optimiser = Optimiser(named, rates, settings.workers, settings.bf16)
    state = journal.resume()
    for name, part in parts.items():
        if state is not None:
            part.load_state_dict(state[name])

    def collect() -> dict[str, Any]:
        return {name: part.state_dict() for name, part in parts.items()}

    def study(share: Share) -> tuple[Tensor, dict[str, float]]:
        with settings.autocast():
            return share.compute_loss(journal.steps, not joint and journal.progress < EARLY)

    tasks = [partial(study, share) for share in shares]
    parameters = [parameter for _, parameter in named]
    while journal.progress < 1:
        scores = settings.workers.compute_gradients(parameters, tasks)
        optimiser.step(journal.rate_factor)
        journal.record(scores)
        journal.save(collect)
    journal.save(collect, force=True)
    tower.requires_grad_(True)
