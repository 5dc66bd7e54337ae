"""Methods behind the tower: the authors' `encode_images` over our rows and attention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from frame import GRID, Row, Source, overlap, random_rows
from torch import Tensor

from edgetok import names
from edgetok.methods import find_method
from edgetok.tokens import Features, Plan, determinantal, similarity

SIDE = 24
N = SIDE * SIDE
BUDGETS = (32, 64, 128)
ARCH = "llava/model/llava_arch.py"


def shares(heads: int, rows: int, seed: int) -> Tensor:
    """Attention [heads, rows] as a softmax makes it."""
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(2 * torch.randn(heads, rows, generator=generator), -1)


def plan_of(name: str, x: Tensor, probes: Mapping[str, Tensor], budget: int) -> Plan:
    return find_method(name).compress(Features(x, (SIDE, SIDE), probes), budget)


def model_of(x: Tensor, attention: Any, budget: int, **more: Any) -> SimpleNamespace:
    """What `encode_images` asks its model for: a tower, a projector that changes nothing, K."""
    inner = SimpleNamespace(
        get_vision_tower=lambda: lambda _images, **_: (x[None], attention),
        mm_projector=lambda rows: rows,
    )
    return SimpleNamespace(get_model=lambda: inner, get_visual_token_num=lambda: budget, **more)


def kept(mask: Tensor) -> list[int]:
    return mask[0].nonzero()[:, 0].tolist()


def compare_fastervlm(source: Source) -> Iterator[float]:
    code = source.take(ARCH, "encode_images")
    for seed, x in enumerate(random_rows(N, (64,))):
        attention = shares(4, N, seed)
        for k in BUDGETS:
            theirs = kept(code.encode_images(model_of(x, attention[None], k), None)[1])
            probes = {names.CLS_ATTENTION: attention.mean(0)}
            yield overlap(theirs, plan_of("fastervlm", x, probes, k).indices.tolist())


def compare_vispruner(grid: bool) -> Any:
    def run(source: Source) -> Iterator[float]:
        code = source.take(ARCH, "encode_images", grid=grid)
        for seed, x in enumerate(random_rows(N, (64, 256), 2)):
            attention = shares(4, N, seed)
            for k in BUDGETS:
                model = model_of(x, attention[None], k, get_important_ratio=lambda: 0.5)
                theirs = kept(code.encode_images(model, None)[1])
                probes = {names.CLS_ATTENTION: attention.mean(0)}
                yield overlap(theirs, plan_of("vispruner", x, probes, k).indices.tolist())

    return run


def compare_hiprune(source: Source) -> Iterator[float]:
    for seed, x in enumerate(random_rows(N, (64,))):
        maps = [shares(2 * (N + 1), N + 1, seed + 9 * i).reshape(1, 2, N + 1, -1) for i in (0, 1)]
        received = [each[0].mean((0, 1))[1:] for each in maps]
        given = {8: SimpleNamespace(cuda=lambda m=maps[0]: m.clone())}
        given[-2] = SimpleNamespace(cuda=lambda m=maps[1]: m.clone())
        probes = {names.OBJECT_ATTENTION: received[0], names.RECEIVED_ATTENTION: received[1]}
        for k in BUDGETS:
            settings = {"RETENTION": k, "OBJECT_LAYER": 9, "ALPHA": 0.1}
            environment = {f"HIPRUNE_{name}": str(value) for name, value in settings.items()}
            code = source.take(
                "LLaVA/" + ARCH, "encode_images", os=SimpleNamespace(environ=environment)
            )
            config = SimpleNamespace(mm_vision_select_layer=-2)
            theirs = kept(code.encode_images(model_of(x, given, k, config=config), None)[1])
            yield overlap(theirs, plan_of("hiprune", x, probes, k).indices.tolist())


def compare_divprune(grid: bool) -> Any:
    def run(source: Source) -> Iterator[float]:
        code = source.take("LLaVA/" + ARCH, "DivPrune", "pairwise_cosine_similarity")
        for x in random_rows(N, (64, 1024)):
            same = similarity(x, x) if grid else code.pairwise_cosine_similarity(None, x)
            for k in BUDGETS:
                found, _ = code.DivPrune(None, x, N, 1.0 - same, k / N)
                yield overlap(found.tolist(), plan_of("divprune", x, {}, k).indices.tolist())

    return run


def compare_cdpruner(source: Source) -> Iterator[float]:
    """What is taken at the same relevance, which the authors' own formula makes of embeddings."""
    code = source.take(ARCH, "encode_images")
    generator = torch.Generator().manual_seed(0)
    for x in random_rows(N, (256, 1024), 2):
        embeds, text = torch.randn(N, 8, generator=generator), torch.eye(8)[:1]
        seen = -(embeds / embeds.norm(dim=-1, keepdim=True))[:, 0]
        relevance = (seen - seen.min() + 1e-6) / (seen.max() - seen.min())
        units = x / x.norm(dim=1, keepdim=True)
        for k in BUDGETS:
            tower = SimpleNamespace(
                get_vision_tower=lambda x=x, e=embeds, t=text: (
                    lambda _images, texts: (x[None], e[None], t)
                ),
                mm_projector=lambda rows: rows,
            )
            model = SimpleNamespace(get_model=lambda t=tower: t, visual_token_num=k)
            theirs = kept(code.encode_images(model, None)[1])
            yield overlap(theirs, determinantal(units @ units.T, relevance, k).tolist())


def compare_aim(grid: bool) -> Any:
    def run(source: Source) -> Iterator[float]:
        code = source.take("llava/model/token_merge.py", "bipartite_soft_matching_merge", grid=grid)
        for x in random_rows(N, (64, 256)):
            made = code.bipartite_soft_matching_merge(x[None], N // 2, x[None])[0]
            ours = plan_of("aim", x, {}, len(made)).apply(x)
            yield overlap(*([tuple(r) for r in (m[:, :8] * 1e3).round().tolist()]
                            for m in (made, ours)))  # fmt: skip

    return run


ROWS = (
    Row("fastervlm", "Theia-4869/FasterVLM", "f5d5f12", "kept patches", compare_fastervlm),
    Row("hiprune", "Danielement321/HiPrune", "6e83a12", "kept patches", compare_hiprune),
    *(
        Row(
            "vispruner",
            "Theia-4869/VisPruner",
            "aefa01a",
            "kept patches" + GRID * grid,
            compare_vispruner(grid),
        )
        for grid in (False, True)
    ),
    *(
        Row("divprune", "vbdi/divprune", "799e2d9", "kept" + GRID * grid, compare_divprune(grid))
        for grid in (False, True)
    ),
    Row(
        "cdpruner", "Theia-4869/CDPruner", "9541616", "kept at the same relevance", compare_cdpruner
    ),
    *(
        Row("aim", "LaVi-Lab/AIM", "edc24e9", "rows, one halving" + GRID * grid, compare_aim(grid))
        for grid in (False, True)
    ),
)
