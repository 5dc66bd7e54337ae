"""Phase one: the vision tower alone learns what stands in each patch."""

from functools import partial

import numpy as np
import torch
from journal import Journal, Settings
from phase import run_phase
from scenes import draw_scene
from sheets import draw_sheet
from splits import open_split
from targets import Lesson, cut_lesson
from torch import Tensor
from tower import TowerHeads, compute_tower_loss, speed_up
from transformers import CLIPVisionModel
from vocabulary import GRID

WINDOW_PATCHES = 12
"""96 pixels: a quarter of the scene, with glyphs at their final size."""
WINDOWS_PER_SCENE = 4
SCENES_PER_STEP = 8
SCENES_PER_SHARE = 2
"""Scenes whose gradient one worker computes at a time."""
SHEET_SHARE = 0.75
"""Of the pictures that windows are cut from; the others are scenes."""
WHOLE_SCENES_FROM = 0.75
"""From this share of the budget on the tower sees whole pictures, a third of them sheets."""
LAST_BLOCK_STEPS = 6
"""The last block is trained in every sixth step; nothing but the pooled loss depends on it."""
RATES = (0.015, 2e-3)
"""Peak learning rates of Muon and AdamW."""


def draw_lesson(settings: Settings, step: int, share: int, whole: bool) -> Lesson:
    """The lesson of a share of a step; it depends on seed, place and stage alone."""
    rng = np.random.default_rng([settings.seed, step, share, int(whole)])
    seeds = rng.integers(0, len(open_split("train")), SCENES_PER_SHARE)
    sheet_share = 1 / 3 if whole else SHEET_SHARE
    scenes = [(draw_sheet if rng.random() < sheet_share else draw_scene)(int(s)) for s in seeds]
    if whole:
        return cut_lesson(scenes, GRID, 1, rng)
    return cut_lesson(scenes, WINDOW_PATCHES, WINDOWS_PER_SCENE, rng)


def move_lesson(lesson: Lesson, device: torch.device) -> Lesson:
    """The lesson on the device."""
    return Lesson(**{name: value.to(device) for name, value in vars(lesson).items()})


def train_tower(settings: Settings, tower: CLIPVisionModel, minutes: float) -> TowerHeads:
    """Trains the tower in place for the budget; returns the auxiliary heads."""
    journal = Journal(settings, "tower", minutes)
    speed_up(tower)
    heads = TowerHeads(tower.config.hidden_size).to(settings.device)

    def study(share: int) -> tuple[Tensor, dict[str, float]]:
        whole = journal.progress >= WHOLE_SCENES_FROM
        lesson = draw_lesson(settings, journal.steps, share, whole)
        last = journal.steps % LAST_BLOCK_STEPS == 0
        with settings.autocast():
            return compute_tower_loss(tower, heads, move_lesson(lesson, settings.device), last)

    named = [*tower.named_parameters(), *heads.named_parameters()]
    tasks = [partial(study, share) for share in range(SCENES_PER_STEP // SCENES_PER_SHARE)]
    run_phase(journal, {"tower": tower, "heads": heads}, named, RATES, tasks)
    return heads
