"""Who chooses the rung: the user's wish, what was measured here, or the bundle's controller."""

from __future__ import annotations

import uuid
from collections.abc import Callable

from edgetok.control import BenchTable, Pace, Policy
from edgetok.control.pace import is_comparable
from edgetok.rules import Controller
from edgetok.runtimes.answers.answer import Progress
from edgetok.runtimes.answers.request import Choice
from edgetok.runtimes.runtime.protocol import Runtime

Tables = Callable[[str, str], BenchTable]


class Chooser:
    """Makes the policy of each answer, and keeps what limits learn from one to the next.

    Measurements are read once. A limit other than the one before begins without a rung to hold.

    Args:
        runtime: whose rungs there are.
        digest: of what answers in the bundle.
        tables: finds measurements by digest and device.
    """

    def __init__(self, runtime: Runtime, digest: str, tables: Tables) -> None:
        self.session = uuid.uuid4().hex[:12]
        self._runtime = runtime
        self._digest = digest
        self._tables = tables
        self._pace: Pace | None = None
        self._limit: tuple[Choice, Policy] | None = None

    def policy(self, choice: Choice, temperature: float = 0.0, *, certified: bool = True) -> Policy:
        """The policy of an answer.

        Args:
            certified: whether the bundle's controller may choose.

        Raises:
            UsageError: as `Choice.policy`.
        """
        if not choice.is_limited:
            controller = self._controller(temperature) if certified else None
            return choice.policy(self._runtime.ladder, controller=controller)
        if self._limit is None or self._limit[0] != choice:
            self._limit = choice, choice.policy(self._runtime.ladder, self._measured())
        return self._limit[1]

    def note(self, progress: Progress) -> None:
        """Learn how long an answer took of which the whole time is known."""
        elapsed = progress.watch.elapsed_ms
        if self._pace is not None and is_comparable(elapsed, 1 + len(progress.rejected)):
            self._pace.note(progress.rung.budget, elapsed["ttft"])

    def _measured(self) -> Pace:
        if self._pace is None:
            self._pace = Pace(self._tables(self._digest, self._runtime.device))
        return self._pace

    def _controller(self, temperature: float) -> Controller | None:
        """The bundle's own, where its certificate speaks of what is asked."""
        controller = self._runtime.manifest.controller
        if controller is None or temperature > 0:  # it was certified on greedy answers
            return None
        needed = {controller.full, *(rule.budget for rule in controller.rules)}
        same_graphs = controller.certificate.flavour == self._runtime.flavour
        return controller if same_graphs and needed <= set(self._runtime.ladder.budgets) else None
