"""Explicit stores against plain loops, step by step for twice what they hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from edgetok.export.caches.zipcache.graphs import tier_of
from edgetok.kv.stores import kivi, levels, ring, think, tidaldecode, zipcache

G, H, HEADS = 2, 16, 4


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def at(number: int) -> torch.Tensor:
    return torch.tensor([number])


def rounded(
    values: list[float], bits: int, given: tuple[float, float] | None = None
) -> list[float]:
    """Min-max levels of a list of numbers, one after another."""
    top = 2**bits - 1
    least, most = given or (min(values), max(values))
    step = np.float32(max((np.float32(most) - np.float32(least)) / np.float32(top), 1e-8))
    found = []
    for value in values:
        level = min(max(round(float((np.float32(value) - np.float32(least)) / step)), 0), top)
        found.append(level * float(step) + least)
    return found


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_bytes_hold_levels(bits: int) -> None:
    rows = draw(1, G, 5, H)
    least, step = levels.find_range(rows, 3, bits)
    packed = levels.to_levels(rows, least, step, bits)
    assert packed.dtype == torch.int8
    assert packed.shape[-1] == H * bits // 8
    back = levels.from_levels(packed, least, step, bits)
    for group in range(G):
        for slot in range(5):
            want = rounded(rows[0, group, slot].tolist(), bits)
            assert back[0, group, slot].tolist() == pytest.approx(want, abs=1e-5)


def file_rows(held: torch.Tensor, packed: torch.Tensor, start: int) -> torch.Tensor:
    """A buffer with rows, or what goes with them, from `start` on, in axis 2, as hosts write."""
    buffer = held.numpy().copy()
    assert start + packed.shape[2] <= buffer.shape[2]
    buffer[:, :, start : start + packed.shape[2]] = packed.numpy()
    return torch.from_numpy(buffer)


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("width", [16, 64, 80])
def test_kivi_step_by_step(bits: int, width: int) -> None:
    """Keys are packed four at a time; of values the one that came four rows before the newest."""
    waiting, slots = 4, 21
    shape = kivi.KiviShape(1, G, width, slots, waiting, bits)
    held = {
        kind: torch.zeros(at, dtype=getattr(torch, d)) for kind, (d, at) in shape.buffers.items()
    }
    keys: list[torch.Tensor] = []  # the loop's own memory: rows as they came, then as rounded
    values: list[torch.Tensor] = []
    for count in range(slots):
        if count and count % waiting == 0:
            packed = kivi.pack_keys(held["ring_key"], waiting, bits)
            for kind, rows in zip(shape.group, packed, strict=True):
                held[kind] = file_rows(held[kind], rows, (count // waiting - 1) * rows.shape[2])
            _round_group(keys, waiting, bits)
        key, value = (draw(1, G, 1, width, seed=2 * count + n) for n in (0, 1))
        keys.append(key[0, :, 0].clone())
        values.append(value[0, :, 0].clone())
        joined = torch.cat([held["ring_value"], value], 2)
        left = kivi.let_value_go(_values(held), held["ring_value"], at(count), bits)
        held |= dict(zip(("value", "value_least", "value_step"), left, strict=True))
        held["ring_key"] = ring.put_last(held["ring_key"], key, at(count))
        _compare_keys(held, keys, bits)
        weights = torch.rand(1, G, 3, slots) * (torch.arange(slots) <= count)
        got = kivi.weigh_values(weights, _values(held), joined, at(count), bits)
        want = weights[..., : count + 1] @ torch.stack(values, 1)[None]
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-5)
        held["ring_value"] = ring.put_last(held["ring_value"], value, at(count))
        if count >= waiting:
            _round_value(values[count - waiting], bits)


def _values(held: dict[str, torch.Tensor]) -> kivi.Packed:
    return held["value"], held["value_least"], held["value_step"]


def _compare_keys(held: dict[str, torch.Tensor], keys: list[torch.Tensor], bits: int) -> None:
    """Groups that were filed, then the ring from its first slot on."""
    waiting = held["ring_key"].shape[2]
    filed = (len(keys) - 1) // waiting * waiting
    rows = kivi.read_keys(held["key"], held["key_least"], held["key_step"], bits)[0, :, :filed]
    got = torch.cat([rows, held["ring_key"][0, :, : len(keys) - filed]], 1)
    torch.testing.assert_close(got, torch.stack(keys, 1), atol=1e-5, rtol=0)


def _round_group(keys: list[torch.Tensor], waiting: int, bits: int) -> None:
    last = range(len(keys) - waiting, len(keys))
    for group in range(G):
        for channel in range(keys[0].shape[1]):
            column = rounded([float(keys[i][group, channel]) for i in last], bits)
            for i, value in zip(last, column, strict=True):
                keys[i][group, channel] = value


def _round_value(row: torch.Tensor, bits: int) -> None:
    """32 channels at a time, or as many of a narrower or uneven head as divide it."""
    width = {16: 16, 64: 32, 80: 20}[row.shape[1]]
    for head in row:
        for first in range(0, len(head), width):
            part = head[first : first + width].tolist()
            head[first : first + width] = torch.tensor(rounded(part, bits))


def test_kivi_gives_a_value_back_as_the_authors_program_does() -> None:
    """Of jy-yuan/KIVI at 876b4d2, group 32: one range over all 64 channels would lose the first."""
    row = torch.tensor([0.0, 1, 2, 3] * 8 + [0, 100, 200, 300] * 8)
    back = kivi.read_values(*kivi.pack_values(row.reshape(1, 1, 1, 64), 2), 2)
    torch.testing.assert_close(back.flatten(), row)


def test_kivi_holds_the_last_rows_whole_as_the_authors_program_does() -> None:
    """After 33 rows with R = 32 value row 0 is packed, and rows 1 to 32 are as they came."""
    rows = draw(1, 1, 33, 64)
    held = ring.take_last(rows[:, :, :32], at(31), 32)
    none = kivi.pack_values(torch.zeros(1, 1, 9, 64), 2)
    left = kivi.let_value_go(none, held, at(32), 2)
    want = [x for n in (0, 32) for x in rounded(rows[0, 0, 0, n : n + 32].tolist(), 2)]
    assert kivi.read_values(*left, 2)[0, 0, 0].tolist() == pytest.approx(want, abs=1e-5)
    held = ring.put_last(held, rows[:, :, 32:], at(32))
    order = ring.rows_of_slots(at(32), 32)
    torch.testing.assert_close(held, rows.index_select(2, order))
    assert sorted(order.tolist()) == list(range(1, 33))


@pytest.mark.parametrize("count", [1, 2, 5, 8, 13])
def test_a_ring_holds_each_row_in_its_slot(count: int) -> None:
    rows = draw(1, G, 13, H)
    want = torch.zeros(1, G, 5, H)
    for row in range(count):
        want[:, :, row % 5] = rows[:, :, row]
    torch.testing.assert_close(ring.take_last(rows, at(count - 1), 5), want)


@pytest.mark.parametrize(("prompt", "padding"), [(20, 0), (13, 7), (2, 18)])
def test_zipcache_packs_and_packs_again(prompt: int, padding: int) -> None:
    """Of 20 rows 12 and 8, then 3 and 2 more each time; what pads a prompt is in no tier."""
    tail, times = 5, 4
    shape = zipcache.ZipShape(1, G, H, prompt + tail * times + 1, prompt + padding, tail)
    keys, values, salience = (
        draw(1, G, prompt, H),
        draw(1, G, prompt, H, seed=1),
        draw(1, G, prompt).abs(),
    )
    padded = [torch.cat([rows, torch.full((1, G, padding, H), 1e3)], 2) for rows in (keys, values)]
    scores = torch.cat([salience, torch.full((1, G, padding), -1.0)], 2)
    held = zipcache.pack_prompt(*padded, scores, at(prompt), shape.tiers)
    want = [_zip_loop(keys, values, salience, tier) for tier in (0, 1)]
    _compare_tiers(held, want)
    for time in range(times):
        new = draw(1, G, tail, H, seed=5 + time), draw(1, G, tail, H, seed=50 + time)
        score = draw(1, G, tail, seed=500 + time)
        waiting = dict(zip(shape.written, (*new, score), strict=True))
        _file_tiers(held, zipcache.pack_ring(shape, held | waiting))
        seen = torch.tensor([float(tail - row) for row in range(tail)])  # steps since it came
        for tier in (0, 1):
            _zip_append(want[tier], *new, score / seen, tier)
        _compare_tiers(held, want)
    assert held["filled"].tolist() == [len(heads[0]["rows"]) for heads in want]


def _file_tiers(held: dict[str, torch.Tensor], packed: dict[str, torch.Tensor]) -> None:
    """Rows after those that each tier holds, as the host writes them."""
    starts = dict(zip(zipcache.BITS, held["filled"].tolist(), strict=True))
    for name, rows in packed.items():
        held[name] = file_rows(held[name], rows, starts[name.partition("_")[0]])
    added = [packed[f"{tier}_key"].shape[2] for tier in zipcache.BITS]
    held["filled"] = held["filled"] + torch.tensor(added)


def _places(salience: torch.Tensor, group: int, tier: int) -> list[int]:
    scores = salience[0, group].tolist()
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    salient = len(scores) - int(0.4 * len(scores))
    return sorted(order[:salient] if tier == 0 else order[salient:])


def _zip_loop(
    keys: torch.Tensor, values: torch.Tensor, salience: torch.Tensor, tier: int
) -> list[dict]:
    """Per head: the ranges of its keys, its divisors, and its rows."""
    heads = []
    for group in range(G):
        chosen = _places(salience, group, tier)
        columns = keys[
            0, group, chosen or slice(None)
        ]  # a tier of no rows takes all for its ranges
        largest = values[0, group].abs().max(0).values.tolist()
        heads.append(
            {
                "ranges": [(float(c.min()), float(c.max())) for c in columns.T],
                "divisor": [math.sqrt(x) for x in largest],
                "rows": [],
            }
        )
    _zip_append(heads, keys, values, salience, tier)
    return heads


def _zip_append(
    heads: list[dict], keys: torch.Tensor, values: torch.Tensor, salience: torch.Tensor, tier: int
) -> None:
    bits = (4, 2)[tier]
    for group, head in enumerate(heads):
        for i in _places(salience, group, tier):
            key = [
                rounded([float(x)], bits, span)[0]
                for x, span in zip(keys[0, group, i], head["ranges"], strict=True)
            ]
            even = [float(x) / d for x, d in zip(values[0, group, i], head["divisor"], strict=True)]
            value = [x * d for x, d in zip(rounded(even, bits), head["divisor"], strict=True)]
            head["rows"].append((key, value))


def _compare_tiers(held: dict[str, torch.Tensor], want: list[list[dict]]) -> None:
    for (tier, bits), heads in zip(zipcache.BITS.items(), want, strict=True):
        keys, values = zipcache.read(tier_of(held, tier), bits)
        for group, head in enumerate(heads):
            count = len(head["rows"])
            for got, side in ((keys, 0), (values, 1)):
                wanted = torch.tensor([row[side] for row in head["rows"]]).reshape(count, H)
                torch.testing.assert_close(got[0, group, :count], wanted, atol=1e-4, rtol=0)


def test_think_keeps_the_channels_that_questions_use() -> None:
    queries, keys, recent = (
        draw(1, HEADS, 6, H),
        draw(1, G, 30, H, seed=1),
        draw(1, G, 3, H, seed=2),
    )
    keep = 10
    channels = think.choose_channels(queries, keys, keep)
    query = draw(1, HEADS, 1, H, seed=3)
    got = torch.cat(think.score(query, think.prune(keys, channels), channels, recent), -1)
    for group in range(G):
        asked = queries[0, 2 * group : 2 * group + 2].reshape(-1, H)
        importance = [
            sum(float(q) ** 2 for q in asked[:, d])
            * sum(float(k) ** 2 for k in keys[0, group, :, d])
            for d in range(H)
        ]
        kept = sorted(sorted(range(H), key=lambda d: -importance[d])[:keep])
        assert channels[0, group].tolist() == kept
        for head in (2 * group, 2 * group + 1):
            q = query[0, head, 0]
            want = [sum(float(q[d] * k[d]) for d in kept) for k in keys[0, group]]
            want += [float(q @ k) for k in recent[0, group]]
            assert got[0, head, 0].tolist() == pytest.approx(want, abs=1e-4)


def test_think_with_all_channels_is_dense() -> None:
    keys, query = draw(1, G, 9, H), draw(1, HEADS, 1, H, seed=1)
    channels = think.choose_channels(draw(1, HEADS, 4, H, seed=2), keys, H)
    got, _ = think.score(query, think.prune(keys, channels), channels, keys[:, :, :2])
    dense = query @ keys.repeat_interleave(2, 1).transpose(2, 3)
    torch.testing.assert_close(got, dense)


def test_think_prunes_a_key_when_it_leaves_the_ring() -> None:
    waiting, slots, keep = 4, 15, 5
    region, recent = torch.zeros(1, G, slots - waiting, keep), torch.zeros(1, G, waiting, H)
    channels = torch.stack([torch.randperm(H)[:keep].sort().values for _ in range(G)])[None]
    keys: list[torch.Tensor] = []  # the loop's own memory: all of them, whole
    for count in range(slots):
        key, query = draw(1, G, 1, H, seed=count), draw(1, HEADS, 1, H, seed=100 + count)
        region, recent = think.put_row(region, recent, channels, key, at(count))
        keys.append(key[0, :, 0])
        products = think.score(query, region, channels, recent)
        got = ring.order_scores(*products, at(count - waiting + 1), slots)
        for head in range(HEADS):
            q, group = query[0, head, 0].tolist(), head // 2
            want = [
                sum(
                    q[d] * float(k[group, d])
                    for d in range(H)
                    if row > count - waiting or d in channels[0, group]
                )
                for row, k in enumerate(keys)
            ]
            assert got[0, head, 0, : count + 1].tolist() == pytest.approx(want, abs=1e-4)


def weigh(query: torch.Tensor, keys: torch.Tensor, held: int) -> torch.Tensor:
    """Attention of one query per head to rows up to and with `held`: [G, heads / G, C]."""
    scores = query.reshape(G, HEADS // G, H) @ keys[0].transpose(1, 2)
    scores[..., held + 1 :] = -torch.inf
    return torch.softmax(scores, -1)


def test_tidaldecode_reads_what_a_selection_layer_chose() -> None:
    slots, held, k = 40, 25, 7
    keys, values = draw(1, G, slots, H), draw(1, G, slots, H, seed=1)
    asked, query = draw(1, HEADS, 1, H, seed=2), draw(1, HEADS, 1, H, seed=3)
    rows = tidaldecode.choose_rows(weigh(asked, keys, held), at(held), k)
    picked = [tidaldecode.gather_rows(buffer, rows) for buffer in (keys, values)]
    got = tidaldecode.attend(query, *picked, rows >= 0)
    for group in range(G):
        paid = [0.0] * (held + 1)
        for head in (2 * group, 2 * group + 1):
            grown = [math.exp(float(asked[0, head, 0] @ keys[0, group, i])) for i in range(40)]
            paid = [p + g / sum(grown[: held + 1]) for p, g in zip(paid, grown, strict=False)]
        read = sorted(range(held + 1), key=lambda i: -paid[i])[:k]
        assert sorted(rows[group].tolist()) == sorted(read)
        for head in (2 * group, 2 * group + 1):
            grown = [math.exp(float(query[0, head, 0] @ keys[0, group, i])) for i in read]
            want = sum(
                g / sum(grown) * values[0, group, i] for g, i in zip(grown, read, strict=True)
            )
            torch.testing.assert_close(got[0, head, 0], want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("held", [0, 3, 6])
def test_tidaldecode_with_room_for_all_is_dense(held: int) -> None:
    keys, values, query = draw(1, G, 9, H), draw(1, G, 9, H, seed=1), draw(1, HEADS, 1, H, seed=2)
    rows = tidaldecode.choose_rows(weigh(query, keys, held), at(held), 7)
    assert ((rows >= 0).sum(1) == held + 1).all()
    picked = [tidaldecode.gather_rows(buffer, rows.clamp(min=0)) for buffer in (keys, values)]
    got = tidaldecode.attend(query, *picked, rows >= 0)
    dense = weigh(query, keys, held) @ values[0]
    torch.testing.assert_close(got, dense.reshape(1, HEADS, 1, H))
