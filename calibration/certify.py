"""From records to a certified controller: choose a path on one half, test it on the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import msgspec
import numpy as np

from edgetok import names
from edgetok.calibration.complexity import add_complexity
from edgetok.calibration.outcomes import Bools, Floats, Outcomes, collect, unlabelled
from edgetok.calibration.paths import Path, Spent, Step, follow, propose
from edgetok.calibration.records import Record, digest_records
from edgetok.calibration.samples import Sample
from edgetok.control import Certified
from edgetok.control.certificate import (
    binomial_p,
    bound_risk,
    count_certified,
    hoeffding_bentkus_p,
)
from edgetok.control.certified import list_tried
from edgetok.errors import InputError, UsageError
from edgetok.ladder import Ladder, build_ladder
from edgetok.options import option
from edgetok.rules import Case, Certificate, Controller, Loss

Cost = Literal["tokens", "ms"]

_FEWEST_IMAGES = 20
_CASES = 8
_POWER = 0.8  # chance that the number of images that is told does
_MOST_UNITS = 1 << 20  # the search for it ends here


@dataclass(frozen=True, slots=True)
class Aim:
    """What is to be certified; `loss` as of `rules.Certificate`, the seed also splits the images.

    Raises:
        UsageError: for a risk or a confidence outside of 0..1.
    """

    risk: float = option(0.02, "The share of questions that may be lost by asking smaller rungs.")
    confidence: float = option(0.95, "How sure that must be, over the draw of the samples.")
    loss: Loss = option(
        "wrong", "wrong: where the full rung is right; differs: from its answer.", noun="loss"
    )
    cost: Cost = option("tokens", "What to save.", noun="cost")
    seed: int = option(0, "Makes what is drawn repeatable.")

    def __post_init__(self) -> None:
        for flag, value in (("--risk", self.risk), ("--confidence", self.confidence)):
            if not 0 < value < 1:
                raise UsageError(f"{flag} {value} is outside 0..1, both ends excluded")


def require_samples(samples: Sequence[Sample], aim: Aim) -> None:
    """Refuse samples that could certify nothing, before anything is asked.

    Raises:
        InputError: if there are too few images, or answers are missing and losses need them.
    """
    _require_images(len({sample.image for sample in samples}))
    unknown = sum(sample.answer is None for sample in samples)
    if unknown and aim.loss == "wrong":
        raise InputError(unlabelled(unknown, len(samples)))


@dataclass(frozen=True, slots=True)
class Row:
    """Means over questions; `right` is None where no answers are known."""

    name: str
    tokens: float
    ms: float
    lost: float
    right: float | None


@dataclass(frozen=True, slots=True)
class Found:
    """The outcome of a calibration.

    Args:
        controller: None if only the full rung can be certified.
        path: what was tested, in words.
        test: the questions that tested it.
        rows: what each rung, and the certified policy, do with them.
        images: of all questions.
        p_value: of the certified policy; 1 if there is none.
        samples_wanted: how many images, both halves, would certify the policy that was hoped for
            four times out of five; None if it is certified or loses too much for any number.
    """

    controller: Controller | None
    path: str
    test: Outcomes
    rows: tuple[Row, ...]
    p_value: float
    samples_wanted: int | None
    images: int


def certify(
    records: Sequence[Record], budgets: Sequence[int], aim: Aim, bundle_sha256: str, flavour: str
) -> Found:
    """Find the cheapest policy whose risk is certified.

    The questions are split by image. On the first half every path is tried, with scores of models
    that had not seen the question, and the one that would save most is taken; its policies are
    tested on the second half, which nothing was learned from.

    Raises:
        InputError: if there are too few images or the records do not tell losses.
    """
    outcomes = collect(records, budgets, aim.loss)
    first = _split(outcomes, aim.seed)
    images = len(np.unique(outcomes.images))
    thumbnail, design, test = add_complexity(outcomes.take(first), outcomes.take(~first))
    path, hoped = _choose(design, aim)
    enter, accept = path.scores(test)
    spent = [follow(step, enter, accept, test) for step in path.steps]
    p_values = [_p_value(s, test, aim) for s in spent]
    passed = count_certified(p_values, 1 - aim.confidence)
    best = _cheapest(spent[:passed], aim.cost)
    if best == 0:
        wanted = _count_wanted(path.steps[max(hoped, 1)], path, (design, test), aim)
        return Found(None, path.name, test, _rows(test), 1.0, wanted, images)
    certificate = Certificate(
        risk=aim.risk,
        confidence=aim.confidence,
        loss=aim.loss,
        unit="question" if test.one_question_each else "image",
        units=len(test.by_unit(np.zeros(len(test)))),
        mean_loss=float(test.by_unit(spent[best].losses(test)).mean()),
        p_value=p_values[best],
        mean_tokens=float(spent[best].tokens.mean()),
        data_sha256=digest_records(records),
        bundle_sha256=bundle_sha256,
        flavour="portable" if flavour == "portable" else "ort",
        differs=_bound_differing(spent[best], test, 1 - aim.confidence),
    )
    rules = path.rules(path.steps[best], test.budgets)
    asked = {name for rule in rules for name in (*rule.enter.signals, *rule.accept.signals)}
    controller = Controller(
        rules=rules,
        full=test.budgets[-1],
        certificate=certificate,
        cases=[],
        thumbnail=thumbnail if names.SIGNAL_COMPLEXITY in asked else None,
    )
    controller = msgspec.structs.replace(controller, cases=_cases(controller, test))
    rows = (*_rows(test), summarise("certified", spent[best], test))
    return Found(controller, path.name, test, rows, p_values[best], None, images)


def summarise(name: str, spent: Spent, outcomes: Outcomes) -> Row:
    """What a policy costs and loses."""
    right = outcomes.right[np.arange(len(outcomes)), spent.rung]
    known = bool(outcomes.right.any())
    tokens, ms, lost = (float(v.mean()) for v in (spent.tokens, spent.ms, spent.losses(outcomes)))
    return Row(name, tokens, ms, lost, float(right.mean()) if known else None)


def _rows(outcomes: Outcomes) -> tuple[Row, ...]:
    """Each rung by itself."""
    rows = []
    nothing = np.zeros((len(outcomes), len(outcomes.budgets) - 1))
    for rung, budget in enumerate(outcomes.budgets):
        step = Step(() if rung == len(outcomes.budgets) - 1 else (rung,))
        rows.append(summarise(str(budget), follow(step, nothing, nothing, outcomes), outcomes))
    return tuple(rows)


def _split(outcomes: Outcomes, seed: int) -> Bools:
    """A random half of the images: [n] bool."""
    images = np.unique(outcomes.images)
    _require_images(len(images))
    shuffled = np.random.default_rng(seed).permutation(images)
    return np.isin(outcomes.images, shuffled[: len(images) // 2])


def _require_images(count: int) -> None:
    if count < _FEWEST_IMAGES:
        raise InputError(
            f"{count} images are too few to calibrate on; {_FEWEST_IMAGES} are the least, "
            "and a risk of 2 % with 95 % confidence needs 149 without a loss in half of them"
        )


def _choose(design: Outcomes, aim: Aim) -> tuple[Path, int]:
    """The path that would save most were the design the test, and its step."""
    options = []
    for path in propose(design):
        spent = [follow(s, path.enter_unseen, path.accept_unseen, design) for s in path.steps]
        passed = count_certified([_p_value(s, design, aim) for s in spent], 1 - aim.confidence)
        step = _cheapest(spent[:passed], aim.cost)
        options.append((float(_cost(spent[step], aim.cost).mean()), path, step))
    _, path, step = min(options, key=lambda option: option[0])  # the simplest of equal ones
    return path, step


def _p_value(spent: Spent, outcomes: Outcomes, aim: Aim) -> float:
    return _test(spent.losses(outcomes), outcomes)(aim.risk)


def _bound_differing(spent: Spent, outcomes: Outcomes, error: float) -> float:
    """How often answers may be others than the full rung's, right or wrong."""
    return bound_risk(_test(outcomes.differing(spent.rung), outcomes), error)


