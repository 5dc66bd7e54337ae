"""Phases three and four: the projector learns to write features as symbols, then all learn."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from decoder import choose_patches, look, mark_occupied
from journal import Journal, Settings
from lessons import draw_seeds, know, make_generator
from phase import Share, Shown, run_phase
from scenes import Scene, draw_scene
from symbols import Symbols
from targets import cut_lesson
from torch import Tensor, nn
from torch.nn import functional as F
from tower import TowerHeads, compute_point_loss, compute_tower_loss
from train_tower import draw_lesson, move_lesson
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast
from vocabulary import GRID

PROJECTOR_SCENES, SCENES_PER_LOOK, LOOKS_AT_ONCE = 1000, 4, 10
PATCHES_PER_STEP = 2048
PROJECTOR_RATE = 3e-3
BACKGROUND_SHARE = 0.08
"""Of the patches without an object that the projector learns from; they are most of a scene."""
JOINT_SHARES, JOINT_SCENES = 2, 2
JOINT_RATES = (0.001, 1e-4)
"""Peak learning rates of Muon and AdamW."""
POINTS_WEIGHT = 0.3
"""Of the points' targets beside the answers' loss."""
WINDOWS_WEIGHT = 0.1
"""Of the tower's own lessons, so that it does not forget what no question asks about."""
WHOLE_LESSONS = 0.25
MODES = {"all": 0.3, "cls": 0.45, "random": 0.1, "occupied": 0.15}


def show_scenes(seeds: list[int], device: torch.device) -> tuple[list[Scene], Tensor, Tensor]:
    """Scenes, their pixels and their points on the device."""
    scenes = [draw_scene(seed) for seed in seeds]
    lesson = move_lesson(cut_lesson(scenes, GRID, 1, np.random.default_rng(0)), device)
    return scenes, lesson.pixels, lesson.points


@dataclass(frozen=True)
class Patches:
    """Patches of many scenes: what the tower makes of them, and what they show."""

    features: Tensor
    """float32 [patches, width of the tower]"""
    points: Tensor
    """int64 [patches, POINTS, FIELDS]"""
    places: Tensor
    """int64 [patches]: places in the grid"""


def collect_patches(journal: Journal, model: LlavaForConditionalGeneration) -> Patches:
    """The occupied patches of many scenes, and a few of their background.

    Stops early where half of the phase's budget is used.
    """
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    see = partial(see_patches, journal.settings, model)
    for start in range(0, PROJECTOR_SCENES // SCENES_PER_LOOK, LOOKS_AT_ONCE):
        if found and journal.progress > 0.5:
            break
        found += journal.settings.workers.map(see, range(start, start + LOOKS_AT_ONCE))
    columns = [torch.cat(parts) for parts in zip(*found, strict=True)]
    return Patches(*columns)


@torch.no_grad()
def see_patches(
    settings: Settings, model: LlavaForConditionalGeneration, number: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Features, points and places of patches of a few scenes."""
    rng = np.random.default_rng([settings.seed, number, 4])
    _, pixels, points = show_scenes(draw_seeds(rng, SCENES_PER_LOOK), settings.device)
    with settings.autocast():
        features, _ = look(model.model.vision_tower, pixels)
    lucky = torch.rand(points.shape[:2], generator=make_generator(rng)) < BACKGROUND_SHARE
    taken = mark_occupied(points) | lucky.to(points.device)
    places = torch.arange(taken.shape[1], device=taken.device).expand_as(taken)
    return features.float()[taken], points[taken], places[taken]


def train_projector(
    settings: Settings, model: LlavaForConditionalGeneration, symbols: Symbols, minutes: float
) -> None:
    """Trains the projector in place for the budget; tower and decoder rest."""
    journal = Journal(settings, "projector", minutes)
    projector = model.model.multi_modal_projector
    optimiser = torch.optim.AdamW(projector.parameters(), lr=PROJECTOR_RATE, weight_decay=0.0)
    parts: dict[str, Any] = {"projector": projector, "optimiser": optimiser}
    journal.restore(parts)
    if journal.progress >= 1:
        return
    patches = collect_patches(journal, model)
    generator = torch.Generator().manual_seed(settings.seed)
    while journal.progress < 1:
        rows = torch.randint(len(patches.places), (PATCHES_PER_STEP,), generator=generator)
        for group in optimiser.param_groups:
            group["lr"] = PROJECTOR_RATE * journal.rate_factor
        loss = compute_writing_loss(projector, symbols, patches, rows.to(settings.device))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        journal.record({"loss": loss.item()})
        journal.save(parts)
    journal.save(parts, force=True)


def compute_writing_loss(
    projector: nn.Module, symbols: Symbols, patches: Patches, rows: Tensor
) -> Tensor:
    """Squared distance of projected features from the symbols of what the patches show."""
    with torch.no_grad():
        wanted = symbols(patches.points[rows][None], patches.places[rows][None])[0]
    return F.mse_loss(projector(patches.features[rows]).float(), wanted)


def show_pixels(
    settings: Settings,
    model: LlavaForConditionalGeneration,
    heads: TowerHeads,
    mode: str,
    kept: int,
    rng: np.random.Generator,
) -> Shown:
    """Scenes as the tower and the projector have them, and the tower's own loss."""
    scenes, pixels, points = show_scenes(draw_seeds(rng, JOINT_SCENES), settings.device)
    features, attention = look(model.model.vision_tower, pixels)
    seeing = compute_point_loss(heads, features, points)
    chosen = choose_patches(attention, points, mode, kept, make_generator(rng))
    rows = torch.arange(len(chosen))[:, None]
    visual = model.model.multi_modal_projector(features[rows, chosen])
    known = [know(scene) for scene in scenes]
    return Shown(known, chosen, visual, POINTS_WEIGHT * seeing, {"seeing loss": seeing.item()})


def train_joint(
    settings: Settings,
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    heads: TowerHeads,
    minutes: float,
    modes: dict[str, float],
) -> None:
    """Trains the whole model in place for the budget."""
    journal = Journal(settings, "joint", minutes)

    def answer(share: Share) -> tuple[Tensor, dict[str, float]]:
        with settings.autocast():
            return share.compute_loss(journal.steps)

    def see() -> tuple[Tensor, dict[str, float]]:
        whole = np.random.default_rng([settings.seed, journal.steps, 7]).random() < WHOLE_LESSONS
        lesson = draw_lesson(settings, journal.steps, JOINT_SHARES, bool(whole))
        with settings.autocast():
            loss, scores = compute_tower_loss(
                model.model.vision_tower, heads, move_lesson(lesson, settings.device), True
            )
        return WINDOWS_WEIGHT * loss, {f"tower/{name}": score for name, score in scores.items()}

    show = partial(show_pixels, settings, model, heads)
    shares = [
        Share(number, settings, model, tokenizer, modes, show) for number in range(JOINT_SHARES)
    ]
    named = [*model.named_parameters(), *heads.named_parameters()]
    tasks = [*(partial(answer, share) for share in shares), see]
    run_phase(journal, {"model": model, "heads": heads}, named, JOINT_RATES, tasks)
