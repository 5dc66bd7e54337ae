"""What a method is: a published compressor with its facts and its composition."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from edgetok import names, tokens
from edgetok.errors import UsageError
from edgetok.tokens.schedules import Encoder

if TYPE_CHECKING:
    from torch import Tensor

    from edgetok.methods.inside import Inside

Verdict = Literal["exact", "fixed-budget", "own formulation"]
Where = Literal["behind the tower", "in the tower", "in prefill"]
Space = Literal["vision", "projected"]

# Read in place of the CLS token's attention where there is no CLS token.
CLS_FREE = {
    names.CLS_ATTENTION: names.RECEIVED_ATTENTION,
    names.NEXT_CLS_ATTENTION: names.RECEIVED_ATTENTION,
    names.NEXT_CLS_LOGITS: names.RECEIVED_ATTENTION,
}
OF_CLS = {
    *CLS_FREE,
    names.EARLY_CLS_ATTENTION,
    names.LATE_CLS_ATTENTION,
    names.NEXT_WIDE_ATTENTION,
    names.CLS_FEATURE,
}
MASKED_SINKS = "+masked-sinks"  # behind a method's name


def any_budget(n_tokens: int, grid: tuple[int, int]) -> Sequence[int]:
    """Every budget from 1 to N."""
    return range(1, n_tokens + 1)


@dataclass(frozen=True)
class Method:
    """A compressor, by the name its paper gives it.

    Args:
        name: as typed by users.
        paper: where it was published, or "baseline".
        where: where it acts.
        needs: what it reads besides the features, by their names in `edgetok.names`: probes of
            the tower, and of the prompt those in `names.OF_PROMPT`.
        verdict: whether the frozen form returns the reference's tokens up to rounding (`exact`), a
            variant with a constant budget (`fixed-budget`), or differs in what it computes
            (`own formulation`).
        summary: one line for lists.
        reduce: features and a budget below N -> plan.
        budgets: N and grid -> the budgets it can meet, ascending; N is always possible.
        cls_row_optional: whether it does without the CLS row, where a tower has none.
        space: whose rows it compares and mixes: the tower's, or the projector's, which then runs
            on all N rows and not on K.
        reseed: for methods that draw, a seed -> the method that draws with it.
        cost: FLOPs of choosing and mixing as a sum of products of N visual tokens, K kept, row
            width D, key width H and T rows of the prompt, see `edgetok.methods.cost`; "" where it
            is not stated.
        ranked: those of `needs` that it ranks patches by and uses for nothing else, so that
            attention sinks can be put last in them.
        tiles: rows and columns of the tiles that its features come in, behind a thumbnail; None
            for pictures in one part.
        learn: for methods with a slot for a trained scorer, its weights by name -> the method.
        retile: for methods that share a budget among tiles, a grid of them -> the method for it.
        inside: what a method in the tower does block by block; its `needs` stay in the tower.
        shares: whether it divides a budget among several pictures by itself.
        differs: how it differs from the program that the paper's authors published, with the
            measured share of equal tokens; "" where nobody has held it against one.
    """

    name: str
    paper: str
    where: Where
    needs: tuple[str, ...]
    verdict: Verdict
    summary: str
    reduce: Callable[[tokens.Features, int], tokens.Plan]
    budgets: Callable[[int, tuple[int, int]], Sequence[int]] = any_budget
    cls_row_optional: bool = False
    space: Space = "vision"
    reseed: Callable[[int], Method] | None = None
    cost: str = ""
    ranked: tuple[str, ...] = ()
    tiles: tuple[int, int] | None = None
    retile: Callable[[tuple[int, int]], Method] | None = None
    learn: Callable[[Mapping[str, Tensor]], Method] | None = None
    inside: Inside | None = None
    shares: bool = False
    differs: str = ""

    def compress(self, features: tokens.Features, budget: int) -> tokens.Plan:
        """The plan for `budget` tokens; a budget of N is the identity for every method.

        Raises:
            UsageError: if the method cannot meet the budget; names the nearest that it can.
        """
        self.check_budget(features.n_tokens, features.grid, budget)
        if budget == features.n_tokens:
            return tokens.Plan.identity(budget)
        return self.reduce(features, budget)

    def for_tower(self, prefix_tokens: int, blocks: int = 0) -> Method:
        """The form for a tower of so many tokens before the patches, and of so many blocks.

        Without a CLS token (SigLIP), the attention that a patch receives from all patches stands
        in for the CLS token's, as ports of these methods have it: an own formulation.

        Raises:
            UsageError: if the method reads something else of the CLS token.
        """
        if self.inside is not None:
            return self._inside_tower(self.inside, prefix_tokens, blocks)
        if prefix_tokens or not OF_CLS.intersection(self.needs):
            return self
        spared = {names.CLS_FEATURE} if self.cls_row_optional else set()
        wanted = [CLS_FREE.get(name, name) for name in self.needs if name not in spared]
        needs = tuple(dict.fromkeys(wanted))
        missing = [name for name in needs if name in OF_CLS]
        if missing:
            raise UsageError(
                f"{self.name} reads {', '.join(missing)}, and this vision tower has no CLS token; "
                "`edgetok methods` lists what each method needs"
            )

        def reduce(features: tokens.Features, budget: int) -> tokens.Plan:
            stand_ins = {cls: features.probes[n] for cls, n in CLS_FREE.items() if n in needs}
            probes = {**features.probes, **stand_ins}
            return self.reduce(replace(features, probes=probes), budget)

        return replace(self, needs=needs, verdict="own formulation", reduce=reduce)

    def for_tiles(self, tiles: tuple[int, int] | None) -> Method:
        """The form for pictures that are cut into so many rows and columns of tiles.

        Raises:
            UsageError: if the method takes pictures in one part only.
        """
        if tiles is None:
            return self
        if self.retile is None:
            raise UsageError(
                f"{self.name} takes pictures in one part, and this model cuts them into "
                f"{tiles[0]} x {tiles[1]} tiles; hired and globalcom2 take tiles"
            )
        return self.retile(tiles)

    def for_pictures(self, pictures: int) -> Method:
        """The form for prompts with so many pictures, or frames, and one budget for all of them.

        A method that does not divide it by itself reduces each picture alone to an equal share,
        the first ones to a token more where it does not divide.

        Raises:
            UsageError: if the method knows only one picture, or only several.
        """
        if self.shares and pictures == 1:
            raise UsageError(
                f"{self.name} shares a budget among several pictures, and prompts of this bundle "
                "have one; give --images, or choose another method"
            )
        if self.shares or pictures == 1:
            return self
        if self.inside is not None:
            raise UsageError(
                f"{self.name} reduces inside the tower, which looks at one picture at a time; "
                "choose a method behind the tower (`edgetok methods` lists them)"
            )

        def reduce(features: tokens.Features, budget: int) -> tokens.Plan:
            counts = tokens.share_evenly(budget, pictures)
            views = tokens.split_pictures(features)
            plans = [self.compress(*pair) for pair in zip(views, counts, strict=True)]
            return tokens.join_plans(plans, features.picture_tokens)

        def budgets(n_tokens: int, grid: tuple[int, int]) -> Sequence[int]:
            each = n_tokens // pictures
            possible = {*self.budgets(each, grid), each}
            shared = range(pictures, n_tokens + 1)
            return [k for k in shared if possible.issuperset(tokens.share_evenly(k, pictures))]

        return replace(self, reduce=reduce, budgets=budgets)

    def masking_sinks(self) -> Method:
        """The form that takes attention sinks only if nothing else is left: an own formulation.

        Raises:
            UsageError: if the method does not rank patches by attention.
        """
        if not self.ranked:
            raise UsageError(
                f"{self.name} does not rank patches by attention alone, so no sinks can be masked "
                "in it; leave --mask-sinks out"
            )

        def reduce(features: tokens.Features, budget: int) -> tokens.Plan:
            rows = features.tower_rows
            masked = {n: tokens.without_sinks(features.probe(n), rows) for n in self.ranked}
            return self.reduce(replace(features, probes={**features.probes, **masked}), budget)

        retile, name = self.retile, self.name + MASKED_SINKS
        tiled = None if retile is None else lambda tiles: retile(tiles).masking_sinks()
        return replace(self, name=name, verdict="own formulation", reduce=reduce, retile=tiled)

    @property
    def tower_needs(self) -> tuple[str, ...]:
        """The probes that the tower must emit: all but those of the request."""
        return tuple(name for name in self.needs if name not in names.OF_REQUEST)

    @property
    def reads_prompt(self) -> bool:
        """Whether it looks at the user's text."""
        return any(name in names.OF_PROMPT for name in self.needs)

    def _inside_tower(self, inside: Inside, prefix_tokens: int, blocks: int) -> Method:
        """As `for_tower`; how many blocks there are decides which budgets can be met."""

        def budgets(n_tokens: int, grid: tuple[int, int]) -> Sequence[int]:
            return inside.budgets(Encoder(n_tokens, grid, prefix_tokens, blocks))

        ranks_by_cls = not prefix_tokens and OF_CLS.intersection(self.needs)
        verdict: Verdict = "own formulation" if ranks_by_cls else self.verdict
        return replace(self, verdict=verdict, budgets=budgets if blocks else self.budgets)

    def needs_at(self, n_tokens: int, budget: int) -> tuple[str, ...]:
        """What the graph of one budget reads beside the features: nothing for the identity."""
        return () if budget >= n_tokens else self.needs

    def check_budget(self, n_tokens: int, grid: tuple[int, int], budget: int) -> None:
        """Refuse a budget that the method cannot meet.

        Raises:
            UsageError: names the nearest budgets that it can meet.
        """
        possible = sorted({*self.budgets(n_tokens, grid), n_tokens})
        if budget in possible:
            return
        below = [b for b in possible if b < budget][-1:]
        above = [b for b in possible if b > budget][:1]
        nearest = " or ".join(str(b) for b in below + above)
        raise UsageError(
            f"{self.name} cannot make {budget} of {n_tokens} visual tokens; "
            f"the nearest possible budget is {nearest}"
        )


def method_inside(
    name: str,
    paper: str,
    needs: tuple[str, ...],
    verdict: Verdict,
    summary: str,
    inside: Inside,
    differs: str = "",
) -> Method:
    """A method in the tower; `needs` names what it reads there, for lists."""
    where: Where = "in the tower"
    return Method(
        name, paper, where, needs, verdict, summary, _refuse, inside=inside, differs=differs
    )


def _refuse(features: tokens.Features, budget: int) -> tokens.Plan:
    raise TypeError("this method reduces inside the tower, which hands over K rows")
