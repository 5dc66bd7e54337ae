"""LoCoCo's mixing against plain loops, and what files of weights are refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from edgetok.errors import InputError
from edgetok.kv.mixer import Mixer
from edgetok.kv.mixing import mix_rows, read_mixers, require_mixers_fit
from edgetok.kv.policies.lococo import POLICY
from edgetok.kv.select import choose

GROUPS, ROWS, WIDTH = 2, 24, 4
KEEP, SLOTS, RECENT = 14, 5, 3


def make_weights(
    layers: int = 2, slots: int = SLOTS, width: int = WIDTH, taps: int = 5, eta: float = 0.4
) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for layer in range(layers):
        weights[f"layers.{layer}.weight"] = torch.randn(slots, 2 * width, taps, generator=generator)
        weights[f"layers.{layer}.bias"] = torch.randn(slots, generator=generator)
        weights[f"layers.{layer}.eta"] = torch.tensor([eta])
    return weights


def by_loops(mixer: Mixer, keys, values, ranks, count: int) -> tuple[np.ndarray, np.ndarray]:
    """One head: the paper's procedure row by row, recent rows above all."""
    order = sorted(range(count), key=lambda at: (at < count - RECENT, -ranks[at], at))
    chosen, heavy = sorted(order[:KEEP]), set(order[: KEEP - SLOTS])
    others = [at for at in range(count) if at not in heavy]
    weight, bias = mixer.weight.numpy(), mixer.bias.numpy()
    made_keys, made_values, slot = [], [], 0
    for at in chosen:
        if at in heavy:
            made_keys.append(keys[at])
            made_values.append(values[at])
            continue
        exponents = []
        for place in range(len(others)):
            total = float(bias[slot])
            for tap in range(weight.shape[2]):
                near = place + tap - weight.shape[2] // 2
                if 0 <= near < len(others):
                    for channel in range(WIDTH):
                        total += weight[slot, channel, tap] * keys[others[near]][channel]
                        total += weight[slot, WIDTH + channel, tap] * values[others[near]][channel]
            exponents.append(math.exp(total))
        shares = [part / sum(exponents) for part in exponents]
        for made, rows in ((made_keys, keys), (made_values, values)):
            mixture = sum(p * rows[other] for p, other in zip(shares, others, strict=True))
            made.append((1 - mixer.eta) * rows[at] + mixer.eta * mixture)
        slot += 1
    return np.stack(made_keys), np.stack(made_values)


def mix(mixer: Mixer, keys, values, ranks, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    chosen, heavy = (
        choose(ranks, torch.tensor(count), keep, 0, RECENT) for keep in (KEEP, KEEP - SLOTS)
    )
    return mix_rows(mixer, (keys, values), torch.tensor(count), chosen, heavy)


def draw(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    keys, values = torch.randn(2, GROUPS, ROWS, WIDTH, generator=generator).unbind(0)
    return keys, values, torch.rand(GROUPS, ROWS, generator=generator)


@pytest.mark.parametrize("count", [15, 20, 24])
@pytest.mark.parametrize("tied", [False, True])
def test_rows_are_those_of_the_paper(count: int, tied: bool) -> None:
    """What stands behind the true rows changes nothing."""
    keys, values, ranks = draw()
    ranks = (ranks * 4).round() if tied else ranks
    keys[:, count:], values[:, count:], ranks[:, count:] = 1e6, -1e6, 9.0
    mixer = read_mixers(make_weights())[0]
    got_keys, got_values = mix(mixer, keys, values, ranks, count)
    for head in range(GROUPS):
        want = by_loops(
            mixer, keys[head].numpy(), values[head].numpy(), ranks[head].tolist(), count
        )
        np.testing.assert_allclose(got_keys[head], want[0], atol=1e-5)
        np.testing.assert_allclose(got_values[head], want[1], atol=1e-5)


def test_without_a_mixture_rows_just_go() -> None:
    keys, values, ranks = draw()
    mixer = read_mixers(make_weights(eta=0.0))[0]
    chosen = choose(ranks, torch.tensor(ROWS), KEEP, 0, RECENT)[..., None].expand(-1, -1, WIDTH)
    got_keys, got_values = mix(mixer, keys, values, ranks, ROWS)
    assert torch.equal(got_keys, keys.gather(1, chosen))
    assert torch.equal(got_values, values.gather(1, chosen))


def test_shares_are_of_true_rows_alone() -> None:
    mixer = read_mixers(make_weights())[0]
    rows = torch.randn(1, 7, 2 * WIDTH, generator=torch.Generator().manual_seed(1))
    true = torch.arange(7)[None] < 4
    shares = mixer.weigh(rows, true)
    assert shares.shape == (1, SLOTS, 7) and shares[..., 4:].abs().max() == 0
    torch.testing.assert_close(shares.sum(-1), torch.ones(1, SLOTS))
    torch.testing.assert_close(shares[..., :4], mixer.weigh(rows[:, :4], true[:, :4]))


def test_weights_make_a_policy() -> None:
    policy = POLICY.learn(make_weights(layers=3))
    assert policy.name == "lococo+learned" and len(policy.mixers) == 3
    assert [mixer.slots for mixer in policy.mixers] == [SLOTS] * 3
    assert policy.mixers[0].eta == pytest.approx(0.4)


def _broken(name: str, tensor: torch.Tensor | None) -> dict[str, torch.Tensor]:
    weights = make_weights()
    if tensor is None:
        del weights[name]
    else:
        weights[name] = tensor
    return weights


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({}, r"0 tensors, and 'layers\.0\.bias' is missing"),
        (_broken("layers.1.eta", None), "missing or too much"),
        (_broken("layers.1.gate", torch.zeros(1)), "'layers.1.gate' is missing or too much"),
        (_broken("layers.0.weight", torch.zeros(5, 8, 4)), r"is \[5, 8, 4\], not .*odd width"),
        (_broken("layers.0.weight", torch.zeros(5, 8)), r"is \[5, 8\], not"),
        (_broken("layers.0.weight", torch.zeros(0, 8, 5)), r"is \[0, 8, 5\], not"),
        (_broken("layers.0.bias", torch.zeros(4)), r"layers\.0\.bias .* is \[4\], not \[5\]"),
        (_broken("layers.1.bias", torch.full((5,), math.nan)), "holds NaN or infinity"),
        (_broken("layers.1.eta", torch.tensor([1.5])), r"layers\.1\.eta .* 1\.5; .* in 0\.\.1"),
        (_broken("layers.1.eta", torch.zeros(2)), r"not one number"),
    ],
)
def test_files_that_hold_no_weights_are_refused(weights, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_mixers(weights)


@pytest.mark.parametrize(
    ("keep", "head", "words"),
    [
        ((14,), WIDTH, "have 2 layers and this decoder has 1"),
        ((14, 14), 8, r"reads 8 channels; .* have 16 together"),
        (
            (14, 8),
            WIDTH,
            r"layers\.1\.weight .* mixes 5 rows; .* keeps 8, .* 4 can be .*--kv-slots",
        ),
    ],
)
def test_weights_of_another_model_are_refused(keep, head: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        require_mixers_fit(read_mixers(make_weights()), keep, RECENT, head)
