"""The bandit: only its policies choose, it follows the quickest one, and it sees no question."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetok.control import Elbow, Fixed
from edgetok.control.bandit import Bandit
from edgetok.errors import UsageError
from edgetok.ladder import build_ladder

LADDER = build_ladder((16, 64, 576), 32, 16)
ARMS = (Fixed(16), Fixed(64), Fixed(576))


@given(st.lists(st.floats(), max_size=60), st.integers(1, 3))
@settings(deadline=None)
def test_it_stays_inside_the_set_whatever_times_it_is_told(times: list[float], count: int) -> None:
    bandit = Bandit(ARMS[:count])
    allowed = {arm.budget for arm in ARMS[:count]}
    for ms in times:
        assert bandit.choose(LADDER, {}).rung.budget in allowed
        bandit.note(ms)


def serve(bandit: Bandit, times: tuple[float, float], count: int, seed: int) -> list[int]:
    draw = random.Random(seed)
    chosen = []
    for _ in range(count):
        bandit.choose(LADDER, {})
        chosen.append(bandit.chosen)
        bandit.note(times[bandit.chosen] * draw.uniform(0.8, 1.2))
    return chosen


@pytest.mark.parametrize("seed", range(5))
def test_it_follows_the_quicker_policy_when_the_machine_changes(seed: int) -> None:
    bandit = Bandit(ARMS[:2])
    cool = serve(bandit, (50.0, 100.0), 300, seed)
    hot = serve(bandit, (200.0, 100.0), 300, seed + 100)
    assert cool[50:].count(0) > 0.8 * 250
    assert hot[50:].count(1) > 0.8 * 250


def test_the_choice_of_a_policy_never_looks_at_the_question() -> None:
    """Two bandits that are told the same times decide by the same policy, whatever is asked."""
    pair = Bandit((Elbow(), Fixed(64))), Bandit((Elbow(), Fixed(64)))
    draw = random.Random(0)
    for number in range(200):
        pair[0].choose(LADDER, {"signal_elbow_tokens": 10.0}, [1, 2])
        pair[1].choose(LADDER, {"signal_elbow_tokens": 500.0}, [number])
        assert pair[0].chosen == pair[1].chosen
        ms = draw.uniform(10, 100)
        for bandit in pair:
            bandit.note(ms)


def test_nothing_to_choose_from_is_refused() -> None:
    with pytest.raises(UsageError, match="needs policies"):
        Bandit(())
    for discount in (0.0, 1.0, math.nan):
        with pytest.raises(UsageError, match="discount"):
            Bandit(ARMS, discount)
