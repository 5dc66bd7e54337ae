"""GPTQ: what is lost on rows that were seen, exact recovery of its levels, and an export by it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from edgetok.cli.app import execute
from edgetok.export.lowering.gptq import round_layers, round_weight
from edgetok.export.lowering.quantize import dequantize_matrix, quantize_matrix
from edgetok.export.pipeline import export_model
from edgetok.scratch import Scratch


def make_rows(width: int, seed: int) -> torch.Tensor:
    """Rows [2048, K] of which some channels are a hundred times others, and all are mixed."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.eye(width) + 0.1 * torch.randn(width, width, generator=generator)
    scaled = torch.logspace(-1, 1, width)[torch.randperm(width, generator=generator)]
    return torch.randn(2048, width, generator=generator) * scaled @ mixed


def round_nearest(weight: torch.Tensor) -> torch.Tensor:
    columns = weight.numpy().T
    return torch.from_numpy(dequantize_matrix(*quantize_matrix(columns, 4), len(columns), 4).T)


@pytest.mark.parametrize("width", [80, 128, 576])
def test_other_rows_of_the_same_kind_lose_half_of_what_nearest_levels_lose(width: int) -> None:
    rows, weight = make_rows(width, 0), torch.randn(48, width)
    rounded = round_weight(weight, rows[:1536].T @ rows[:1536], 4)
    ours, nearest = (
        ((rows[1536:] @ (each - weight).T).norm() / (rows[1536:] @ weight.T).norm()).item()
        for each in (rounded, round_nearest(weight))
    )
    assert 0 < ours < 0.6 * nearest
    torch.testing.assert_close(round_nearest(rounded), rounded, rtol=1e-5, atol=1e-7)


def test_two_columns_are_rounded_as_the_paper_says() -> None:
    """By hand: H = [[4, 2], [2, 2]] of the first two columns; levels are steps of 0.125.

    Two other columns, which matter most, lie on levels: -8 and 5 steps. Of the two, the first goes
    first: 0.3 becomes 0.25, and for the 0.05 that is lost the second, 0.18, grows by
    0.05 H_01 / H_11 = 0.05. So it becomes 0.25, where its nearest level is 0.125.
    """
    weight, moment = torch.zeros(1, 32), torch.zeros(32, 32)
    weight[0, :4] = torch.tensor([0.3, 0.18, -1.0, 0.625])
    moment[:2, :2] = torch.tensor([[4.0, 2.0], [2.0, 2.0]])
    moment[2, 2] = moment[3, 3] = 100
    wanted = torch.tensor([0.25, 0.25, -1.0, 0.625])
    torch.testing.assert_close(round_weight(weight, moment, 4)[0, :4], wanted)


def test_linears_that_read_the_same_rows_are_rounded_by_them() -> None:
    layer = nn.ModuleDict({"q": nn.Linear(96, 16), "k": nn.Linear(96, 8), "o": nn.Linear(96, 4)})
    rows = make_rows(96, 1)

    def passes():  # type: ignore[no-untyped-def]
        for part in rows.split(512):
            given = part[None]
            yield layer["q"](given), layer["k"](given), layer["o"](given * 2)

    found = round_layers([layer], passes(), 4, Scratch())
    for linear in layer.values():
        alone = round_weight(linear.weight.detach(), rows.T @ rows, 4)
        torch.testing.assert_close(found.weights[linear].detach(), alone, rtol=1e-3, atol=1e-3)
    before = layer["q"].weight
    with found.hold():
        assert layer["q"].weight is found.weights[layer["q"]]
    assert layer["q"].weight is before


@pytest.mark.parametrize("sampled", [True, False])
def test_the_report_says_how_weights_were_rounded(
    sampled: bool,
    model_dir: Path,
    samples: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = {"budgets": "4", "prompt_tokens": 64, "new_tokens": 8, "parity_images": 1}
    out, given = tmp_path / "int4.bundle", samples if sampled else None
    export_model(model_dir, out, weights="int4", samples=given, flavour="portable", **options)
    report = json.loads((out / "reports/parity.json").read_text())
    assert report["rounding"] == ("gptq" if sampled else "nearest")
    assert execute(["eval", str(out), "--data", str(samples), "--count", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rounding"] == report["rounding"]
    # Exact but for int8 activations: both flavours hold the very weights that PyTorch was given.
    cosines = [
        check["worst"]
        for check in report["checks"]
        if check["stage"] == "portable decode" and check["measure"] == "cosine"
    ]
    assert cosines and min(cosines) > 0.999999
