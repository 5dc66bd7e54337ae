"""The signals at which visual tokens leave, against plain loops; and files of routers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from edgetok.errors import InputError, UsageError
from edgetok.export.learned_weights import with_exit_weights
from edgetok.prefill import PREFILL_METHODS, find_prefill
from edgetok.prefill.dyvte_signal import METHOD, learn, read_routers, route
from edgetok.prefill.look import Look

WIDTH, TEXT, VISUAL, HIDDEN = 6, 5, 4, 7


@dataclass(frozen=True)
class LastRow:
    """Attention of the last row to the visual ones, [heads, K]."""

    given: torch.Tensor

    def from_last(self) -> torch.Tensor:
        return self.given


def look_at(text: torch.Tensor, true: int, attention: torch.Tensor | None = None) -> Look:
    return Look(
        visual=torch.zeros(VISUAL, WIDTH),
        text=text,
        is_text=(torch.arange(len(text)) < true).float(),
        visual_input=torch.zeros(VISUAL, WIDTH),
        text_input=text,
        previous=None if attention is None else LastRow(attention),  # type: ignore[arg-type]
        next=None,
        gates=None,
        layer=8,
        norm=torch.nn.Identity(),
    )


def make_routers(layers: tuple[int, ...] = (2, 3), width: int = WIDTH) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"hidden": (HIDDEN, 2 * width), "out": (2, HIDDEN), "out_bias": (2,)}
    return {
        f"exits.{layer}.{part}": torch.randn(shape, generator=generator)
        for layer in layers
        for part, shape in shapes.items()
    }


def test_attention_below_the_ratio_is_a_reason_to_leave() -> None:
    attention = torch.tensor([[0.1, 0.1, 0.0, 0.0], [0.0, 0.0, 0.1, 0.0]])  # a mean of 0.15
    assert METHOD.signal is not None
    for ratio, wanted in ((0.2, 0.05), (0.1, -0.05)):
        found = METHOD.signal(look_at(torch.zeros(TEXT, WIDTH), TEXT, attention), ratio)
        assert found.shape == (1,) and float(found) == pytest.approx(wanted)


@pytest.mark.parametrize("true", [1, 3, 5])
def test_a_router_is_the_paper_s(true: int) -> None:
    """What stands behind the prompt changes nothing."""
    text = torch.randn(TEXT, WIDTH, generator=torch.Generator().manual_seed(1))
    text[true:] = 1e3
    hidden, out, bias = read_routers(make_routers())[2]
    rows = text[:true].numpy().astype(float)
    seen = [sum(row[i] for row in rows) / true for i in range(WIDTH)] + list(rows[-1])
    inner = []
    for weights in hidden.numpy():
        x = sum(w * s for w, s in zip(weights, seen, strict=True))
        inner.append(0.5 * x * (1 + math.erf(x / math.sqrt(2))))
    logits = [
        float(b) + sum(w * h for w, h in zip(line, inner, strict=True))
        for line, b in zip(out.numpy(), bias, strict=True)
    ]
    got = route(look_at(text, true), hidden, out, bias)
    np.testing.assert_allclose(float(got), logits[1] - logits[0], atol=1e-4)


@pytest.mark.parametrize(
    ("layers", "wanted"), [(2, (1,)), (4, (1, 2, 3)), (6, (2, 3, 4)), (32, (8, 16, 24))]
)
def test_candidates_lie_at_quarters_of_the_depth(layers: int, wanted: tuple[int, ...]) -> None:
    prefill = find_prefill("dyvte-signal")
    assert prefill is not None and prefill.exits(layers) == wanted
    assert prefill.removed(layers, 16) == [0] * layers  # nothing is certain
    others = [method for method in PREFILL_METHODS.values() if method.name != "dyvte-signal"]
    assert all(method.exits(layers) == () for method in others)


def test_candidates_of_routers_are_those_of_the_file() -> None:
    method = learn(make_routers((2, 5)))
    assert (method.name, method.width) == ("dyvte-signal+learned", WIDTH)
    assert method.exits(6) == (2, 5)
    for layers in (5, 2):
        with pytest.raises(
            UsageError, match=rf"of layers 2, 5, .* before layers 1 to {layers - 1}"
        ):
            method.exits(layers)
    with pytest.raises(UsageError, match="of layers 0"):
        learn(make_routers((0,))).exits(4)


def _broken(name: str, tensor: torch.Tensor | None) -> dict[str, torch.Tensor]:
    weights = make_routers()
    weights.pop(name, None)
    return weights if tensor is None else weights | {name: tensor}


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({}, r"0 tensors, and 'exits\.1\.hidden' is missing"),
        (_broken("exits.2.out", None), r"'exits\.2\.out' is missing"),
        (_broken("exits.x.out", torch.zeros(1)), r"'exits\.x\.out' is missing or too much"),
        (_broken("exits.2.hidden", torch.zeros(3)), r"is \[3\], not \[h, 2 \* hidden"),
        (_broken("exits.2.out", torch.zeros(3, HIDDEN)), r"is \[3, 7\], not \[2, 7\]"),
        (_broken("exits.3.out_bias", torch.full((2,), math.inf)), "holds NaN or infinity"),
        (_broken("exits.3.hidden", torch.zeros(HIDDEN, 4)), r"of different widths: \[4, 12\]"),
    ],
)
def test_files_that_hold_no_routers_are_refused(weights, words: str) -> None:
    with pytest.raises(InputError, match=words):
        learn(weights)


def test_weights_for_another_method_are_refused(tmp_path: Path) -> None:
    save_file(make_routers(), str(tmp_path / "w"))
    prefill = with_exit_weights(find_prefill("dyvte-signal:0.3"), tmp_path / "w")
    assert prefill is not None and prefill.name == "dyvte-signal+learned"
    assert with_exit_weights(None, None) is None
    for name in ("none", "fastv"):
        with pytest.raises(UsageError, match=rf"{name} has no weights; .* is for dyvte-signal"):
            with_exit_weights(find_prefill(name), tmp_path / "w")
