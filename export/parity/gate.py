"""The parity check before publication: every graph against PyTorch, and the chain end to end.

One loop for all flavours and caches. What a cache makes of rows is compared by its scheme
(`Cache.check`); the tower, compress, and what each graph makes of what the graph before it made,
here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from edgetok import names
from edgetok.bundle.manifest import Flavour, Precision
from edgetok.export.attention import Scales
from edgetok.export.cases import Case
from edgetok.export.lowering.gptq import RoundedWeights
from edgetok.export.lowering.rounding import hold_rounded
from edgetok.export.parity.agreement import PARITY_TOKENS, agreement
from edgetok.export.parity.ledger import LIMITS, Check, Ledger, Limits
from edgetok.export.parity.prompt import Prompt
from edgetok.export.parity.sessions import GraphRunner
from edgetok.export.parity.tower_reducing import check_reducing_tower
from edgetok.export.parity.undecided import (
    is_as_open,
    nudged_features,
    nudged_pictures,
    shared,
)
from edgetok.export.reference.model import Reference
from edgetok.families.parts import Parts
from edgetok.ladder import Ladder
from edgetok.methods import Method

Array = npt.NDArray[Any]
Seen = dict[str, torch.Tensor]  # what the compress graph may read, by name


class Cache(Protocol):
    """What the check asks of a cache scheme; see `edgetok.export.caches.scheme`."""

    @property
    def rounds(self) -> Literal["nothing", "rows", "all"]: ...
    @property
    def scales(self) -> Scales | None: ...
    def reference(self, parts: Parts, method: Method) -> Reference: ...
    def held(self, reference: Reference, flavour: Flavour) -> Reference: ...
    def check(
        self, ledger: Ledger, held: Reference, sessions: GraphRunner, prompt: Prompt
    ) -> bool: ...


@dataclass(frozen=True)
class Subject:
    """A bundle that is not published yet."""

    parts: Parts
    method: Method
    ladder: Ladder
    cache: Cache
    precision: Precision
    sessions: Mapping[Flavour, GraphRunner]
    rounded: RoundedWeights = field(default_factory=RoundedWeights)

    @property
    def has_one_tower(self) -> bool:
        """Whether all rungs share it."""
        return self.method.inside is None


@dataclass(frozen=True)
class Expected:
    """What the float32 model does with one case at one budget."""

    kept: Array
    ids: list[int]


@dataclass(frozen=True)
class Ledgers:
    """Tower and compress, the decoder, and the chain, which have limits of their own."""

    vision: Ledger
    decoder: Ledger
    chain: Ledger

    def checks(self, flavour: Flavour) -> Iterator[Check]:
        """All comparisons; those of further flavours say so."""
        for check in (*self.vision.checks(), *self.decoder.checks(), *self.chain.checks()):
            named = check.stage if flavour == "ort" else f"{flavour} {check.stage}"
            yield msgspec.structs.replace(check, stage=named)


def check_parity(subject: Subject, cases: Sequence[Case]) -> list[Check]:
    """Compare graphs and chain on every case, in every flavour.

    Each flavour is compared with PyTorch on the weights that it rounded itself. The chain is
    compared with the float32 model.
    """
    reference = subject.cache.reference(subject.parts, subject.method)
    expected = [expect_all(reference, case, subject.ladder) for case in cases]
    checks: list[Check] = []
    for flavour, sessions in subject.sessions.items():
        ledgers = open_ledgers(subject, flavour)
        weights, scales = subject.precision.weights, subject.cache.scales
        with subject.rounded.hold(), hold_rounded(subject.parts, weights, flavour, scales):
            check = FlavourCheck(subject, flavour, sessions, ledgers)
            for number, (case, answers) in enumerate(zip(cases, expected, strict=True)):
                check.check_case(case, answers, every_length=number == 0)
        checks += ledgers.checks(flavour)
    return checks


def open_ledgers(subject: Subject, flavour: Flavour) -> Ledgers:
    """With the limits that follow from what is rounded."""
    weights, rounds = subject.precision.weights, subject.cache.rounds
    vision = LIMITS["fp32" if weights == "fp32" else "quantized"]
    decoder = chain = find_limits(weights, rounds)
    if flavour == "portable":  # its reference rounds the same rows
        decoder = LIMITS["slots"] if weights == "fp32" and rounds != "nothing" else vision
    return Ledgers(Ledger(vision), Ledger(decoder), Ledger(chain))


def find_limits(weights: str, rounds: str) -> Limits:
    """Of graphs whose cache rounds nothing, rows that PyTorch rounds alike, or all it is given."""
    if weights != "fp32" or rounds == "all":
        return LIMITS["quantized"]
    return LIMITS["fp32" if rounds == "nothing" else "slots"]


class FlavourCheck:
    """The graphs of one flavour against PyTorch, case by case and rung by rung."""

    def __init__(
        self, subject: Subject, flavour: Flavour, sessions: GraphRunner, ledgers: Ledgers
    ) -> None:
        self.subject, self.sessions, self.ledgers = subject, sessions, ledgers
        self.reference = subject.cache.reference(subject.parts, subject.method)
        self.held = subject.cache.held(self.reference, flavour)

    def check_case(
        self, case: Case, answers: Sequence[Expected], *, every_length: bool = True
    ) -> None:
        """One case at every rung; `answers` are what the float32 model answers at each.

        Its prompt goes through the shortest graph that it fits into; with `every_length`, through
        the others too.
        """
        ladder, sessions = self.subject.ladder, self.sessions
        prompt = sessions.read_prompt([*case.before, *case.after], case.question)
        for budget, answer in zip(ladder.budgets, answers, strict=True):
            if not self.subject.has_one_tower or budget == ladder.smallest.budget:
                want, got, seen_alike = self._check_tower(case, budget)
            self._check_compress(want, budget)
            rows = self._begin_prompt(case, want, budget)
            alike = self.subject.cache.check(self.ledgers.decoder, self.held, sessions, rows)
            if every_length:
                self._check_other_lengths(rows)
            if seen_alike and alike:
                self._check_chain(case, got | prompt, answer, budget)

    def _check_other_lengths(self, prompt: Prompt) -> None:
        """Longer graphs, and shorter ones with as much of the prompt as they have room for."""
        ledger, held, sessions = self.ledgers.decoder, self.held, self.sessions
        sizes = sessions.prompt_sizes(prompt.budget)
        own = next(rows for rows in sizes if rows >= len(prompt.rows))
        for rows in (each for each in sizes if each != own):
            with sessions.only(rows):
                self.subject.cache.check(ledger, held, sessions, prompt.cut(rows))

    def _check_tower(self, case: Case, budget: int) -> tuple[Seen, dict[str, Array], bool]:
        """What PyTorch and the graph see, and whether what follows can be compared too."""
        want = self.reference.look(case, budget)
        got, ledger = self.sessions.look(budget, case.pixels.numpy()), self.ledgers.vision
        if not self.subject.has_one_tower:
            alike = check_reducing_tower(ledger, self.reference, case.pixels, budget, got, want)
            return want, got, alike
        for name, value in got.items():
            if not name.startswith("signal_"):
                ledger.compare("tower", None, name, value, want[name].numpy())
        weights = {names.PICTURE_WEIGHTS: want[names.PICTURE_WEIGHTS].numpy()}
        return want, got | weights, True

    def _check_compress(self, seen: Seen, budget: int) -> None:
        """The compress graph on PyTorch's own features: both choose from the same scores."""
        reference, sessions, ledger = self.reference, self.sessions, self.ledgers.vision
        want = reference.compress(seen, budget)
        given = sessions.pad_prompt({name: value.numpy() for name, value in seen.items()})
        got = sessions.run("compress", budget, given)
        kept = want[names.KEPT].numpy()
        same = (got[names.KEPT] == kept).all()
        if not same and is_as_open(reference, nudged_features(seen), budget, kept, got[names.KEPT]):
            ledger.record("compress", budget, names.KEPT, "decided", 0.0, min)
            return
        ledger.record("compress", budget, names.KEPT, "cosine", float(same), min)
        if same:  # rows can only be compared where the same tokens were kept
            for name in [name for name in got if name != names.KEPT]:
                ledger.compare("compress", budget, name, got[name], want[name].numpy())

    def _begin_prompt(self, case: Case, seen: Seen, budget: int) -> Prompt:
        made = self.reference.compress(seen, budget)
        embeds = self.reference.embed(case.before, made[names.VISUAL_TOKENS], case.after)
        told = made if self.subject.parts.text.mrope_axes else None
        return Prompt(embeds, visual_rows(len(case.before), budget), budget, told)

    def _check_chain(
        self, case: Case, seen: dict[str, Array], expected: Expected, budget: int
    ) -> None:
        """End to end: each graph reads what the graph before it made."""
        reference, ledger = self.reference, self.ledgers.chain
        out = self.sessions.run("compress", budget, seen)
        same = shared(out[names.KEPT], expected.kept)
        if ledger.limits.kept is not None and same < 1:
            pictures = nudged_pictures(reference, case, budget)
            if is_as_open(reference, pictures, budget, expected.kept, out[names.KEPT]):
                ledger.record("end to end", budget, names.KEPT, "decided", 0.0, min)
                return
        ledger.record("end to end", budget, names.KEPT, "kept", same, min)
        tokens = torch.from_numpy(out[names.VISUAL_TOKENS])
        embeds = reference.embed(case.before, tokens, case.after)[0].numpy()
        stop_ids, start = reference.parts.text.stop_ids, len(case.before)
        _, ids = self.sessions.answer(budget, embeds, PARITY_TOKENS, stop_ids, start, made=out)
        ledger.record("end to end", budget, "greedy", "tokens", agreement(ids, expected.ids), min)


def expect_all(reference: Reference, case: Case, ladder: Ladder) -> list[Expected]:
    """What is expected at each budget; the tower looks once where all budgets share it."""
    if reference.method.inside is not None:
        looks = [reference.look(case, budget) for budget in ladder.budgets]
    else:
        looks = [reference.look(case)] * len(ladder.budgets)
    return [
        _expect(reference, case, seen, budget)
        for budget, seen in zip(ladder.budgets, looks, strict=True)
    ]


def _expect(reference: Reference, case: Case, seen: Seen, budget: int) -> Expected:
    out = reference.compress(seen, budget)
    embeds = reference.embed(case.before, out[names.VISUAL_TOKENS], case.after)
    visual = visual_rows(len(case.before), budget)
    answer = reference.answer(embeds, PARITY_TOKENS, visual, made=out)
    return Expected(np.asarray(out[names.KEPT]), answer.ids)


def visual_rows(before: int, budget: int) -> range:
    """Where the visual rows of a prompt lie, after so many rows of text."""
    return range(before, before + budget)
