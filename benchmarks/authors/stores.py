"""Stores of the KV cache: what is read back of keys and values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from frame import Row, Source, equal_rows, overlap
from torch import Tensor

from edgetok.kv.stores import kivi, think, zipcache
from edgetok.kv.stores.zipcache import BITS, Tier, count_salient, pack_prompt, read, split_salient

WIDTHS = (32, 64, 128)


def rows(heads: int, count: int, width: int, seeds: int = 3) -> Iterator[Tensor]:
    """[1, heads, count, width]; some channels are far larger than others."""
    for seed in range(seeds):
        draw = torch.Generator().manual_seed(seed)
        found = torch.randn(1, heads, count, width, generator=draw)
        yield found * (1 + 9 * (torch.rand(width, generator=draw) < 0.1))


def equal(theirs: Tensor, ours: Tensor) -> float:
    """Share of equal rows."""
    return equal_rows(theirs.flatten(0, 2), ours.flatten(0, 2))


# --- KIVI, ThinK ---------------------------------------------------------------------------------


def compare_kivi(which: str) -> Any:
    def run(source: Source) -> Iterator[float]:
        pack, unpack = f"quant_and_pack_{which}cache", f"unpack_and_dequant_{which}cache"
        code = source.take("quant/new_pack.py", pack, unpack, "pack_tensor", "unpack_tensor")
        for width in WIDTHS:
            for x in rows(2, 96, width):
                for bits in (2, 4):
                    packed = getattr(code, pack)(x, 32, bits)
                    theirs = getattr(code, unpack)(*packed, 32, bits)
                    if which == "k":
                        ours = kivi.read_keys(*kivi.pack_keys(x, 32, bits), bits)
                    else:
                        ours = kivi.read_values(*kivi.pack_values(x, bits), bits)
                    yield equal(theirs, ours)

    return run


def compare_think(source: Source) -> Iterator[float]:
    code = source.take("pyramidkv/pyramidkv_utils.py", "key_pruner_query_driven")
    for width in WIDTHS:
        pairs = zip(rows(4, 200, width), rows(4, 200, width, 4), strict=False)
        for keys, query in pairs:
            *_, kept = code.key_pruner_query_driven(keys, query.roll(1, 3), 32, 0.4)
            ours = think.choose_channels(
                query.roll(1, 3)[:, :, -think.WINDOW :], keys, think.count_channels(width)
            )
            for mask, channels in zip(kept[0], ours[0], strict=True):
                yield overlap(mask.nonzero()[:, 0].tolist(), channels.tolist())


# --- ZipCache ------------------------------------------------------------------------------------

FUNCTIONS = "zipcache/models/CompressUtils/compress_function.py"
LENGTHS = (96, 99, 617)


def compare_salient(source: Source) -> Iterator[float]:
    """The line of their attention that takes the least salient rows, in their example's share."""
    line = source.lines("zipcache/models/modeling_llama.py", 796, 796)
    for length in LENGTHS:
        for seed in range(4):
            salience = torch.rand(1, 2, length, generator=torch.Generator().manual_seed(seed))
            model: Any = type("Model", (), {"compress_config": {"k_unimportant_ratio": 0.4}})()
            exec(line, {"self": model, "token_attn_sum": salience, "q_len": length})
            _, low = split_salient(salience, count_salient(length))
            for theirs, ours in zip(model.unimportant_ids_k[0], low[0], strict=True):
                yield overlap(theirs.tolist(), ours.tolist())


def compare_zip(which: str, heads: int) -> Any:
    """Rows read back, keys or values."""
    both = {
        "key": ("true_mixedprec_compress_channelwise", "true_mixedprec_decompress_channelwise"),
        "value": (
            "true_channel_separate_mixedprec_tokenwise_compress",
            "true_channel_separate_mixedprec_tokenwise_decompress",
        ),
    }

    def run(source: Source) -> Iterator[float]:
        helpers = [f"transfer_8bit_to_{b}bit_batchwise" for b in (2, 4)]
        helpers += [f"transfer_{b}bit_to_8bit_batchwise" for b in (2, 4)]
        helpers += ["true_channel_wise_quantize", "true_tokenwise_quantize"]
        code = source.take(FUNCTIONS, *both[which], *helpers, "tokenwise_dequantization")
        pack, unpack = (getattr(code, name) for name in both[which])
        for width in WIDTHS:
            for x in rows(heads, 100, width):
                salience = torch.rand(1, heads, 100, generator=torch.Generator().manual_seed(width))
                high, low = split_salient(salience, count_salient(100))
                found = pack(x, high, low, 4, 2)
                found = [*found[:3], 4, *found[3:6], 2, *found[6:]]
                theirs = unpack(*found, high, low, torch.float32, x.shape)
                yield equal(theirs, read_back(x, salience, which))

    return run


def read_back(x: Tensor, salience: Tensor, which: str) -> Tensor:
    """Our store's rows in their places, of keys and values that are alike."""
    count = x.shape[2]
    high = count_salient(count)
    slots = {"high": high, "low": count - high}
    held = pack_prompt(x, x, salience, torch.tensor([count]), slots)
    kinds = ("key", "value", "key_least", "key_step", "value_least", "value_step")
    out = torch.zeros_like(x)
    for tier, places in zip(BITS, split_salient(salience, high), strict=True):
        parts = [held[f"{tier}_{kind}"] for kind in kinds] + [held["divisor"]]
        rows_of_tier = Tier(*parts)
        found = read(rows_of_tier, BITS[tier])[which == "value"]
        out.scatter_(2, places.unsqueeze(-1).expand_as(found), found)
    return out


KIVI, ZIP = ("jy-yuan/KIVI", "876b4d2"), ("ThisisBillhe/ZipCache", "b6932b9")

ROWS = (
    Row("kivi", *KIVI, "keys read back, heads of 32, 64, 128", compare_kivi("k")),
    Row("kivi", *KIVI, "values read back, heads of 32, 64, 128", compare_kivi("v")),
    Row("think", "Zefan-Cai/PyramidKV", "5d4e2e1", "channels kept", compare_think),
    Row(zipcache.NAME, *ZIP, "rows of 2 bits at the same salience", compare_salient),
    Row(zipcache.NAME, *ZIP, "keys read back, two heads", compare_zip("key", 2)),
    Row(zipcache.NAME, *ZIP, "values read back, one head", compare_zip("value", 1)),
    Row(
        zipcache.NAME,
        *ZIP,
        "values read back, two heads, which share a range in theirs",
        compare_zip("value", 2),
    ),
)
