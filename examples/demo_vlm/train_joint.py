"""Phases three and four: the projector learns to write features as symbols, then all learn."""

from functools import partial
from typing import Any

import numpy as np
import torch
from decoder import choose_patches, compute_answer_loss, look, mark_occupied
from journal import Journal, Settings
from lessons import ask_about, draw_seeds, know, make_generator, pick_mode
from optimiser import Optimiser
from packing import Packer
from pointing import mark_evidence, take_evidence
from scenes import Scene, draw_scene
from symbols import Symbols
from targets import cut_lesson
from torch import Tensor
from torch.nn import functional as F
from tower import TowerHeads, compute_point_loss, compute_tower_loss
from train_tower import draw_lesson, move_lesson
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast
from vocabulary import GRID

PROJECTOR_SHARES, PROJECTOR_SCENES = 2, 2
PROJECTOR_RATES = (0.01, 3e-3)
JOINT_SHARES, JOINT_SCENES = 2, 2
JOINT_RATES = (0.004, 4e-4)
"""Peak learning rates of Muon and AdamW."""
BACKGROUND_WEIGHT = 0.1
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


def compute_writing_loss(
    model: LlavaForConditionalGeneration, symbols: Symbols, features: Tensor, points: Tensor
) -> Tensor:
    """Squared distance of projected features from the symbols of what the patches show."""
    patches = torch.arange(features.shape[1], device=features.device).expand(len(features), -1)
    wanted = symbols(points, patches)
    weights = torch.where(mark_occupied(points), 1.0, BACKGROUND_WEIGHT)
    distance = F.mse_loss(
        model.model.multi_modal_projector(features).float(), wanted, reduction="none"
    )
    return (distance.mean(-1) * weights).sum() / weights.sum()


def train_projector(
    settings: Settings, model: LlavaForConditionalGeneration, symbols: Symbols, minutes: float
) -> None:
    """Trains the projector in place for the budget; tower and decoder rest."""
    journal = Journal(settings, "projector", minutes)
    projector = model.model.multi_modal_projector
    named = list(projector.named_parameters())
    optimiser = Optimiser(named, PROJECTOR_RATES, settings.workers, settings.bf16)
    parts: dict[str, Any] = {"projector": projector, "optimiser": optimiser}
    journal.restore(parts)
    symbols.requires_grad_(False)

    def study(share: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng([settings.seed, journal.steps, share, 4])
        _, pixels, points = show_scenes(draw_seeds(rng, PROJECTOR_SCENES), settings.device)
        with settings.autocast():
            with torch.no_grad():
                features, _ = look(model.model.vision_tower, pixels)
            loss = compute_writing_loss(model, symbols, features, points)
        return loss, {"loss": loss.item()}

    tasks = [partial(study, share) for share in range(PROJECTOR_SHARES)]
    parameters = [parameter for _, parameter in named]
    while journal.progress < 1:
        scores = settings.workers.compute_gradients(parameters, tasks)
        optimiser.step(journal.rate_factor)
        journal.record(scores)
        journal.save(parts)
    journal.save(parts, force=True)


class Share:
    """One of the parts of every joint step."""

    def __init__(
        self,
        number: int,
        settings: Settings,
        model: LlavaForConditionalGeneration,
        heads: TowerHeads,
        packer: Packer,
        modes: dict[str, float],
    ) -> None:
        self.number, self.settings, self.modes = number, settings, modes
        self.model, self.heads, self.packer = model, heads, packer
        self.prefix = packer.prefix

    def compute_loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """Loss of the share of a step: answers, and what the tower sees."""
        mode, kept = pick_mode(self.modes, np.random.default_rng([self.settings.seed, step, 5]))
        rng = np.random.default_rng([self.settings.seed, step, self.number, 6])
        scenes, pixels, points = show_scenes(draw_seeds(rng, JOINT_SCENES), self.settings.device)
        features, attention = look(self.model.model.vision_tower, pixels)
        seeing = compute_point_loss(self.heads, features, points)
        chosen = choose_patches(attention, points, mode, kept, make_generator(rng)).to(
            features.device
        )
        rows = torch.arange(len(chosen), device=features.device)[:, None]
        visual = self.model.model.multi_modal_projector(features[rows, chosen])
        questions, conversation = ask_about(scenes, rng)
        pack = self.packer.pack(questions, conversation).to(self.settings.device)
        known = [know(scene) for scene in scenes]
        evidence = take_evidence(mark_evidence(known, questions, pack), pack, chosen)
        loss, scores = compute_answer_loss(self.model, visual, pack, self.prefix, evidence)
        named = {f"{mode}/{name}": score for name, score in scores.items()}
        return loss + POINTS_WEIGHT * seeing, {**named, "seeing loss": seeing.item()}


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
    packer = Packer(tokenizer)
    shares = [
        Share(number, settings, model, heads, packer, modes) for number in range(JOINT_SHARES)
    ]
    named = [*model.named_parameters(), *heads.named_parameters()]
    optimiser = Optimiser(named, JOINT_RATES, settings.workers, settings.bf16)
    parts: dict[str, Any] = {"model": model, "heads": heads, "optimiser": optimiser}
    journal.restore(parts)

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

    tasks = [*(partial(answer, share) for share in shares), see]
    parameters = [parameter for _, parameter in named]
    while journal.progress < 1:
        scores = settings.workers.compute_gradients(parameters, tasks)
        optimiser.step(journal.rate_factor)
        journal.record(scores)
        journal.save(parts)
    journal.save(parts, force=True)
