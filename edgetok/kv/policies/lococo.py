"""LoCoCo (arXiv 2406.05317): heavy hitters, 16 last rows, and mixtures of what would go.

The paper mixes rows that it would drop into learned convolutions, eta times; no weights of it were
published. At eta 0 those slots take the next heavy hitters, so all slots go by attention received,
and only the buffer of 16 rows that it fills between two compressions stays whatever it received.

The slot for weights is `learn`, and `--kv-weights FILE` of `edgetok export`: safetensors with
`layers.0.weight` [m, 2 H, W], `layers.0.bias` [m] and `layers.0.eta` [1] for each layer of heads of
H channels; see `edgetok.kv.mixing`. The bundle then names its policy "lococo+learned". The paper
mixes half of the rows that stay; here the weights' own m says how many.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from edgetok.kv.policies import h2o
from edgetok.kv.policy import SCORE, Policy

if TYPE_CHECKING:
    from torch import Tensor


def learn(weights: Mapping[str, Tensor]) -> Policy:
    """The policy with learned mixing.

    Raises:
        InputError: naming the tensor that is missing or misfit.
    """
    from edgetok.kv.mixing import read_mixers

    return replace(
        POLICY,
        name="lococo+learned",
        summary="heavy hitters, and mixtures of what would go",
        differs="one convolution; drops a stretch at a time",
        mixers=read_mixers(weights),
    )


POLICY = Policy(
    name="lococo",
    paper="arXiv 2406.05317",
    summary="heavy hitters; with `--kv-weights`, what would go is mixed into the last of them",
    differs="eta 0 without weights, of which none were published",
    row_state=(SCORE,),
    sinks=0,
    asks=h2o.ask,
    decay=1.0,
    learn=learn,
)
