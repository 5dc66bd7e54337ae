"""The scheme of caches whose layers hold every row that prefill leaves: 32, 8 or 4 bits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from edgetok import names
from edgetok.bundle.manifest import Flavour
from edgetok.export.attention import Scales, StageModule
from edgetok.export.caches.scheme import CacheScheme, Decoding
from edgetok.export.graph import StageSpec
from edgetok.export.options import KV_BITS
from edgetok.export.parity.agreement import PARITY_TOKENS, compare_steps
from edgetok.export.parity.cache import Stored, check_cache
from edgetok.export.parity.extend import check_extend
from edgetok.export.parity.ledger import Ledger
from edgetok.export.parity.prompt import Prompt
from edgetok.export.parity.prompt_reduced import check_reduced
from edgetok.export.parity.sessions import GraphRunner, as_arrays
from edgetok.export.reference.cache import CacheReference
from edgetok.export.reference.model import Reference
from edgetok.export.reference.prompt_reduced import ReducedReference
from edgetok.export.reference.slots import SlotReference
from edgetok.export.stages.decoder import Decode, Extend
from edgetok.export.stages.prompt import build_prompt
from edgetok.export.stages.prompt_segments import ExitedSegment, Segment, list_segments
from edgetok.families.parts import Parts
from edgetok.kv import NONE, keep_all
from edgetok.methods import Method
from edgetok.prefill import Prefill


@dataclass(frozen=True)
class PlainCache(CacheScheme):
    """Every row in its place.

    Args:
        kv: `fp32`, `int8` or `int4`; the last two have scales.
        longest: slots of the largest rung.
    """

    kv: str
    longest: int
    scales: Scales | None = None
    reduction: Prefill | None = None

    extends: ClassVar[bool] = True

    @property
    def rounds(self) -> Literal["nothing", "all"]:  # type: ignore[override]  # constant elsewhere
        return "nothing" if self.scales is None else "all"

    @property
    def bits(self) -> int:
        return KV_BITS.get(self.kv, 32)

    @property
    def rewinds(self) -> bool:
        return self.reduction is None

    @property
    def policy(self) -> str:  # type: ignore[override]
        return NONE if self.reduction is None else self.reduction.held.name

    @property
    def positions(self) -> Literal["kept", "renumbered"]:  # type: ignore[override]
        return "kept" if self.reduction is None else self.reduction.method.positions

    def prefill(self, decoding: Decoding, budget: int, rows: int) -> StageModule:
        return build_prompt(self.context(decoding), decoding.parts, self.reduction, rows, budget)

    def extend(self, decoding: Decoding, rows: int) -> StageModule:
        return Extend(self.context(decoding), rows)

    def decode(self, decoding: Decoding) -> StageModule:
        return Decode(self.context(decoding))

    def later_stages(self, decoding: Decoding) -> list[StageSpec]:
        """The graphs after the first one of a prefill in segments."""
        context, found, text_rows = self.context(decoding), [], decoding.prompt_tokens
        if self.reduction is None:
            return []
        for part in list_segments(self.reduction, context.layers)[1:]:
            for k in decoding.ladder.budgets:
                given = context, self.reduction, text_rows + k, k, part
                found.append(StageSpec(names.SEGMENT, k, partial(Segment, *given), part.start))
            given = context, self.reduction, text_rows, 0, part
            found.append(StageSpec(names.EXITED, None, partial(ExitedSegment, *given), part.start))
        return found

    def reference(self, parts: Parts, method: Method) -> Reference:
        if self.reduction is not None:
            return ReducedReference(parts, method, self.reduction)
        if self.bits == 4:  # Hugging Face's own rows are too far from so coarse ones
            everything = keep_all(self.longest, len(parts.text.layers))
            return Reference(parts, method, CacheReference(parts.text, everything))
        return Reference(parts, method)

    def held(self, reference: Reference, flavour: Flavour) -> Reference:
        if flavour == "ort" or self.scales is None:
            return reference
        plain = Reference(reference.parts, reference.method)
        in_slots = SlotReference(plain, self.scales, self.bits)
        if self.reduction is None:
            return in_slots
        return ReducedReference(reference.parts, reference.method, self.reduction, in_slots)

    def check(self, ledger: Ledger, held: Reference, sessions: GraphRunner, prompt: Prompt) -> bool:
        alike = True
        if isinstance(held, ReducedReference):
            alike = check_reduced(ledger, held.reduced(prompt.budget), sessions, prompt)
        else:
            self.check_steps(ledger, held, sessions, prompt)
        by_steps = held.cache is not None or self._in_slots(sessions)
        check_extend(ledger, held, sessions, prompt, by_steps=by_steps)
        return alike

    def check_steps(
        self, ledger: Ledger, held: Reference, sessions: GraphRunner, prompt: Prompt
    ) -> None:
        """Prefill and decode on PyTorch's own rows."""
        if held.cache is not None:
            check_cache(ledger, held.cache, sessions, prompt, self.stored(sessions))
            return
        want = held.answer(prompt.embeds, PARITY_TOKENS, prompt.visual, made=prompt.made)
        stop_ids, made = held.parts.text.stop_ids, as_arrays(prompt.made)
        begun = prompt.budget, prompt.rows, PARITY_TOKENS, stop_ids, prompt.start
        got = sessions.answer(*begun, made=made)
        compare_steps(ledger, prompt.budget, got, (want.logits, want.ids))

    def stored(self, sessions: GraphRunner) -> Stored:
        """How the graphs of a flavour store rows."""
        return Stored(self.scales, self.bits, self._in_slots(sessions))

    def _in_slots(self, sessions: GraphRunner) -> bool:
        return sessions.has_buffer(names.past_key_scale(0))
