"""What a decision costs on the CPU: each policy, at the largest size of a manifest.

    python benchmarks/decision.py --json docs/results/decision.json

Prediction: sums of at most a thousand products in Python take tens of microseconds, and none comes
near 200. The thumbnail is no decision but a signal; it is measured beside them as the only one that
no graph computes. Times are the thread's own on the processor: what else runs does not count.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import common
import numpy as np

from edgetok.control import BenchTable, Certified, Elbow, Limit, Pace, Row, Steady
from edgetok.control.bandit import Bandit
from edgetok.control.sharing import predict_qualities, share_tokens
from edgetok.control.thumbnail import CELLS, describe
from edgetok.ladder import build_ladder
from edgetok.rules import Certificate, Controller, Rule, Scorer, Thumbnail

BUDGETS = (16, 32, 64, 128, 576)
SIGNALS = ("signal_rank", "signal_edges", "signal_elbow_tokens", "signal_attention_tokens")
ANSWER = {"answer_margin": 0.5, "answer_log_probability": -0.2}
TOKENS = 256  # weights of tokens that a calibration gives at most
LIMIT_MS = 0.2


def main() -> None:
    options = common.arguments(__doc__, repeats=3000)
    rows = [_time(what, decide, options.repeats) for what, decide in _decisions().items()]
    title = f"milliseconds per decision, {options.repeats} each; the limit is {LIMIT_MS}"
    common.report(title, rows, options.json)


def _time(what: str, decide: Callable[[], object], repeats: int) -> dict[str, Any]:
    times = []
    for _ in range(repeats):
        begun = time.thread_time()
        decide()
        times.append(1000 * (time.thread_time() - begun))
    times.sort()
    return {
        "what": what,
        "median": statistics.median(times),
        "p95": times[int(0.95 * repeats)],
        "p99": times[int(0.99 * repeats)],
    }


def _decisions() -> dict[str, Callable[[], object]]:
    ladder, draw = build_ladder(BUDGETS, 96, 128), random.Random(0)
    signals = {name: draw.random() for name in SIGNALS}
    question = [draw.randrange(2 * TOKENS) for _ in range(24)]
    policy = Certified(_controller(draw))
    table = BenchTable(
        "0" * 64, "cpu", tuple(Row(b, 50 + b / 4, 60 + b / 3, 5, 100) for b in BUDGETS)
    )
    pace = Pace(table)
    steady = Steady(Limit(table, 150.0, pace=pace))
    bandit = Bandit((policy, Elbow()))
    images = [predict_qualities(policy.controller, signals, question) for _ in range(8)]
    pixels = np.random.default_rng(0).normal(0, 1, (1, 3, 336, 336)).astype(np.float32)
    thumbnail = Thumbnail(cells=CELLS, bias=0.0, weights=[0.1] * (2 * CELLS * CELLS))

    def certified() -> None:
        """All rungs are tried and rejected: the longest way."""
        decision = policy.choose(ladder, signals, question)
        while decision.review is not None:
            following = decision.review(ANSWER)
            if following is None:
                return
            decision = following

    def limited() -> None:
        budget = steady.choose(ladder, signals, question).rung.budget
        pace.note(budget, 100.0)

    def explored() -> None:
        bandit.choose(ladder, signals, question)
        bandit.note(100.0)

    return {
        "certified, all four rungs rejected": certified,
        "limit that learns its pace": limited,
        "bandit of two": explored,
        "elbow": lambda: Elbow().choose(ladder, {"signal_elbow_tokens": 50.0}),
        "sharing among eight images": lambda: share_tokens(images, 1000),
        "signal of a thumbnail, 336 x 336": lambda: thumbnail.complexity(describe(pixels)),
    }


def _controller(draw: random.Random) -> Controller:
    """Four rules that see every signal and as many tokens as a calibration may weigh."""

    def scorer(names: tuple[str, ...]) -> Scorer:
        weights = {name: draw.uniform(-1, 1) for name in names}
        tokens = [(token, draw.uniform(-1, 1)) for token in range(TOKENS)]
        return Scorer(bias=0.1, signals=weights, per_token=0.01, tokens=tokens)

    rules = [
        Rule(
            budget=budget,
            enter=scorer(SIGNALS),
            enter_at_most=1e9,
            accept=scorer((*SIGNALS, *ANSWER)),
            accept_at_most=-1e9,
        )
        for budget in BUDGETS[:-1]
    ]
    certificate = Certificate(
        risk=0.02,
        confidence=0.95,
        loss="wrong",
        unit="question",
        units=500,
        mean_loss=0.0,
        p_value=0.01,
        mean_tokens=100.0,
        data_sha256="0" * 64,
        bundle_sha256="0" * 64,
        flavour="ort",
    )
    return Controller(rules=rules, full=BUDGETS[-1], certificate=certificate, cases=[])


if __name__ == "__main__":
    main()
