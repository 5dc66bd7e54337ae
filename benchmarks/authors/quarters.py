"""Methods between decoder layers that rank by few rows of attention, and MustDrop's two ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from frame import Row, Source, equal_rows, overlap
from prefill import AFTER, IMAGE, MODEL, MUST, START, WIDTH, N, Prompt, cut, prompts
from torch import Tensor

from edgetok import names
from edgetok.methods import METHODS
from edgetok.prefill import PREFILL_METHODS
from edgetok.prefill.mustdrop import LAYERS
from edgetok.prefill.schedules import by_powers
from edgetok.tokens import Features

FASTV = "src/FastV/llava-hf/transformers/src/transformers/models/llama/modeling_llama.py"


def compare_fastv(source: Source) -> Iterator[float]:
    """The lines of their forward that choose, where the cache is not used."""
    lines = source.lines(FASTV, 1073, 1082)
    for prompt in prompts(heads=16):
        for keep in (432, 288, 144, 72):
            scope: dict[str, Any] = {
                "torch": torch,
                "layer_outputs": (None, prompt.maps[None]),
                "FASTV_image_token_start_index": START,
                "FASTV_image_token_length": N,
                "FASTV_r": 1 - keep / N,
            }
            exec(lines, scope)
            theirs = (scope["top_attention_rank_index"] - START).tolist()
            yield overlap(theirs, cut("fastv", prompt, keep).indices.tolist())


# --- PyramidDrop, and VisionDrop, which is written into it ---------------------------------------


def _causal(mask: Tensor, shape: tuple[int, int], *_: Any, **__: Any) -> Tensor:
    rows = shape[1]
    hidden = torch.ones(rows, rows, dtype=torch.bool).triu(1)
    return torch.zeros(rows, rows).masked_fill(hidden, torch.finfo(torch.float32).min)[None, None]


def _decoder(prompt: Prompt, ratios: list[Any]) -> Any:
    """Their model, one layer deep: projections give what the prompt holds, rotated before."""
    flat = {
        name: rows.transpose(0, 1).flatten(1)[None]
        for name, rows in (("q_proj", prompt.query), ("k_proj", prompt.keys))
    }
    heads = len(prompt.keys)
    attention = SimpleNamespace(
        num_heads=heads, num_key_value_heads=heads, head_dim=WIDTH,
        q_proj=lambda _: flat["q_proj"], k_proj=lambda _: flat["k_proj"],
        v_proj=lambda _: flat["k_proj"], rotary_emb=lambda _, seq_len: (None, None),
    )  # fmt: skip
    layer = SimpleNamespace(self_attn=attention, input_layernorm=lambda rows: rows)
    return SimpleNamespace(
        config=SimpleNamespace(tokenizer_padding_side="right", tokenizer_model_max_length=4096),
        training=False, layers=[layer], image_tokens=[N], image_token_posi=[START],
        prompt_len=[START + AFTER], image_token_ratio_list=ratios,
    )  # fmt: skip


def compare_rank_drop(
    name: str, path: str, function: str, cuts: Callable[[], Iterable[tuple[list[Any], int]]]
) -> Callable[[Source], Iterable[float]]:
    """`cuts`: their list of ratios and how many stay."""

    def run(source: Source) -> Iterator[float]:
        code = source.take(
            path, function, IGNORE_INDEX=-100, _prepare_4d_causal_attention_mask=_causal,
            apply_rotary_pos_emb=lambda q, k, *_: (q, k),
        )  # fmt: skip
        for prompt in prompts(heads=16):
            for ratios, keep in cuts():
                decoder, rows = _decoder(prompt, ratios), prompt.rows[None]
                found = getattr(code, function)(decoder, 0, 0, rows, None, None, None)[2][0]
                theirs = found[START : START + keep]
                yield equal_rows(theirs, cut(name, prompt, keep).apply(prompt.rows[IMAGE]))

    return run


def shares() -> Iterable[tuple[list[Any], int]]:
    return [([1.0, part], int(N * part)) for part in (0.5, 0.25, 0.125)]


def pairs() -> Iterable[tuple[list[Any], int]]:
    """Dominant tokens and targets: those of their script, and as many in proportion."""
    return [([[N, 0], [d, c]], d + c) for d, c in ((30, 5), (22, 4), (16, 3), (255, 45))]


# --- MustDrop's cache ----------------------------------------------------------------------------

DEPTH, HELD = 32, (302, 324)  # lines of their forward that make the cache of decoding


def compare_held(source: Source) -> Iterator[float]:
    """Share of layers whose cache holds as many tokens as theirs."""
    lines = source.lines(MODEL, *HELD)
    for ratio in (0.5, 0.75, 0.9):
        counts = by_powers(DEPTH, N, LAYERS, ratio)
        steps = [counts[layer] for layer in LAYERS]
        rows = [torch.arange(START + n + AFTER).reshape(1, 1, -1, 1) for n in counts]
        scope: dict[str, Any] = {
            "torch": torch,
            "self": SimpleNamespace(pruning_layers=[layer - 1 for layer in LAYERS]),
            "final_indices": [torch.arange(START + n + AFTER) for n in steps],
            "next_cache": [(each, each) for each in rows],
        }
        exec(lines, scope)
        made = [key.shape[2] - START - AFTER for key, _ in scope["next_decoder_cache_new"]]
        ours = PREFILL_METHODS["mustdrop"].held.counts(counts)
        yield sum(a == b for a, b in zip(made, ours, strict=True)) / DEPTH


def compare_key_set(source: Source) -> Iterator[float]:
    """The lines of their tower that take 8 % of the patches for good."""
    lines = source.lines("llava/model/multimodal_encoder/clip_encoder.py", 100, 107)
    for seed in range(12):
        draw = torch.Generator().manual_seed(seed)
        maps = torch.randn(1, 16, 1, N + 1, generator=draw).softmax(-1)
        scope: dict[str, Any] = {
            **{"torch": torch, "math": math, "self": SimpleNamespace()},
            **{"hidden_states": torch.zeros(1, N + 1, 1), "layer_outputs": (None, maps)},
        }
        exec(lines, scope)
        theirs = scope["index"][0].tolist()
        probes = {names.NEXT_CLS_ATTENTION: maps[0, :, 0, 1:].mean(0)}
        features = Features(torch.zeros(N, 1), (24, 24), probes)
        yield overlap(theirs, METHODS["mustdrop"].compress(features, len(theirs)).indices.tolist())


LLAMA = "llava/model/modeling_llama_"

ROWS = (
    Row("fastv", "pkunlp-icler/FastV", "d165972", "kept tokens", compare_fastv),
    Row(
        "pyramiddrop",
        "Cooperx521/PyramidDrop",
        "6444f30",
        "rows behind a cut",
        compare_rank_drop("pyramiddrop", LLAMA + "pdrop.py", "pdrop_rank_drop", shares),
    ),
    Row(
        "visiondrop",
        "Ruixxxx/VisionDrop",
        "f7a9444",
        "rows behind a cut",
        compare_rank_drop("visiondrop", LLAMA + "visiondrop.py", "visiondrop_rank_drop", pairs),
    ),
    Row("mustdrop", *MUST, "patches of its key set", compare_key_set),
    Row("mustdrop", *MUST, "layers by how many tokens their cache holds", compare_held),
)
