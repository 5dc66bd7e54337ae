"""Scoring a ladder, with a model that answers by rule."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetok.calibration.evaluate import Evaluation, evaluate, normalise, wilson_interval
from edgetok.calibration.plot import plot_accuracy, require_plotting
from edgetok.calibration.samples import Sample
from edgetok.errors import InputError, UsageError


@dataclass
class Spoken:
    text: str


@dataclass
class Rule:
    """Answers right from the rung on that the prompt names: "64:red" needs 64 tokens."""

    encoded: list[Path] = field(default_factory=list)
    longest: int = 0

    def encode(self, image: Path, /) -> str:
        self.encoded.append(image)
        return image.name

    def generate(self, image: str, prompt: str, /, *, budget: int, max_new_tokens: int) -> Spoken:
        assert image.endswith(".png"), "generate gets what encode gave"
        self.longest = max(self.longest, max_new_tokens)
        needed, word = prompt.split(":")
        return Spoken(f" {word.upper()}. " if budget >= int(needed) else "no idea")


SAMPLES = (
    Sample(Path("a.png"), "1:red", "red", "colour"),
    Sample(Path("b.png"), "64:blue", "Blue", "colour"),
    Sample(Path("a.png"), "576:stop", "STOP.", "text"),
    Sample(Path("b.png"), "999:exit", "exit", "text"),
)


def score(samples: tuple[Sample, ...] = SAMPLES) -> Evaluation:
    return evaluate(Rule(), samples, (576, 32, 64), lambda doing, share: None)


def test_counts_per_rung_and_kind() -> None:
    result = score()
    assert [(rung.budget, rung.all.right, rung.all.total) for rung in result.rungs] == [
        (32, 1, 4),
        (64, 2, 4),
        (576, 3, 4),
    ]
    assert {kind: s.right for kind, s in result.rungs[1].kinds.items()} == {"colour": 2, "text": 0}
    assert result.kinds == ("colour", "text")


def test_oracle_spends_the_smallest_right_rung_and_the_smallest_of_all_where_none_is() -> None:
    oracle = score().oracle
    assert oracle.mean_tokens == (32 + 64 + 576 + 32) / 4
    assert oracle.score.right == 3


def test_each_image_is_encoded_once() -> None:
    model = Rule()
    evaluate(model, SAMPLES, (32, 64), lambda doing, share: None)
    assert sorted(model.encoded) == [Path("a.png"), Path("b.png")]


def test_generation_stops_soon_after_the_longest_right_answer() -> None:
    model = Rule()
    evaluate(model, SAMPLES[:1], (32,), lambda doing, share: None)
    assert len("red") < model.longest < 20


def test_progress_ascends_below_one() -> None:
    shares: list[float] = []
    evaluate(Rule(), SAMPLES, (32,), lambda doing, share: shares.append(share))
    assert shares == [0, 0.25, 0.5, 0.75]


def test_samples_without_kind_count_in_all_only() -> None:
    rung = score((Sample(Path("a.png"), "1:red", "red"),)).rungs[0]
    assert (rung.all.right, dict(rung.kinds)) == (1, {})


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ((), "no samples"),
        ((*SAMPLES, Sample(Path("a.png"), "1:red")), "1 of 5 samples have no `answer`"),
    ],
)
def test_refuses_what_cannot_be_scored(samples: tuple[Sample, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        score(samples)


@pytest.mark.parametrize("said", ["Red", " red ", "red.", "RED .", "r e d".replace(" ", "")])
def test_normalisation_forgives_case_space_and_full_stop(said: str) -> None:
    assert normalise(said) == "red"


@pytest.mark.parametrize("said", ["red!", "a red", "re d", "", "."])
def test_normalisation_forgives_nothing_else(said: str) -> None:
    assert normalise(said) != "red"


def test_wilson_interval_agrees_with_published_figures() -> None:
    # Newcombe 1998, table I: 81/263 and 0/20.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_holds_the_share_and_stays_in_bounds(counts: tuple[int, int]) -> None:
    right, total = counts
    low, high = wilson_interval(right, total)
    assert 0 <= low <= right / total + 1e-12
    assert right / total - 1e-12 <= high <= 1


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_plot_is_written_and_repeatable(tmp_path: Path, suffix: str) -> None:
    first, second = tmp_path / f"1.{suffix}", tmp_path / f"2.{suffix}"
    plot_accuracy(score(), first, "rule")
    plot_accuracy(score(), second, "rule")
    assert first.stat().st_size > 1000
    if suffix != "svg":  # its identifiers are random
        assert first.read_bytes() == second.read_bytes()


def test_plot_refuses_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"does not end in one of \.png"):
        require_plotting(tmp_path / "plot.bmp")
    with pytest.raises(UsageError, match="is no directory"):
        require_plotting(tmp_path / "missing" / "plot.png")
