"""Static torch modules, one per stage; tracing one of them gives its graph.

Every module calls Hugging Face's own layers. Shapes are constants: N visual tokens, K budget,
T prompt tokens, S prefill rows, C cache slots (see `edgetok.names`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgetok import names
from edgetok.errors import UsageError
from edgetok.export.attention import StageModule, TowerEmitter, emitting, merge_heads
from edgetok.export.stages.probes import (
    mean_keys,
    probe_cls,
    probe_cls_logits,
    probe_flow,
    probe_global,
    probe_received,
    probe_wide,
)
from edgetok.families.parts import Layout, Parts, TextParts, VisionParts
from edgetok.methods import Method
from edgetok.tokens import (
    Features,
    Plan,
    edge_density,
    effective_count,
    elbow_tokens,
    participation_rank,
)

_OF_NEXT_BLOCK = {
    names.NEXT_CLS_ATTENTION,
    names.NEXT_CLS_LOGITS,
    names.NEXT_WIDE_ATTENTION,
    names.NEXT_KEYS,
}


def require_tower(vision: VisionParts, method: Method) -> None:
    """Refuse a method that asks more of a tower than this one tells.

    Raises:
        UsageError: naming another kind of method.
    """
    if not vision.blocks and (method.inside is not None or method.tower_needs):
        asks = f"reads {', '.join(method.tower_needs)}" if method.inside is None else "acts inside"
        raise UsageError(
            f"{method.name} {asks}, and this family's tower is run whole and tells its features "
            "alone; `edgetok methods` lists what each method needs"
        )
    if method.inside is not None and not vision.is_plain:
        raise UsageError(
            f"{method.name} reduces inside the tower, and this family merges or cuts what its "
            "tower makes; choose a method behind the tower (`edgetok methods` lists them)"
        )
    of_last = {names.KEYS, names.RECEIVED_ATTENTION, *names.OF_PROMPT}
    if vision.pool is not None and not of_last.issuperset(method.needs):
        raise UsageError(
            f"{method.name} reads attention of several blocks, and this tower attends within "
            "windows; `edgetok methods` lists what each method needs"
        )
    if names.CLS_FEATURE in method.needs and (vision.feature_width or vision.width) != vision.width:
        raise UsageError(
            f"{method.name} puts the CLS row beside the visual tokens, and this family's tokens "
            "are wider than it; `edgetok methods` lists what each method needs"
        )


class Tower(StageModule):
    """pixels [P, 3, h, w] -> features [N, V], the probes in `needs`, and signals.

    `attention` lowers the blocks' attention to one flavour.
    """

    def __init__(
        self, vision: VisionParts, needs: tuple[str, ...], attention: type[TowerEmitter]
    ) -> None:
        super().__init__()
        self.attention = attention
        self.model = vision.model
        self.vision = vision
        self.needs = needs

    @property
    def inputs(self) -> dict[str, Tensor]:
        return {names.PIXELS: torch.zeros(self.vision.n_parts, 3, *self.vision.image_px)}

    @property
    def outputs(self) -> list[str]:
        signals = [names.SIGNAL_RANK, names.SIGNAL_EDGES]
        signals += [names.SIGNAL_ELBOW] if self.vision.prefix_tokens else []
        signals += [names.SIGNAL_ATTENTION] if names.CLS_ATTENTION in self.needs else []
        deep = [names.DEEP_FEATURES] if self.vision.deepstack else []
        return [names.FEATURES, *self.needs, *deep, *signals]

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        vision, prefix = self.vision, self.vision.prefix_tokens
        attention = self.attention()
        rows = vision.embed(pixels)  # [P, prefix + n, V]
        with emitting(vision.model, attention):
            passed = []
            for block in vision.blocks:
                rows = vision.run(block, rows)
                passed.append(rows)
            if vision.next_block is not None and set(self.needs) & _OF_NEXT_BLOCK:
                # Only its queries and keys are read: the rest does not reach the graph.
                vision.run(vision.next_block, rows)
        patches, cls = rows[:, prefix:], rows[0, :prefix]
        found = {names.FEATURES: vision.finish(patches).flatten(0, 1), names.CLS_FEATURE: cls}
        if vision.deepstack:
            deep = [vision.group(passed[number]) for number in vision.deepstack]
            found[names.DEEP_FEATURES] = torch.cat(deep, dim=1)
        parts = attention.parts(vision.n_parts)
        for name in self.needs:
            if name not in found:
                probes = [mean_of_cells(self._probe(name, part), vision) for part in parts]
                found[name] = torch.cat(probes) if len(probes) > 1 else probes[0]
        found[names.SIGNAL_RANK] = participation_rank(found[names.FEATURES])
        found[names.SIGNAL_EDGES] = edge_density(pixels)
        if prefix:
            found[names.SIGNAL_ELBOW] = elbow_tokens(mean_of_cells(patches[0], vision), cls)
        if names.CLS_ATTENTION in self.needs:
            found[names.SIGNAL_ATTENTION] = effective_count(found[names.CLS_ATTENTION])
        return tuple(found[name] for name in self.outputs)

    def _probe(self, name: str, attention: TowerEmitter) -> Tensor:
        prefix, blocks = self.vision.prefix_tokens, attention.blocks
        if name in _OF_NEXT_BLOCK:
            return _next_probe(name, *blocks[-1], prefix)
        query, key, scaling = blocks[len(self.vision.blocks) - 1]
        if name == names.CLS_ATTENTION:
            return probe_cls(query, key, scaling)
        if name == names.KEYS:
            return mean_keys(key, prefix)
        if name == names.RECEIVED_ATTENTION:
            return probe_received(query, key, scaling, prefix)
        if name == names.GLOBAL_ATTENTION:
            return probe_global(query, key, scaling, prefix)
        if name == names.OBJECT_ATTENTION:
            return probe_received(*blocks[self.vision.object_block], prefix)
        if name == names.LATE_CLS_ATTENTION:
            late = [probe_cls(*blocks[i]) for i in self.vision.late_blocks]
            return torch.stack(late).sum(0)
        if name == names.EARLY_CLS_ATTENTION:
            return probe_cls(*blocks[0])
        if name == names.FLOW_SCORE:
            depth = len(self.vision.blocks)  # the block after them may have run as well
            return probe_flow(blocks[:depth], attention.values[:depth], prefix)
        raise KeyError(name)


def _next_probe(name: str, query: Tensor, key: Tensor, scaling: float, prefix: int) -> Tensor:
    if name == names.NEXT_CLS_ATTENTION:
        return probe_cls(query, key, scaling)
    if name == names.NEXT_CLS_LOGITS:
        return probe_cls_logits(query, key, scaling)
    if name == names.NEXT_WIDE_ATTENTION:
        return probe_wide(query, key)
    return merge_heads(key)[0, prefix:]


class Compress(StageModule):
    """features [N, V] and what is in `needs` -> visual tokens [K, D], kept [K], sizes [K].

    Args:
        prompt_tokens: rows of text that a method may read.
    """

    def __init__(self, parts: Parts, method: Method, budget: int, prompt_tokens: int) -> None:
        super().__init__()
        # Graphs name weights by attributes: another name would be other bytes.
        self.deep_projectors = nn.ModuleList(parts.deepstack_projectors)
        self.projector = parts.projector
        self.method = method
        self.grid = parts.vision.grid
        self.tiles = parts.vision.tiles
        self.pictures = parts.vision.pictures
        self.budget = budget
        self.layout = parts.layout if budget == parts.full_tokens else None
        deep = (names.DEEP_FEATURES,) if parts.vision.deepstack else ()
        self.needs = (*method.needs_at(parts.vision.full_tokens, budget), *deep)
        self._shapes = shape_inputs(parts, prompt_tokens)

    @property
    def inputs(self) -> dict[str, Tensor]:
        wanted = (names.FEATURES, *self.needs)
        return {name: torch.rand(*self._shapes.get(name, self._shapes[""])) for name in wanted}

    @property
    def outputs(self) -> list[str]:
        deep = [names.VISUAL_DEEP] if self.deep_projectors else []
        return [names.VISUAL_TOKENS, names.KEPT, names.SIZES, *deep]

    def forward(self, features: Tensor, *probes: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(self.needs, probes, strict=True))
        deep = given.pop(names.DEEP_FEATURES, None)
        if self.layout is not None:
            return lay_out(self.projector(features), self.layout)
        if self.method.space == "projected" and self.budget < features.shape[0]:
            projected = self.projector(features)
            rows = self._features(projected, given, features)
            plan = self.method.compress(rows, self.budget)
            return plan.apply(rows.x), plan.indices, plan.sizes, *self._deepen(plan, deep)
        rows = self._features(features, given)
        plan = self.method.compress(rows, self.budget)
        tokens = self.projector(plan.apply(rows.rows()))  # gather first: K rows projected, not N
        return tokens, plan.indices, plan.sizes, *self._deepen(plan, deep)

    def _features(
        self, x: Tensor, probes: dict[str, Tensor], vision: Tensor | None = None
    ) -> Features:
        return Features(x, self.grid, probes, vision, self.tiles, self.pictures)

    def _deepen(self, plan: Plan, deep: Tensor | None) -> list[Tensor]:
        """What the plan makes of earlier blocks' rows, projected: [K, layers * D]."""
        if deep is None:
            return []
        parts = plan.apply(deep).chunk(len(self.deep_projectors), dim=1)
        made = [each(part) for each, part in zip(self.deep_projectors, parts, strict=True)]
        return [torch.cat(made, dim=1)]


