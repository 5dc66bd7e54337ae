"""The explicit KV stores as graphs: standard operators, constant shapes, the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from edgetok.export.caches.zipcache.graphs import tier_of
from edgetok.export.lowering import portable
from edgetok.export.lowering.trace import quiet, trace
from edgetok.kv.stores import kivi, ring, think, tidaldecode, zipcache

G, H, HEADS, C, R = 2, 16, 4, 16, 4
DYNAMIC = {"NonZero", "Unique", "If", "Loop", "Scan", "Compress"}


class _Graph(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)


def _pack(keys: Tensor) -> Any:
    return kivi.pack_keys(keys, R, 2)


def _step(*x: Tensor) -> Any:
    """One step over a KIVI cache: the new row waits, a value leaves, and everything is read."""
    keys, values, (ring_key, ring_value), (key, value, weights, count) = (
        x[:3],
        x[3:6],
        x[6:8],
        x[8:],
    )
    left = kivi.let_value_go(values, ring_value, count, 2)
    joined = torch.cat([ring_value, value], 2)
    read = kivi.read_keys(*keys, 2), kivi.weigh_values(weights, left, joined, count, 2)
    return *left, ring.put_last(ring_key, key, count), *read


LOW = tuple(
    f"low_{kind}" for kind in ("key", "value", "key_least", "key_step", "value_least", "value_step")
)
SHAPE = zipcache.ZipShape(1, G, H, C + R + 1, C, R)


def _pack_prompt(key: Tensor, value: Tensor, salience: Tensor, count: Tensor) -> Any:
    return tuple(zipcache.pack_prompt(key, value, salience, count, SHAPE.tiers).values())


def _pack_ring(*waiting: Tensor) -> Any:
    return tuple(zipcache.pack_ring(SHAPE, dict(zip(SHAPE.waiting, waiting, strict=True))).values())


def _read(*x: Tensor) -> Any:
    held = dict(zip(("divisor", *LOW), x, strict=True))
    return zipcache.read(tier_of(held, "low"), zipcache.BITS["low"])


def _think(query: Tensor, keys: Tensor, asked: Tensor, recent: Tensor) -> Any:
    channels = think.choose_channels(asked, keys, 10)
    return think.score(query, think.prune(keys, channels), channels, recent)


def _think_step(*x: Tensor) -> Any:
    region, recent, channels, key, query, count = x
    region, recent = think.put_row(region, recent, channels, key, count)
    products = think.score(query, region, channels, recent)
    return region, recent, ring.order_scores(*products, count - R + 1, C)


def _tidal(query: Tensor, keys: Tensor, values: Tensor, count: Tensor) -> Any:
    weights = torch.softmax(query.reshape(G, -1, H) @ keys[0].transpose(1, 2), -1)
    rows = tidaldecode.choose_rows(weights, count, 5)
    picked = [tidaldecode.gather_rows(buffer, rows.clamp(min=0)) for buffer in (keys, values)]
    return (tidaldecode.attend(query, *picked, rows >= 0),)


def _inputs() -> dict[str, tuple[Callable[..., Any], list[Tensor]]]:
    torch.manual_seed(0)
    rows = [torch.randn(1, G, R, H) for _ in range(2)]
    packed = (
        *kivi.pack_keys(torch.randn(1, G, C, H), R, 2),
        *kivi.pack_values(torch.randn(1, G, C, H), 2),
    )
    key, value, count = torch.randn(1, G, 1, H), torch.randn(1, G, 1, H), torch.tensor([9])
    keys, values = torch.randn(1, G, C, H), torch.randn(1, G, C, H)
    prompt = [keys, values, torch.rand(1, G, C), torch.tensor([C])]
    held = zipcache.pack_prompt(*prompt, SHAPE.tiers)
    waiting = {"ring_key": rows[0], "ring_value": rows[1], "ring_score": torch.rand(1, G, R)}
    query, recent = torch.randn(1, HEADS, 1, H), torch.randn(1, G, 3, H)
    return {
        "kivi pack": (_pack, rows[:1]),
        "kivi step": (_step, [*packed, *rows, key, value, torch.rand(1, G, 2, C + R), count]),
        "zipcache prompt": (_pack_prompt, prompt),
        "zipcache ring": (_pack_ring, [(held | waiting)[kind] for kind in SHAPE.waiting]),
        "zipcache read": (_read, [held[kind] for kind in ("divisor", *LOW)]),
        "think": (_think, [query, keys, torch.randn(1, HEADS, 6, H), recent]),
        "think step": (
            _think_step,
            [
                *(torch.randn(1, G, C - R, 10), torch.randn(1, G, R, H)),
                *(torch.arange(10).expand(1, G, 10), key, query, count),
            ],
        ),
        "tidaldecode": (_tidal, [query, keys, values, count]),
    }


@pytest.mark.parametrize("name", _inputs())
def test_stores_freeze(name: str) -> None:
    function, given = _inputs()[name]
    want = function(*given)
    inputs = {f"in_{i}": x for i, x in enumerate(given)}
    outputs = [f"out_{i}" for i in range(len(want))]
    with quiet():
        model = trace(_Graph(function), inputs, outputs, name, portable.OPSET)
    model.ir_version = portable.IR_VERSION
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    assert {node.domain for node in proto.graph.node} == {""}
    assert not DYNAMIC & {node.op_type for node in proto.graph.node}
    for output in proto.graph.output:
        assert all(d.HasField("dim_value") for d in output.type.tensor_type.shape.dim)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    read = {value.name for value in session.get_inputs()}
    got = session.run(outputs, {n: x.numpy() for n, x in inputs.items() if n in read})
    for value, wanted in zip(got, want, strict=True):
        torch.testing.assert_close(torch.from_numpy(value), wanted, atol=1e-5, rtol=1e-5)
