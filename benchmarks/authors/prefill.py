"""Methods between decoder layers, one cut at a time."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from frame import Row, Source, overlap
from torch import Tensor
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from edgetok.export.reference.prompt_reduced import Maps
from edgetok.methods import METHODS
from edgetok.prefill import PREFILL_METHODS
from edgetok.prefill.look import Look
from edgetok.tokens import Features, Plan

START, N, AFTER, WIDTH = 35, 576, 40, 32  # as LLaVA has them; width of a head
IMAGE = slice(START, START + N)


@dataclass(frozen=True)
class Prompt:
    """One layer of a prompt: logits [heads, S, S], rotated queries and keys, rows [S, D]."""

    logits: Tensor
    query: Tensor
    keys: Tensor
    rows: Tensor
    entered: Tensor
    cos: Tensor
    sin: Tensor

    @property
    def maps(self) -> Tensor:
        return self.logits.softmax(-1)

    def look(self) -> Look:
        half = self.cos.shape[1] // 2
        signs = torch.cat([-torch.ones(half), torch.ones(half)])
        maps = Maps(self.maps, self.keys, START, N, self.cos + signs * self.sin)
        return Look(
            visual=self.rows[IMAGE],
            text=self.rows[IMAGE.stop :],
            is_text=torch.ones(AFTER),
            visual_input=self.entered[IMAGE],
            text_input=self.entered[IMAGE.stop :],
            previous=maps,
            next=maps,
            gates=None,
            layer=3,
            norm=lambda rows: rows / rows.square().mean(-1, keepdim=True).sqrt(),
        )


def prompts(heads: int = 32, sharp: float = 1.0, seeds: int = 20) -> Iterator[Prompt]:
    """Random ones; the visual rows of every second are in clusters."""
    config = LlamaConfig(hidden_size=heads * WIDTH, num_attention_heads=heads, head_dim=WIDTH)
    rows = START + N + AFTER
    cos, sin = LlamaRotaryEmbedding(config)(torch.zeros(1, 1, 1), torch.arange(rows)[None])
    hidden = torch.ones(rows, rows, dtype=torch.bool).triu(1)
    for seed in range(seeds):
        draw = torch.Generator().manual_seed(seed)
        query, key = torch.randn(2, 1, heads, rows, WIDTH, generator=draw)
        query, key = apply_rotary_pos_emb(query * sharp, key, cos, sin)
        logits = (query @ key.mT)[0] / WIDTH**0.5
        logits = logits.masked_fill(hidden, torch.finfo(torch.float32).min)
        x, entered = torch.randn(2, rows, 64, generator=draw)
        if seed % 2:
            homes = torch.randint(12, (N,), generator=draw)
            x[IMAGE] = torch.randn(12, 64, generator=draw)[homes] + 0.3 * x[IMAGE]
        yield Prompt(logits, query[0], key[0], x, 0.3 * entered, cos[0], sin[0])


def cut(name: str, prompt: Prompt, keep: int) -> Plan:
    found: Any = PREFILL_METHODS[name].cut
    plan: Plan = found(prompt.look(), keep)
    return plan


# --- SparseVLM -----------------------------------------------------------------------------------

MODEL = "llava/model/language_model/modelling_sparse_llama.py"
SCORE = "llava/model/language_model/score.py"
TOOLS = "llava/model/language_model/utils.py"
RATERS, CUT = (200, 204), (241, 320)  # lines of their forward, which has both inside


class Einops:
    """The two patterns that they ask of einops."""

    @staticmethod
    def rearrange(x: Tensor, pattern: str) -> Tensor:
        return x.unsqueeze(2) if pattern.endswith("l () r") else x.unsqueeze(1)


def compare_sparsevlm(name: str, version: str) -> Callable[[Source], Iterable[float]]:
    def run(source: Source) -> Iterator[float]:
        os.environ["USE_VERSION"] = version
        score: dict[str, Any] = {}
        exec(source.text(SCORE), score)
        tools = source.take(
            TOOLS, "cluster_and_merge", "index_points", "batch_index_select", ein=Einops
        )
        for prompt in prompts():
            scope = {**score, **vars(tools), "math": math, "V2_0": version == "2_0"}
            scope |= _state(prompt)
            exec(source.lines(MODEL, *RATERS), scope)
            scope["hidden_states"] = prompt.rows[None]
            exec(source.lines(MODEL, *CUT), scope)
            count = int(scope["v_token_num"])
            theirs = scope["layer_outputs"][0][0][START : START + count]
            ours = cut(name, prompt, count).apply(prompt.rows[IMAGE])
            yield float(((theirs - ours).abs().amax(1) < 1e-4).float().mean())

    return run


def _state(prompt: Prompt) -> dict[str, Any]:
    """What their forward knows behind layer 2."""
    tables = prompt.cos[None], prompt.sin[None]
    heads = len(prompt.maps)
    attention = SimpleNamespace(
        num_heads=heads, head_dim=WIDTH, rotary_emb=lambda _x, seq_len: tables
    )
    rows = len(prompt.rows)
    return {
        "apply_rotary_pos_emb": lambda q, k, cos, sin, _at: apply_rotary_pos_emb(q, k, cos, sin),
        "decoder_layer": SimpleNamespace(self_attn=attention),
        "attn_logits": prompt.maps[None],
        "layer_outputs": (prompt.rows[None], None),
        "hidden_states": prompt.entered[None],
        "position_ids": torch.arange(rows)[None],
        "pre_prompt_length_list": [START],
        **{"image_shape": N, "v_token_num": N, "v_token_start": START},
        **{"text_token_start": IMAGE.stop, "B": 1, "layer_idx": 2, "idx_sprase_layer": 0},
    }


# --- the others ----------------------------------------------------------------------------------

DART = "llava/model/language_model/modeling_llama_self.py"


def _take_dart(source: Source, in_order: bool) -> Any:
    given: dict[str, Any] = {"list": sorted} if in_order else {}
    return source.take(DART, "get_retained_image_token", **given).get_retained_image_token


def _dart_config(start: int, keep: int, text: int) -> Any:
    told: dict[str, float] = {"K": 2, "image_token_start_index": start, "image_token_length": N}
    told |= {"max_num_trunction": keep, "reduction_ratio": 0.0}
    told |= {"pivot_image_token": 4, "pivot_text_token": text}
    return SimpleNamespace(DART_config=told, text_length=None)


def compare_dart(in_order: bool) -> Callable[[Source], Iterable[float]]:
    def run(source: Source) -> Iterator[float]:
        choose = _take_dart(source, in_order)
        for prompt in prompts(heads=16):
            state = prompt.look().norm(prompt.rows)[None]
            for keep in (192, 128, 64):
                found = choose(None, _dart_config(START, keep, 4), state, prompt.keys[None])
                theirs = (found - START).tolist()
                yield overlap(theirs, cut("dart", prompt, len(theirs)).indices.tolist())

    return run


def compare_dart_in_front(in_order: bool) -> Callable[[Source], Iterable[float]]:
    def run(source: Source) -> Iterator[float]:
        choose = _take_dart(source, in_order)
        for prompt in prompts(heads=2):
            x = prompt.rows[IMAGE]
            for keep in (192, 128, 64):
                theirs = choose(None, _dart_config(0, keep, 0), x[None], x[None, None]).tolist()
                plan = METHODS["dart"].compress(Features(x, (24, 24), {}, x), len(theirs))
                yield overlap(theirs, plan.indices.tolist())

    return run


def compare_mustdrop(source: Source) -> Iterator[float]:
    code = source.take(MODEL, "dual_attention_filter")
    for prompt in prompts(heads=16, sharp=2.0):
        for threshold in (2e-3, 4e-2):
            maps = prompt.maps[None]
            theirs = code.dual_attention_filter(None, maps, START, N, threshold, threshold)[0]
            if 0 < len(theirs) < N:
                ours = cut("mustdrop", prompt, len(theirs)).indices
                yield overlap(theirs.tolist(), ours.tolist())


AIM = "other_packages/transformers/src/transformers/models/qwen2/modeling_qwen2.py"


def compare_aim(source: Source) -> Iterator[float]:
    code = source.take(AIM, "get_importance")
    for prompt in prompts(heads=16):
        scores = code.get_importance(prompt.logits[None])[0][IMAGE]
        for keep in (504, 288, 72):
            theirs = scores.topk(keep).indices.tolist()
            yield overlap(theirs, cut("aim", prompt, keep).indices.tolist())


SPARSE, MUST = ("Gumpest/SparseVLMs", "26a5f48"), ("liuting20/MustDrop", "909afa5")
FORK = ("xqy1111111/DART", "d6a5af6")  # of ZichenWen1/DART
SORTED = "; their pivots sorted"

ROWS = (
    Row("sparsevlm", *SPARSE, "rows behind the first cut", compare_sparsevlm("sparsevlm", "1_0")),
    Row(
        "sparsevlm-v2",
        *SPARSE,
        "rows behind the first cut",
        compare_sparsevlm("sparsevlm-v2", "2_0"),
    ),
    *(
        Row("dart", *FORK, place + SORTED * in_order, compare(in_order))
        for place, compare in (
            ("kept tokens at prefill", compare_dart),
            ("kept tokens in front of the decoder, without text", compare_dart_in_front),
        )
        for in_order in (False, True)
    ),
    Row("mustdrop", *MUST, "tokens of its filter at prefill, at its own number", compare_mustdrop),
    Row("aim", "LaVi-Lab/AIM", "edc24e9", "tokens of the first cut at prefill", compare_aim),
)
