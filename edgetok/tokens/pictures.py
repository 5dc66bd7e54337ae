"""Several pictures of one prompt, or frames: each for itself, and what they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from edgetok import names
from edgetok.tokens.features import Features
from edgetok.tokens.plan import Plan


def share_evenly(budget: int, pictures: int) -> list[int]:
    """As equal as whole numbers are, larger shares first.

    >>> share_evenly(8, 3)
    [3, 3, 2]
    """
    return [budget // pictures + (number < budget % pictures) for number in range(pictures)]


def split_pictures(features: Features) -> list[Features]:
    """What a method may look at of each picture alone: its rows, and all that is of no picture."""
    n, count = features.picture_tokens, features.pictures
    views = []
    for number in range(count):
        rows = slice(number * n, (number + 1) * n)
        probes = {
            name: value
            if name in names.OF_REQUEST
            else value[number : number + 1]
            if name == names.CLS_FEATURE
            else value[rows]
            for name, value in features.probes.items()
        }
        vision = None if features.vision is None else features.vision[rows]
        views.append(
            replace(features, x=features.x[rows], probes=probes, vision=vision, pictures=1)
        )
    return views


def join_plans(plans: Sequence[Plan], n: int) -> Plan:
    """One plan for all pictures of `n` rows each, from a plan for each.

    CLS rows, which a plan has behind its patches, stand behind those of all pictures.
    """
    count = len(plans)
    shifted = [
        torch.where(plan.indices < 0, -1, plan.indices + number * n)
        for number, plan in enumerate(plans)
    ]
    indices, sizes = torch.cat(shifted), torch.cat([plan.sizes for plan in plans])
    if all(plan.weights is None for plan in plans):
        return Plan(indices, sizes, n * count)
    has_cls = max(plan.source_rows for plan in plans) > n
    matrices = []
    for number, plan in enumerate(plans):
        own = plan.matrix()
        blocks = [own.new_zeros(len(own), n)] * count
        blocks[number] = own[:, :n]
        if has_cls:
            cls = [own.new_zeros(len(own), 1)] * count
            cls[number] = own[:, n:] if plan.source_rows > n else cls[number]
            blocks += cls
        matrices.append(torch.cat(blocks, dim=1))
    return Plan(indices, sizes, n * count + count * has_cls, torch.cat(matrices))
