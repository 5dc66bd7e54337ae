"""The slot for a trained scorer: what its weights do, and what is refused."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import edgetok
from edgetok.bundle.reader import Bundle
from edgetok.errors import InputError, UsageError
from edgetok.export.learned_weights import with_scorer
from edgetok.export.pipeline import export_model
from edgetok.methods import METHODS, find_method

CHANNELS, WIDTH = (1, 4, 3, 1), 5


def make_weights(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for i, (before, behind) in enumerate(pairwise(CHANNELS)):
        shapes = {"filters": (before, 1, WIDTH), "filter_bias": (before,)}
        shapes |= {"mixture": (behind, before, 1), "mixture_bias": (behind,)}
        for part, shape in shapes.items():
            weights[f"layers.{i}.{part}"] = torch.randn(shape, generator=generator)
    return weights


def convolve(scores: Any, weights: dict[str, torch.Tensor]) -> Any:
    """The network in plain loops over channels, places and taps."""
    maps = [np.asarray(scores, np.float64)]
    for i in range(len(CHANNELS) - 1):
        part = {
            k: weights[f"layers.{i}.{k}"].double().numpy()
            for k in ("filters", "filter_bias", "mixture", "mixture_bias")
        }
        filtered = []
        for c, own in enumerate(maps):
            padded = np.pad(own, WIDTH // 2)
            sums = [padded[n : n + WIDTH] @ part["filters"][c, 0] for n in range(len(own))]
            filtered.append(np.array(sums) + part["filter_bias"][c])
        maps = [
            sum(part["mixture"][e, c, 0] * own for c, own in enumerate(filtered)) + bias
            for e, bias in enumerate(part["mixture_bias"])
        ]
        if i < len(CHANNELS) - 2:
            maps = [np.maximum(own, 0) for own in maps]
    return maps[0]


@pytest.mark.parametrize("k", [7, 40, 93])
def test_a_trained_scorer_ranks_the_tokens(
    k: int, case: str, features_of: Any, references: Any
) -> None:
    weights = make_weights()
    features = features_of(case, (10, 10))
    asked = references["asked"](features)
    best = max(asked) or 1.0
    coarse = [round(value / best * 65536) / 65536 for value in asked]
    mean = sum(coarse) / len(coarse) or 1.0
    scores = convolve([value / mean for value in coarse], weights)
    kept = METHODS["explainability"].learn(weights).compress(features, k).indices.tolist()
    largest = max(abs(scores)) or 1.0
    rounded = [round(score / largest * 65536) for score in scores]
    wanted = sorted(sorted(range(100), key=lambda i: (-rounded[i], i))[:k])
    assert kept == wanted


def test_weights_change_what_is_kept(features_of: Any) -> None:
    features, method = features_of("random", (10, 10)), METHODS["explainability"]
    kept = [
        m.compress(features, 20).indices.tolist()
        for m in (method, method.learn(make_weights(0)), method.learn(make_weights(1)))
    ]
    assert len({tuple(indices) for indices in kept}) == 3
    assert method.learn(make_weights()).name == "explainability+learned"


BROKEN = {
    "missing": (lambda w: w.pop("layers.1.mixture"), "layers.1.mixture"),
    "extra": (lambda w: w.update({"layers.0.scale": torch.ones(1)}), "layers.0.scale"),
    "even width": (lambda w: w.update({"layers.0.filters": torch.ones(1, 1, 4)}), "width 4"),
    "shape": (lambda w: w.update({"layers.1.filters": torch.ones(9, 1, 5)}), r"not \[4, 1, 5\]"),
    "nan": (lambda w: w["layers.2.mixture_bias"].fill_(float("nan")), "NaN or infinity"),
    "none": (lambda w: w.clear(), "0 tensors"),
}


@pytest.mark.parametrize(("spoil", "words"), BROKEN.values(), ids=list(BROKEN))
def test_weights_that_do_not_fit_are_refused(spoil: Any, words: str) -> None:
    weights = make_weights()
    spoil(weights)
    with pytest.raises(InputError, match=words):
        METHODS["explainability"].learn(weights)


def test_files_that_hold_no_scorer_are_refused(tmp_path: Path) -> None:
    method = find_method("explainability")
    with pytest.raises(InputError, match="cannot be read: No such file"):
        with_scorer(method, tmp_path / "missing.safetensors")
    (tmp_path / "text").write_text("not weights at all, whatever the header says")
    with pytest.raises(InputError, match="is no safetensors file"):
        with_scorer(method, tmp_path / "text")
    with pytest.raises(UsageError, match="fastervlm has no trained scorer; --scorer is for expl"):
        with_scorer(find_method("fastervlm"), tmp_path / "text")


def test_a_bundle_holds_its_trained_scorer(model_dir: Path, tmp_path: Path) -> None:
    save_file(make_weights(), str(tmp_path / "scorer.safetensors"))
    options: dict[str, Any] = {"budgets": "4,8", "prompt_tokens": 40, "new_tokens": 4}
    options |= {"method": "explainability", "parity_images": 2}
    scorer = tmp_path / "scorer.safetensors"
    export_model(model_dir, tmp_path / "x.bundle", scorer=scorer, **options)
    assert Bundle.open(tmp_path / "x.bundle").manifest.method == "explainability+learned"
    model = edgetok.load(tmp_path / "x.bundle")
    assert model.generate(np.zeros((20, 20, 3), np.uint8), "What?", budget=4).kept
