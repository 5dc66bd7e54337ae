"""What the decoder is asked in training: scenes, their targets, questions about them, and which
visual tokens it is shown."""

from collections import deque
from dataclasses import dataclass, replace

import numpy as np
import torch
from questions import Question, ask_questions
from scenes import Scene, draw_scene
from splits import open_split
from targets import FIELDS, describe_points, map_owners
from torch import Tensor

KINDS_PER_IMAGE = (
    ["reading"] * 2 + ["detail"] * 4 + ["attribute"] * 5 + ["place"] * 6 + ["global"] * 4
)
KEPT = (64, 96, 128, 192)
"""How many visual tokens a sampled subset keeps."""
CONVERSATION_SHARE = 0.15
"""Of the rows: their questions are turns of one conversation instead of each by itself."""
POOL_SCENES = 1500
ALL_TOKENS = {"all": 1.0}
"""How a model is trained that never sees fewer visual tokens than all."""


@dataclass(frozen=True)
class Known:
    """A scene without its pixels, and what stands where."""

    scene: Scene
    points: Tensor
    """int64 [576, POINTS, FIELDS]: targets"""
    owners: Tensor
    """int64 [576, POINTS]: cells, as `list_cells` counts them"""


def draw_seeds(rng: np.random.Generator, count: int) -> list[int]:
    """Scenes of the train range."""
    return [int(seed) for seed in rng.integers(0, len(open_split("train")), count)]


def know_scene(seed: int) -> Known:
    """The scene of a seed, as the decoder's phase needs it."""
    return know(draw_scene(seed))


def know(scene: Scene) -> Known:
    """What is to be known of a scene."""
    points = torch.from_numpy(describe_points(scene)[..., : len(FIELDS)]).flatten(0, 1)
    owners = torch.from_numpy(map_owners(scene)).flatten(0, 1)
    return Known(replace(scene, pixels=np.empty((0, 0, 3), np.uint8)), points, owners)


class Pool:
    """Scenes that come again with other questions: drawing one costs more than asking about it."""

    def __init__(self) -> None:
        self._known: deque[Known] = deque(maxlen=POOL_SCENES)

    def draw(self, rng: np.random.Generator, fresh: int, old: int) -> list[Known]:
        """So many new scenes, and so many met before as far as there are any."""
        new = [know_scene(seed) for seed in draw_seeds(rng, fresh)]
        again = rng.integers(0, len(self._known), old) if self._known else []
        met = [self._known[int(place)] for place in again]
        self._known.extend(new)
        return new + met


def ask_about(scenes: list[Scene], rng: np.random.Generator) -> tuple[list[list[Question]], bool]:
    """Questions about each scene, and whether they are turns of a conversation."""
    questions = [ask_questions(scene, KINDS_PER_IMAGE, rng) for scene in scenes]
    conversation = bool(rng.random() < CONVERSATION_SHARE)
    if conversation:
        questions = [[row[int(place)] for place in rng.permutation(len(row))] for row in questions]
    return questions, conversation


def pick_mode(shares: dict[str, float], rng: np.random.Generator) -> tuple[str, int]:
    """How visual tokens are sampled in a step, and how many are kept."""
    mode = str(rng.choice(list(shares), p=list(shares.values())))
    return mode, int(rng.choice(KEPT))


def make_generator(rng: np.random.Generator) -> torch.Generator:
    """torch's randomness, drawn from NumPy's."""
    return torch.Generator().manual_seed(int(rng.integers(2**31)))