def _test(losses: Floats, outcomes: Outcomes) -> Callable[[float], float]:
    """The p-value of the claim that losses [n] are above a limit, by the limit."""
    units = outcomes.by_unit(losses)
    if outcomes.one_question_each:
        return partial(binomial_p, round(float(units.sum())), len(units))
    return partial(hoeffding_bentkus_p, min(1.0, float(units.mean())), len(units))


def _cheapest(spent: Sequence[Spent], cost: Cost) -> int:
    """The step that costs least; 0, the full rung, if there is none."""
    return int(np.argmin([_cost(s, cost).mean() for s in spent])) if spent else 0


def _cost(spent: Spent, cost: Cost) -> Floats:
    return spent.tokens if cost == "tokens" else spent.ms


def _count_wanted(
    step: Step, path: Path, halves: tuple[Outcomes, Outcomes], aim: Aim
) -> int | None:
    """Images, both halves, that would certify the step; losses of both halves are told from."""
    design, test = halves
    unseen = follow(step, path.enter_unseen, path.accept_unseen, design)
    tested = follow(step, *path.scores(test), test)
    losses = design.by_unit(unseen.losses(design)), test.by_unit(tested.losses(test))
    alone = design.one_question_each and test.one_question_each
    needed = count_units(np.concatenate(losses), alone, aim)
    if needed is not None and needed <= len(losses[1]):  # so many have not done: luck of the design
        needed = count_units(losses[1], alone, aim)
    return None if needed is None else 2 * needed


