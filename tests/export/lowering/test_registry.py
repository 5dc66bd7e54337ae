"""The exporter's table of operators: made once, and the graphs are those of a new one."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn
from torch.onnx._internal.exporter import _registration

from edgetok.export.lowering import registry
from edgetok.export.lowering.registry import kept_registry


class Softmax(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.gelu(x).softmax(-1)


def export(opset: int = 20) -> bytes:
    given = {"dynamo": True, "opset_version": opset, "optimize": False, "verbose": False}
    model: Any = torch.onnx.export(Softmax().eval(), (torch.zeros(2, 3),), **given).model  # type: ignore[arg-type, union-attr]
    for node in model.graph:
        node.metadata_props.clear()
    return ir.to_proto(model).SerializeToString(deterministic=True)


def test_graphs_are_the_same_and_the_table_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    own = _registration.ONNXRegistry.from_torchlib

    def count(opset_version: int) -> Any:
        made.append(opset_version)
        return own(opset_version=opset_version)

    monkeypatch.setattr(registry, "_TABLES", {})
    monkeypatch.setattr(_registration.ONNXRegistry, "from_torchlib", staticmethod(count))
    anew = export(), export(24)
    made.clear()
    with kept_registry():
        kept = [(export(), export(24)) for _ in range(2)]
    assert kept == [anew, anew]
    assert made == [20, 24]
    export()
    assert made == [20, 24, 20], "outside, PyTorch makes its own"


def test_another_pytorch_makes_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(_registration, "ONNXRegistry")
    with kept_registry():
        assert not hasattr(_registration, "ONNXRegistry")