def shape_inputs(parts: Parts, prompt_tokens: int) -> dict[str, tuple[int, ...]]:
    """Shapes of what compress may read, by name; "" for a number per token."""
    vision = parts.vision
    n, width, head = vision.full_tokens, vision.width, vision.width // vision.heads
    feature_width = vision.feature_width or width
    return {
        "": (n,),
        names.FEATURES: (n, feature_width),
        names.KEYS: (n, head),
        names.CLS_FEATURE: (vision.pictures, width),
        names.NEXT_KEYS: (n, width),
        names.DEEP_FEATURES: (n, len(vision.deepstack) * feature_width),
        names.TEXT_EMBEDS: (prompt_tokens, parts.text.hidden),
        names.TEXT_MASK: (prompt_tokens,),
        names.PICTURE_WEIGHTS: (vision.pictures,),
    }


def lay_out(projected: Tensor, layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
    """All tokens [N, D] among their separators: rows [K, D], kept [K] and sizes [K].

    A separator is no token, so it is kept as -1.
    """
    order = torch.tensor(layout.order)
    rows = torch.cat([projected, layout.separators]).index_select(0, order)
    kept = torch.where(order < projected.shape[0], order, -1)
    return rows, kept, torch.ones(len(layout.order))


def mean_of_cells(rows: Tensor, vision: VisionParts) -> Tensor:
    """Patches in raster order -> means over the cell of each token: [n, ...] -> [N / P, ...]."""
    if vision.pool is not None:
        return vision.pool(rows)
    if vision.cell == 1:
        return rows
    (down, across), side, inner = vision.grid, vision.cell, rows.shape[1:]
    cells = rows.reshape(down, side, across, side, *inner)
    return cells.mean((1, 3)).reshape(down * across, *inner)


class Embed(StageModule):
    """token ids [T] -> text embeddings [T, D].

    Args:
        rows: T.
    """

    outputs = (names.TEXT_EMBEDS,)

    def __init__(self, text: TextParts, rows: int) -> None:
        super().__init__()
        self.embed, self.rows = text.embed, rows

    @property
    def inputs(self) -> dict[str, Tensor]:
        return {names.TOKEN_IDS: torch.zeros(self.rows, dtype=torch.int64)}

    def forward(self, token_ids: Tensor) -> Tensor:
        rows: Tensor = self.embed(token_ids)
        return rows
