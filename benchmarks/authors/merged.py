"""Methods behind the tower that mix rows, and one that covers the question and the picture."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from behind import N, plan_of, shares
from frame import Row, Source, equal_rows, overlap, random_rows, rounded
from torch import Tensor

from edgetok import names
from edgetok.export.stages.probes import probe_global
from edgetok.methods import find_method
from edgetok.methods.visionzip import split
from edgetok.tokens import Features

# --- VisionZip, and VisionDrop's own copy of it --------------------------------------------------


def compare_zip(name: str, path: str, parts: Callable[[int], tuple[int, int]]) -> Any:
    """`parts`: tokens that are kept, the CLS row among them, and merged ones of a budget."""

    def run(source: Source) -> Iterator[float]:
        forward = source.take(path, "forward").forward
        for seed, (x, keys) in enumerate(
            zip(random_rows(N + 1), random_rows(N + 1, (32, 64)), strict=True)
        ):
            maps = shares(4 * (N + 1), N + 1, seed).reshape(1, 4, N + 1, N + 1)
            for k in (32, 64, 128, 192):
                dominant, contextual = parts(k)
                made, _ = forward(_tower(x, keys, maps, dominant - 1, contextual), x[None])
                cls = maps[0, :, 0, 1:].mean(0)
                probes = {names.CLS_ATTENTION: cls, names.KEYS: keys[1:], names.CLS_FEATURE: x[:1]}
                plan = plan_of(name, x[1:], probes, k)
                yield equal_rows(made[0], plan.apply(torch.cat([x[1:], x[:1]])))

    return run


def _tower(x: Tensor, keys: Tensor, maps: Tensor, dominant: int, contextual: int) -> Any:
    """What their tower holds and gives out."""
    layer = SimpleNamespace(metric=keys[None])
    model = SimpleNamespace(encoder=SimpleNamespace(layers=[layer] * 2))
    seen = SimpleNamespace(attentions=[maps] * 2, hidden_states=[x[None]] * 2)

    class Tower:
        vision_model = model
        _info = {"dominant": dominant, "contextual": contextual}  # noqa: RUF012

        def __call__(self, *_: Any, **__: Any) -> Any:
            return seen

    return SimpleNamespace(vision_tower=Tower(), device="cpu", dtype=x.dtype)


def split_as_visiondrop(budget: int) -> tuple[int, int]:
    contextual = round(budget * 6 / 48)  # 42 and 6 of their example
    return budget - contextual, contextual


# --- PruMerge ------------------------------------------------------------------------------------

CLIP = "llava/model/multimodal_encoder/clip_encoder.py"


def compare_prumerge(plus: bool) -> Callable[[Source], Iterable[float]]:
    """Their function gets the identity for rows, so that it makes the mixing weights."""

    def run(source: Source) -> Iterator[float]:
        name = "token_prune_merge_advanced" + "_plus" * plus
        ours = "prumerge" + "+" * plus
        for seed, rows in enumerate(random_rows(N + 1, (N,))):
            keys, query = rows, torch.zeros(N + 1, N)
            query[0] = torch.randn(N, generator=torch.Generator().manual_seed(seed))
            attention = (query[0] @ keys.T * N**-0.5).softmax(-1)[1:]
            for outliers in (30, 50, 63):
                code = source.take(
                    CLIP, name, "complement_idx", hook_k=None, hook_q=None,
                    outputs={"desired_k": keys[None], "desired_q": query[None]},
                    outlier_dectection=lambda _, n=outliers: (n + 0.5) / N,
                )  # fmt: skip
                made = getattr(code, name)(_merging_tower(), torch.zeros(1, 3, 1, 1))[0]
                probes = {names.NEXT_WIDE_ATTENTION: attention, names.NEXT_KEYS: keys[1:]}
                plan = plan_of(ours, rows[1:], probes, len(made))
                if plus:
                    yield overlap(made[:-1].argmax(1).tolist(), plan.indices.tolist())
                else:
                    yield overlap(sums_of(made), sums_of(plan.matrix()))

    return run


def sums_of(weights: Tensor) -> set[tuple[int, int, int]]:
    """Which patch is added to which token, and by how much."""
    places = weights.nonzero()
    parts = (weights[tuple(places.T)] * 1e6).round().long().tolist()
    return {(int(k), int(n), part) for (k, n), part in zip(places.tolist(), parts, strict=True)}


def _merging_tower() -> Any:
    """Their tower over the identity; hooks find what they look for in `outputs`."""
    hook = SimpleNamespace(register_forward_hook=lambda _: SimpleNamespace(remove=lambda: None))
    attention = SimpleNamespace(k_proj=hook, q_proj=hook)
    layers = [SimpleNamespace(self_attn=attention)] * 24
    rows = torch.cat([torch.zeros(1, N), torch.eye(N)])[None]

    class Tower:
        vision_model = SimpleNamespace(encoder=SimpleNamespace(layers=layers))

        def __call__(self, *_: Any, **__: Any) -> Any:
            return SimpleNamespace(hidden_states=[rows])

    return SimpleNamespace(
        vision_tower=Tower(), device="cpu", dtype=torch.float32, select_layer=-1,
        feature_select=lambda seen: seen.hidden_states[0][:, 1:],
    )  # fmt: skip


# --- the others ----------------------------------------------------------------------------------


def compare_llavolta(source: Source) -> Iterator[float]:
    """The two lines of their forward that pool in front of the language model."""
    lines = source.lines("llava/model/language_model/llava_llama.py", 860, 861)
    for x in random_rows(N):
        for k in (288, 144, 72, 64):
            scope: dict[str, Any] = {"torch": torch, "image_features": x[None]}
            model = SimpleNamespace(grouping="avgpool1d", stride=N // k)
            exec(lines, scope | {"self": SimpleNamespace(model=model)}, scope)
            yield equal_rows(scope["image_features"][0], plan_of("llavolta", x, {}, k).apply(x))


def compare_mmtok(source: Source) -> Iterator[float]:
    path = "mmtok/core/semantic_selector.py"
    code = source.take(path, "SemanticTokenSelector", "greedy_merged_jit_kernel", os=os)
    for seed, (x, tower) in enumerate(zip(random_rows(N), random_rows(N, (32, 128)), strict=True)):
        draw = torch.Generator().manual_seed(seed)
        text = torch.randn(12, x.shape[1], generator=draw)
        for k in (32, 64, 128):
            choose = code.SemanticTokenSelector(k, 0.5).mm_coverage_selection
            theirs, _ = choose(text, x, tower, tv_temp=0.02, vv_temp=0.2)
            probes = {names.TEXT_EMBEDS: text, names.TEXT_MASK: torch.ones(12)}
            features = Features(x, (24, 24), probes, tower)
            yield overlap(theirs, find_method("mmtok").compress(features, k).indices.tolist())


# --- VFlowOpt ------------------------------------------------------------------------------------

VFLOW = "src/LLaVA-OneVision/llava/model/"
ASKING = (VFLOW + "multimodal_encoder/siglip_encoder.py", 461, 472)  # lines of their layer
MERGING = (VFLOW + "language_model/llava_qwen_training_free.py", 575, 626)
FACTOR, CELL, SIDE = 34.759552803070484, 15.580797034937687, 27  # their setting for a quarter


def _peaked(seed: int) -> tuple[Tensor, Tensor]:
    """Queries and keys [4, 729, 32]; a few patches receive far more attention than the others."""
    draw = torch.Generator().manual_seed(seed)
    query, key = torch.randn(2, 4, SIDE * SIDE, 32, generator=draw)
    loud = torch.randperm(SIDE * SIDE, generator=draw)[:3]
    key[:, loud] = 0.3 * key[:, loud] + 2 * query.mean(1, keepdim=True).sign()
    query = query + 0.9 * query.mean(1, keepdim=True).sign()
    return query, key


def compare_asking(source: Source) -> Iterator[float]:
    lines = source.lines(*ASKING)
    for seed in range(12):
        query, key = _peaked(seed)
        scope: dict[str, Any] = {"torch": torch, "t": FACTOR, "combined_attn_maps": []}
        scope["attn_weights"] = (query @ key.mT * 32**-0.5).softmax(-1)[None]
        exec(lines, scope)
        (theirs,) = scope["combined_attn_maps"]
        ours = probe_global(query[None], key[None], 32**-0.5, 0)
        for k in (32, 64, 182):
            yield overlap(theirs.topk(k).indices.tolist(), ours.topk(k).indices.tolist())


def compare_recycling(source: Source) -> Iterator[float]:
    lines = source.lines(*MERGING)
    for seed, x in enumerate(random_rows(SIDE * SIDE)):
        scores = shares(1, SIDE * SIDE, seed)[0]
        for ratio in (0.1, 0.2651026358526424, 0.5):
            scope: dict[str, Any] = {
                "torch": torch,
                "illava_config": {"enable_illava_vit": True, "illava_vit_m": CELL},
                "image_token_length": SIDE * SIDE,
                "reduce_tokens": round(SIDE * SIDE * (1 - ratio)),
                "image_attn_map": scores.clone(),
                "image_feature": x.clone(),
                "local_w": SIDE,
            }
            exec(lines, scope)
            theirs = scope["image_feature"]
            features = Features(x, (SIDE, SIDE), {names.GLOBAL_ATTENTION: scores})
            plan = find_method("vflowopt").compress(features, len(theirs))
            yield overlap(rounded(theirs), rounded(plan.apply(x)))


ZIP, DROP = ("dvlab-research/VisionZip", "3151f6d"), ("Ruixxxx/VisionDrop", "f7a9444")
PRUMERGE = ("42Shawn/LLaVA-PruMerge", "097c041")
OPT = ("sihany077/VFlowOpt", "129eeef")

ROWS: Sequence[Row] = (
    Row(
        "visionzip",
        *ZIP,
        "tokens in their order",
        compare_zip("visionzip", "visionzip/clip_encoder.py", split),
    ),
    Row(
        "visiondrop",
        *DROP,
        "tokens in their order, behind the tower",
        compare_zip("visiondrop", "llava/visionzip/clip_encoder.py", split_as_visiondrop),
    ),
    Row("prumerge", *PRUMERGE, "sums at their number of centres", compare_prumerge(False)),
    Row("prumerge+", *PRUMERGE, "centres at their number of them", compare_prumerge(True)),
    Row("llavolta", "Beckschen/LLaVolta", "31ec151", "averaged rows", compare_llavolta),
    Row("mmtok", "Ironieser/MMTok", "d1522cd", "kept tokens, all words given", compare_mmtok),
    Row("vflowopt", *OPT, "best patches by their attention", compare_asking),
    Row("vflowopt", *OPT, "tokens at their number of them", compare_recycling),
)
