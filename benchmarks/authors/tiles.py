"""Methods for pictures in several parts: tiles behind a thumbnail, frames of a video."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from behind import ARCH, SIDE, N, shares
from frame import Row, Source, overlap, rounded
from torch import Tensor

from edgetok import names
from edgetok.methods import FRAME_METHODS, METHODS
from edgetok.tokens import Features, cut_segments, frame_similarity

GRID, PARTS = (2, 2), 5
RATES = (0.1, 0.2, 0.4)


def plan_of_tiles(name: str, probes: dict[str, Tensor], budget: int) -> list[int]:
    method: Any = METHODS[name]
    features = Features(torch.zeros(PARTS * N, 1), (SIDE, SIDE), probes, tiles=GRID)
    kept: list[int] = method.retile(GRID).compress(features, budget).indices.tolist()
    return kept


# --- HiRED ---------------------------------------------------------------------------------------

HIRED = "transformers/src/transformers/models/"


def compare_hired(source: Source) -> Iterator[float]:
    code = source.take(HIRED + "llava/modeling_llava.py", "HiRED_token_selection")
    for seed in range(8):
        attention = shares(16, N + 1, seed)
        for rate in RATES:
            mask = code.HiRED_token_selection(None, attention[None, :, None], N, rate)
            features = Features(
                torch.zeros(N, 1), (SIDE, SIDE), {names.CLS_ATTENTION: attention.mean(0)[1:]}
            )
            plan = METHODS["hired"].compress(features, int(mask.sum()))
            yield overlap(mask.nonzero()[:, 0].tolist(), plan.indices.tolist())


def compare_hired_tiles(source: Source) -> Iterator[float]:
    path, wanted = HIRED + "llava_next/modeling_llava_next.py", "HiRED_sub_img_budgets"
    code = source.take(
        path, wanted, "HiRED_token_selection", get_anyres_image_grid_shape=lambda *_: GRID
    )
    config = SimpleNamespace(
        image_grid_pinpoints=None, vision_config=SimpleNamespace(image_size=336)
    )
    model = SimpleNamespace(config=config)
    model.HiRED_sub_img_budgets = lambda *given: code.HiRED_sub_img_budgets(model, *given)
    for seed in range(8):
        early, late = (shares(PARTS * 16, N + 1, seed + 9 * i) for i in (1, 2))
        early, late = (each.reshape(PARTS, 16, 1, N + 1) for each in (early, late))
        for rate in RATES:
            (mask,) = code.HiRED_token_selection(
                model, early, late, [PARTS], 0, N, rate, 0.5, [(672, 672)]
            )
            flat = {
                name: each[:, :, 0, 1:].mean(1).flatten()
                for name, each in ((names.EARLY_CLS_ATTENTION, early), (names.CLS_ATTENTION, late))
            }
            theirs = mask.flatten().nonzero()[:, 0].tolist()
            yield overlap(theirs, plan_of_tiles("hired", flat, len(theirs)))


# --- GlobalCom2 ----------------------------------------------------------------------------------

GLOBAL = (
    "generate_scale_for_crop_features", "extract_actual_dimensions", "get_original_indices",
    "get_actual_crop_dimensions", "interpolate_and_split_cls_attn_scores",
    "select_topk_crop_features", "compress_thumbnail", "compress_crops",
)  # fmt: skip


def globalcom2(source: Source) -> Iterator[tuple[list[int], list[int]]]:
    """What theirs keeps of random scores in its order, and ours at the same number."""
    code = source.take(ARCH, *GLOBAL, np=np, retention_ratio=0.25)
    model = SimpleNamespace(model=SimpleNamespace(image_newline=-torch.ones(2)))
    for seed in range(8):
        scores = 3 * torch.randn(PARTS, N, generator=torch.Generator().manual_seed(seed))
        tile, place = torch.arange(4.0).reshape(4, 1, 1), torch.arange(float(N)).reshape(1, N, 1)
        marks = torch.cat([tile.expand(4, N, 1), place.expand(4, N, 1)], 2)  # exact in half
        for rate in RATES:
            scales = code.generate_scale_for_crop_features(scores[0], *GRID, rate)
            _, whole = code.compress_thumbnail(None, marks[0], scores[0], rate)
            found = code.compress_crops(
                model, marks, scores[1:], scores[0], *GRID, SIDE, SIDE, (672, 672), scales
            ).long()
            found = found[found[:, 0] >= 0]
            theirs = whole.tolist() + (N + found[:, 0] * N + found[:, 1]).tolist()
            probes = {names.NEXT_CLS_LOGITS: scores.flatten()}
            yield theirs, plan_of_tiles("globalcom2", probes, len(theirs))


def compare_globalcom2(source: Source) -> Iterator[float]:
    for theirs, ours in globalcom2(source):
        yield overlap(theirs, ours)


def compare_globalcom2_order(source: Source) -> Iterator[float]:
    for theirs, ours in globalcom2(source):
        common = set(theirs) & set(ours)
        left, right = ([i for i in each if i in common] for each in (theirs, ours))
        yield overlap(enumerate(left), enumerate(right))


# --- HoliTom -------------------------------------------------------------------------------------

FRAMES, PATCHES = 12, (8, 8)
HOLITOM = (
    "select_static_windows", "get_static_dynamic_features", "holitom", "cluster_dpc_knn",
    "merge_tokens_by_clustering", "merge_tokens_by_attention_density", "merge_tokens_by_density",
)  # fmt: skip


def videos() -> Iterator[tuple[Tensor, Tensor]]:
    """Frames [P, N, 64] whose patches change now and then, and what each patch receives."""
    n = PATCHES[0] * PATCHES[1]
    for seed in range(12):
        draw = torch.Generator().manual_seed(seed)
        frames = [torch.randn(n, 64, generator=draw)]
        for _ in range(FRAMES - 1):
            new = torch.rand(n, 1, generator=draw) < torch.rand(1, generator=draw) ** 2
            fresh, noise = torch.randn(2, n, 64, generator=draw)
            frames.append(torch.where(new, fresh, frames[-1] + 0.3 * noise))
        received = torch.softmax(torch.randn(FRAMES, n, generator=draw), 1)
        yield torch.stack(frames), received


def compare_segments(source: Source) -> Iterator[float]:
    code = source.take("holitom/llava_arch.py", "select_static_windows")
    for x, _ in videos():
        still = frame_similarity(x.flatten(0, 1), FRAMES)
        found, _ = code.select_static_windows(None, still, FRAMES, 0.8, 1024)
        theirs = [first for first, last in found for _ in range(first, last + 1)]
        ours = [int(first) for first in cut_segments(still > 0.8)]
        yield overlap(enumerate(theirs), enumerate(ours))


def holitom(source: Source) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Their steps behind pooling, as `prepare_inputs_labels_for_multimodal` calls them.

    Rows that came in, those of theirs, and ours at the same number.
    """
    code = source.take("holitom/llava_arch.py", *HOLITOM)
    model: Any = type("Model", (), vars(code))()
    torch.manual_seed(0)  # their clusters draw
    for x, received in videos():
        still, n = frame_similarity(x.flatten(0, 1), FRAMES), x.shape[1]
        segments, gone = model.select_static_windows(still, FRAMES, 0.8, 1024)
        ratio = min(0.25 / (1 - gone / (FRAMES * n)), 1)
        parts = model.get_static_dynamic_features(x, received, segments, still, 0.8)
        made = [
            model.holitom(*(parts[i][number] for i in (0, 1, 3, 4, 5)), last - first + 1,
                          ratio, 0.0, 0.6, 7, x.dtype, "no_token")
            for number, (first, last) in enumerate(segments)
        ]  # fmt: skip
        theirs = torch.cat(made)
        probes = {names.RECEIVED_ATTENTION: received.flatten()}
        features = Features(x.flatten(0, 1), PATCHES, probes, pictures=FRAMES)
        ours = FRAME_METHODS["holitom"].compress(features, len(theirs)).apply(x.flatten(0, 1))
        yield x.flatten(0, 1), theirs, ours


def compare_holitom(source: Source) -> Iterator[float]:
    for _, theirs, ours in holitom(source):
        yield overlap(rounded(theirs), rounded(ours))


def compare_dynamic(source: Source) -> Iterator[float]:
    for x, theirs, ours in holitom(source):
        yield overlap(set(rounded(theirs)) & set(rounded(x)), rounded(ours))


COM2, TOM = ("xuyang-liu16/GlobalCom2", "96b2d00"), ("cokeshao/HoliTom", "e9b2972")

ROWS = (
    Row("hired", "hasanar1f/HiRED", "502d6dd", "kept patches, one part", compare_hired),
    Row("hired", "hasanar1f/HiRED", "502d6dd", "kept patches, 2 x 2 tiles", compare_hired_tiles),
    Row("globalcom2", *COM2, "kept patches, 2 x 2 tiles", compare_globalcom2),
    Row("globalcom2", *COM2, "order of those both keep", compare_globalcom2_order),
    Row("holitom", *TOM, "segments", compare_segments),
    Row("holitom", *TOM, "patches that stay as they are", compare_dynamic),
    Row("holitom", *TOM, "tokens at their number of them", compare_holitom),
)
