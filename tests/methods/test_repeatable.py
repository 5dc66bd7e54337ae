"""Cosines that are the same to the last bit in PyTorch and in ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from edgetok import tokens
from edgetok.export.lowering.trace import quiet, trace


class Similarity(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return tokens.repeatable_similarity(x)


@pytest.mark.parametrize(("n", "width"), [(100, 24), (576, 192), (300, 1024)])
def test_every_runtime_makes_the_same_cosines(n: int, width: int) -> None:
    x = torch.randn(n, width, generator=torch.Generator().manual_seed(width))
    x[:, 3] *= 20  # a channel that outshines the others, as vision towers have
    x[5], x[7] = x[9], 0.0
    with quiet():
        model = trace(Similarity().eval(), {"x": x}, ["similar"], "similarity")
    session = ort.InferenceSession(
        ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (got,) = session.run(None, {"x": x.numpy()})
    similar = tokens.repeatable_similarity(x)
    np.testing.assert_array_equal(got, similar.numpy())
    units = torch.nn.functional.normalize(x.double(), dim=1)
    assert (similar - units @ units.T).abs().max() < 0.6 / 4096  # the grid's own half, and little
    assert similar[5, 9] == 1 and not similar[7].any()
