"""Certificates: how sure one may be that a policy's risk stays below a limit.

Learn-then-Test (arXiv 2110.01052) with fixed-sequence testing: the policies of a path are ordered
from the safest to the boldest before anybody looks at the data, each is tested on the same samples,
and the first one that fails ends the test. All that passed hold the limit at once, with the
confidence of a single test. The statement is about samples like those of the calibration: where
the world drifts it says nothing (see `drift`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import takewhile

from edgetok.errors import UsageError


def binomial_p(wrong: int, total: int, risk: float) -> float:
    """P(Bin(total, risk) <= wrong), exact: how likely so few losses are if the risk were `risk`.

    The p-value, for losses of 0 or 1, of the claim that the risk is above `risk`.

    >>> round(binomial_p(0, 149, 0.02), 3)
    0.049
    """
    _require_open("risk", risk)
    if not 0 <= wrong <= total:
        raise UsageError(f"{wrong} losses of {total} samples cannot be")
    log_odds = math.log(risk) - math.log1p(-risk)
    log_term = total * math.log1p(-risk)
    terms = []
    for k in range(wrong + 1):
        terms.append(log_term)
        log_term += math.log(total - k) - math.log(k + 1) + log_odds if k < total else 0.0
    peak = max(terms)
    return min(1.0, math.exp(peak) * math.fsum(math.exp(term - peak) for term in terms))


def hoeffding_bentkus_p(mean_loss: float, total: int, risk: float) -> float:
    """The same for losses anywhere in 0..1: the smaller of two bounds, valid for any sample.

    After Bates et al. (arXiv 2101.02703), proposition 7.
    """
    _require_open("risk", risk)
    if not 0 <= mean_loss <= 1:
        raise UsageError(f"a mean loss of {mean_loss} is outside 0..1")
    if total < 1:
        return 1.0
    hoeffding = math.exp(-total * _divergence(min(mean_loss, risk), risk))
    # A mean such as 0.07 times 100 is a little more than 7, which is no eighth loss.
    wrong = min(total, math.ceil(total * mean_loss - 1e-9))
    return min(1.0, hoeffding, math.e * binomial_p(wrong, total, risk))


def bound_risk(p_value: Callable[[float], float], error: float) -> float:
    """The smallest risk that a test rejects: the true one is above it with chance `error` at most.

    Args:
        p_value: of the claim that the risk is above a limit, by the limit; falls as it rises.
    """
    _require_open("error", error)
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if p_value(middle) <= error else (middle, high)
    return high


def count_certified(p_values: Sequence[float], error: float) -> int:
    """How many policies of a path, from its safest on, pass at once with probability 1 - error."""
    _require_open("error", error)
    return sum(1 for _ in takewhile(lambda p: p <= error, p_values))


def _divergence(a: float, b: float) -> float:
    """Kullback-Leibler divergence between coins of heads a and b."""
    head = a * math.log(a / b) if a > 0 else 0.0
    tail = (1 - a) * math.log((1 - a) / (1 - b)) if a < 1 else 0.0
    return head + tail


def _require_open(what: str, value: float) -> None:
    if not 0 < value < 1:
        raise UsageError(f"{what} {value} is outside 0..1, both ends excluded; 0.05 is usual")