def count_units(losses: Floats, alone: bool, aim: Aim) -> int | None:
    """How many images like these certify the risk in most draws of them; None if no number does.

    Args:
        losses: [images] mean loss of each.
        alone: whether each has one question, so that losses are 0 or 1.
    """
    low, high = 0, _FEWEST_IMAGES
    while not _mostly_certifies(losses, high, alone, aim):
        low, high = high, 2 * high
        if high > _MOST_UNITS:
            return None
    while high - low > max(1, high // 50):
        middle = (low + high) // 2
        passes = _mostly_certifies(losses, middle, alone, aim)
        low, high = (low, middle) if passes else (middle, high)
    return high


def _mostly_certifies(losses: Floats, count: int, alone: bool, aim: Aim) -> bool:
    """Whether `count` images, drawn from these with replacement, pass in `_POWER` of 200 draws."""
    shares = losses.mean() + np.random.default_rng(0).standard_normal(200) * (
        losses.std() / math.sqrt(count)
    )
    if alone:
        wrong = np.random.default_rng(0).binomial(count, losses.mean(), 200)
        shares = wrong / count
    worst = float(np.quantile(shares.clip(0, 1), _POWER))  # p rises with the loss
    if alone:
        return binomial_p(math.ceil(worst * count - 1e-9), count, aim.risk) <= 1 - aim.confidence
    return hoeffding_bentkus_p(worst, count, aim.risk) <= 1 - aim.confidence


def _cases(controller: Controller, outcomes: Outcomes) -> list[Case]:
    """Decisions to repeat, as they are made live: questions spread over the test."""
    policy, ladder = Certified(controller), build_ladder(outcomes.budgets, 1, 1)
    chosen = np.linspace(0, len(outcomes) - 1, min(_CASES, len(outcomes))).astype(int)
    return [_case(policy, ladder, outcomes.records[i]) for i in sorted(set(chosen.tolist()))]


def _case(policy: Certified, ladder: Ladder, record: Record) -> Case:
    answers = {budget: answer.signals for budget, answer in record.rungs.items()}
    tried = list_tried(policy, ladder, record.signals, record.question, answers)
    return Case(
        signals=record.signals,
        question=record.question,
        answers=[answers[budget] for budget in tried],
        budgets=tried,
    )
