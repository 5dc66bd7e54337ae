"""Policies of the KV cache: which rows of a prompt stay, and what a step reads."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import torch
from frame import Row, Source, overlap
from torch import Tensor

from edgetok.kv import POLICIES
from edgetok.kv.policies.a2sf import ALPHA
from edgetok.kv.policies.pyramidkv import fall
from edgetok.kv.saliency import first_state, received, visible
from edgetok.kv.select import choose, rank
from edgetok.kv.stores.tidaldecode import choose_rows

HEADS, WIDTH, ROWS_OF_PROMPT = 8, 32, 300
KEEPS = (64, 96, 160)
LONE, SHARED = 1, 2  # query heads of each key/value head
Theirs = Callable[["Cached", int], Iterable[Iterable[int]]]  # rows that each query head keeps


@dataclass(frozen=True)
class Cached:
    """Queries [heads, S, H] and keys [G, S, H] of a prompt."""

    query: Tensor
    key: Tensor

    @property
    def repeated(self) -> Tensor:
        """Keys for each query head, as `repeat_kv` has them."""
        return self.key.repeat_interleave(len(self.query) // len(self.key), 0)

    @property
    def marks(self) -> Tensor:
        """Values [1, heads, S, H] that are the numbers of their rows."""
        heads, rows, width = self.query.shape
        return torch.arange(float(rows)).reshape(1, 1, -1, 1).expand(1, heads, -1, width)

    @property
    def attention(self) -> Tensor:
        """[1, heads, S, S]."""
        logits = self.query @ self.repeated.mT * WIDTH**-0.5
        found: Tensor = (logits + causal(self.query.shape[1])).softmax(-1)[None]
        return found


def causal(rows: int) -> Tensor:
    hidden = torch.ones(rows, rows, dtype=torch.bool).triu(1)
    return torch.zeros(rows, rows).masked_fill(hidden, torch.finfo(torch.float32).min)


def caches(group: int, rows: int = ROWS_OF_PROMPT, seeds: int = 6) -> Iterator[Cached]:
    """Random ones; what the heads of a group ask is alike in half of what makes it."""
    for seed in range(seeds):
        draw = torch.Generator().manual_seed(seed)
        own = torch.randn(HEADS, rows, WIDTH, generator=draw)
        key, common = torch.randn(2, HEADS // group, rows, WIDTH, generator=draw)
        query = own if group == LONE else (own + common.repeat_interleave(group, 0)) / 2**0.5
        yield Cached(2 * query, key)


def keep_ours(name: str, cached: Cached, keep: int) -> list[list[int]]:
    """Rows that each query head reads behind a compaction of the prompt."""
    policy, rows = POLICIES[name], cached.key.shape[1]
    count, scores, seen = torch.tensor(rows), torch.zeros(cached.key.shape[:2]), torch.zeros(rows)
    if policy.asks:
        asked, weights = policy.asks(rows, count)
        asking = cached.query.index_select(1, asked)
        scores = received(asking, asked, weights, cached.key, WIDTH**-0.5)
        seen = visible(asked, weights, rows)
    if policy.row_state:
        ranks = rank(policy, first_state(policy, scores, seen, torch.zeros(rows), count))
    else:
        ranks = scores
    recent = policy.recent
    recent = int(keep * recent) if isinstance(recent, Fraction) else recent
    recent = keep - policy.sinks if recent is None else recent
    kept: list[list[int]] = choose(ranks, count, keep, policy.sinks, recent).tolist()
    return [kept[head * len(kept) // HEADS] for head in range(HEADS)]


def compare(name: str, group: int, make: Callable[[Source], Theirs]) -> Any:
    """Cases are query heads."""

    def run(source: Source) -> Iterator[float]:
        theirs = make(source)
        for cached in caches(group):
            for keep in KEEPS:
                ours = keep_ours(name, cached, keep)
                for left, right in zip(theirs(cached, keep), ours, strict=True):
                    yield overlap(left, right)

    return run


def rows_of(marks: Tensor) -> list[list[int]]:
    """Of values [1, heads, n, H] that `marks` made."""
    rows: list[list[int]] = marks[0, :, :, 0].long().tolist()
    return rows


# --- the authors' programs -----------------------------------------------------------------------


def clusters(path: str, name: str, **given: int) -> Callable[[Source], Theirs]:
    """A class with `update_kv`, as SnapKV and PyramidKV have them."""

    def make(source: Source) -> Theirs:
        code = source.take(path, name, print=lambda *_: None)

        def keep(cached: Cached, rows: int) -> list[list[int]]:
            window = given.get("window_size", rows - 4)
            cluster = getattr(code, name)(
                window_size=window, max_capacity_prompt=rows, kernel_size=5, pooling="avgpool"
            )
            query, key = cached.query[None], cached.repeated[None]
            return rows_of(cluster.update_kv(key, query, cached.marks, None, 1)[1])

        return keep

    return make


def take_h2o(source: Source) -> Theirs:
    path, name = "h2o_hf/utils_real_drop/modify_llama.py", "H2OKVCache_LayerWise"
    code = source.take(path, name, print=lambda *_: None)

    def keep(cached: Cached, rows: int) -> list[list[int]]:
        cache = code.H2OKVCache_LayerWise(rows // 2, rows // 2)
        return rows_of(cache((cached.marks, cached.marks), cached.attention)[1])

    return keep


def take_a2sf(source: Source) -> Theirs:
    folder = "utils_real_drop/policies/"
    base = source.take(folder + "base.py", "CompressionPolicy").CompressionPolicy
    code = source.take(folder + "a2sf.py", "A2SFPolicy", CompressionPolicy=base)

    def keep(cached: Cached, rows: int) -> list[list[int]]:
        policy, length = code.A2SFPolicy(len(cached.key), rows, ALPHA), cached.key.shape[1]
        policy.prepare_prefill(length, "cpu", torch.float32)
        weights = policy.get_query_weights(0, length, "cpu", torch.float32)
        scores = (cached.attention * weights[:, None]).sum(2)
        of_group = scores.unflatten(1, (len(cached.key), -1)).sum(2)
        kept = policy.select(of_group, length)[0].tolist()
        return [kept[head * len(kept) // HEADS] for head in range(HEADS)]

    return keep


def take_zipcache(source: Source) -> Theirs:
    """Lines of their attention that find salient rows; probes are drawn."""
    lines = source.lines("zipcache/models/modeling_llama.py", 778, 796)
    torch.manual_seed(0)

    def keep(cached: Cached, rows: int) -> list[list[int]]:
        length = cached.key.shape[1]
        ratio = (length - rows + 0.5) / length
        scope: dict[str, Any] = {
            **{"torch": torch, "nn": torch.nn, "math": math, "q_len": length, "bsz": 1},
            "query_states": cached.query[None],
            "key_states": cached.repeated[None],
            "attention_mask": causal(length)[None, None],
            "kv_seq_len": length,
            "self": SimpleNamespace(
                head_dim=WIDTH, num_heads=HEADS, num_key_value_groups=HEADS // len(cached.key),
                compress_config={"k_unimportant_ratio": ratio},
            ),
        }  # fmt: skip
        exec(lines, scope)
        gone = [set(each) for each in scope["self"].unimportant_ids_k[0].tolist()]
        kept = [[row for row in range(length) if row not in each] for each in gone]
        return [kept[head * len(kept) // HEADS] for head in range(HEADS)]

    return keep


# --- PyramidKV's layers, TidalDecode's reads -----------------------------------------------------

PYRAMID = "pyramidkv/pyramidkv_utils.py"


def compare_fall(source: Source) -> Iterator[float]:
    """Share of 8 layers that keep as many rows, for prompts of several lengths."""
    code = source.take(PYRAMID, "PyramidKVCluster", print=lambda *_: None)
    for rows in (100, 170, 200, 260, 300, 600):
        cached, made = next(caches(LONE, rows, 1)), []
        for layer in range(8):
            cluster = code.PyramidKVCluster(
                num_hidden_layers=8, window_size=32, max_capacity_prompt=160, layer_idx=layer
            )
            found = cluster.update_kv(
                cached.key[None], cached.query[None], cached.marks, None, 1
            )  # fmt: skip
            made.append(found[0].shape[2])
        ours = [min(rows, slots) for slots in fall(160, 8, 32, rows)]
        yield sum(a == b for a, b in zip(made, ours, strict=True)) / 8


def compare_pyramid(source: Source) -> Iterator[float]:
    """Rows that query heads keep in layers 0, 3 and 7 of 8, as many as theirs keeps there."""
    code = source.take(PYRAMID, "PyramidKVCluster", print=lambda *_: None)
    for cached in caches(LONE):
        for layer in (0, 3, 7):
            cluster = code.PyramidKVCluster(
                num_hidden_layers=8, window_size=32, max_capacity_prompt=160, layer_idx=layer
            )
            given = cached.key[None], cached.query[None], cached.marks
            theirs = rows_of(cluster.update_kv(*given, None, 1)[1])
            ours = keep_ours("pyramidkv", cached, len(theirs[0]))
            for left, right in zip(theirs, ours, strict=True):
                yield overlap(left, right)


def compare_tidal(group: int) -> Any:
    """Lines of their forward that choose; cases are query heads."""

    def run(source: Source) -> Iterator[float]:
        path = "src/tidal_build/modify_llama.py"
        lines = source.lines(path, 112, 113) + "\n" + source.lines(path, 118, 118)
        for cached in caches(group):
            logits = cached.query[:, -1:] @ cached.repeated.mT * WIDTH**-0.5
            ours_of = logits.softmax(-1)[:, 0].unflatten(0, (len(cached.key), -1))
            for k in (16, 32, 64):
                scope: dict[str, Any] = {"torch": torch, "attn_weights": logits[None], "top_k": k}
                exec(lines, scope)
                theirs = scope["top_k_indices"][0, :, 0].tolist()
                held = torch.tensor([ROWS_OF_PROMPT - 1])
                ours = choose_rows(ours_of, held, k).tolist()
                for head, wanted in enumerate(theirs):
                    yield overlap(wanted, ours[head * len(ours) // HEADS])

    return run


SNAP, H2O = ("FasterDecoding/SnapKV", "e216ddc"), ("FMInference/H2O", "ac75c2a")
KV, TIDAL = ("Zefan-Cai/PyramidKV", "5d4e2e1"), ("DerrickYLJ/TidalDecode", "d67a1bd")
PLACES = {LONE: "kept rows, a query head a key/value head", SHARED: "kept rows, two query heads"}
SNAP_PATH = "snapkv/monkeypatch/snapkv_utils.py"


def rows_for(name: str, of: tuple[str, str], make: Callable[[Source], Theirs]) -> tuple[Row, ...]:
    return tuple(Row(name, *of, PLACES[g], compare(name, g, make)) for g in (LONE, SHARED))


ROWS = (
    *rows_for("snapkv", SNAP, clusters(SNAP_PATH, "SnapKVCluster", window_size=32)),
    *rows_for("h2o", H2O, take_h2o),
    *rows_for("a2sf", ("Dirac-Notation/A2SF", "00a617f"), take_a2sf),
    Row(
        "streaming", *KV, "kept rows", compare(
            "streaming", LONE, clusters(PYRAMID, "StreamingLLMKVCluster")
        ),
    ),
    Row("pyramidkv", *KV, PLACES[LONE], compare_pyramid),
    Row("pyramidkv", *KV, "rows of each layer by the length of the prompt", compare_fall),
    Row(
        "zipcache-salience", "ThisisBillhe/ZipCache", "b6932b9", PLACES[LONE],
        compare("zipcache-salience", LONE, take_zipcache),
    ),
    *(
        Row("tidaldecode", *TIDAL, PLACES[g].replace("kept", "read"), compare_tidal(g))
        for g in (LONE, SHARED)
    ),
)  # fmt: skip
