"""Drift: whether the losses that audits see still fit the certificate."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from edgetok.errors import UsageError

# Shares of the largest bet that cannot lose all. One bet alone misses most drifts: half of the
# largest shrinks even at five times the risk, a fiftieth takes thousands of audits.
_BETS = (0.5, 0.25, 0.12, 0.06, 0.03, 0.015)


@dataclass(slots=True)
class Drift:
    """Bets against the certificate, which win only where the risk is above the limit.

    Each stake is multiplied by 1 + bet (loss - risk) at each audited answer; their mean starts
    at 1. As long as the expected loss is at most `risk`, whatever came before, it is expected not
    to grow, so it ever reaches 1 / error with probability `error` at most (Ville's inequality), no
    matter how often one looks.

    Args:
        risk: the certified limit, in 0..1.
        error: chance of a false alarm, ever.
        audits: answers seen so far.
        broken_once: whether the alarm was ever raised; losses that follow do not take it back.

    Raises:
        UsageError: for limits outside 0..1.
    """

    risk: float
    error: float = 0.01
    audits: int = 0
    broken_once: bool = False
    _log_stakes: list[float] = field(default_factory=lambda: [0.0] * len(_BETS))

    def __post_init__(self) -> None:
        for what, value in (("risk", self.risk), ("error", self.error)):
            if not 0 < value < 1:
                raise UsageError(f"{what} {value} is outside 0..1, both ends excluded")

    def see(self, loss: float) -> bool:
        """Note the loss, in 0..1, of an audited answer; whether the certificate is broken.

        Raises:
            UsageError: for a loss outside 0..1.
        """
        if not 0 <= loss <= 1:
            raise UsageError(f"a loss of {loss} is outside 0..1")
        for i, share in enumerate(_BETS):
            self._log_stakes[i] += math.log1p(share / self.risk * (loss - self.risk))
        self.audits += 1
        self.broken_once |= self.is_broken
        return self.is_broken

    @property
    def log_stake(self) -> float:
        """Natural logarithm of the mean stake."""
        peak = max(self._log_stakes)
        total = math.fsum(math.exp(stake - peak) for stake in self._log_stakes)
        return peak + math.log(total / len(_BETS))

    @property
    def is_broken(self) -> bool:
        return self.log_stake >= -math.log(self.error)
