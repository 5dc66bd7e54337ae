"""The model as Hugging Face runs it, in eager PyTorch: what every graph is compared with.

Nothing here shares code with the stages that are traced: features and probes come from the
model's own `output_hidden_states` and `output_attentions`, text from its own cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edgetok import names
from edgetok.export.cases import Case
from edgetok.export.reference.cache import CacheReference
from edgetok.export.reference.flow import Values
from edgetok.export.reference.packed import look_packed
from edgetok.export.reference.probes import Projections, other_probe
from edgetok.export.reference.tower_reducing import ReducingReference
from edgetok.families.internals import begin_cache, name_cache_argument
from edgetok.families.parts import Layout, Parts, TextParts, VisionParts, attention_of
from edgetok.methods import Method
from edgetok.tokens import Features, elbow_tokens

_OF_FIRST_PART = (names.CLS_FEATURE, names.SIGNAL_ELBOW)


@dataclass(frozen=True)
class Answer:
    """Greedy decoding: logits [steps, W] float32 and the chosen ids."""

    logits: Tensor
    ids: list[int]


class Reference:
    """Runs one image and prompt through the whole model with a compressor in the middle.

    `cache` holds what a policy keeps of the rows; without one, Hugging Face's own holds all.
    """

    def __init__(self, parts: Parts, method: Method, cache: CacheReference | None = None) -> None:
        self.parts = parts
        self.method = method
        self.cache = cache

    @torch.no_grad()
    def encode(self, pixels: Tensor, budget: int | None = None) -> dict[str, Tensor]:
        """pixels [P, 3, h, w] -> every output of the tower graph, by name.

        Of several images, their parts come one after another, and so does all that is found.
        `budget` matters to methods inside the tower alone; all tokens if None.
        """
        vision = self.parts.vision
        if self.method.inside is not None:
            inside = ReducingReference(vision, self.method.inside)
            return inside.run(pixels, budget or vision.full_tokens)
        seen = [self._encode_part(part[None]) for part in pixels]
        found = {name: torch.cat([part[name] for part in seen]) for name in seen[0]}
        first = seen[:: vision.n_parts]
        return found | {
            name: torch.cat([part[name] for part in first])
            for name in _OF_FIRST_PART
            if name in found
        }

    def _encode_part(self, pixels: Tensor) -> dict[str, Tensor]:
        vision = self.parts.vision
        if vision.pool is not None:
            return look_packed(vision, pixels)
        if not vision.blocks:
            return {names.FEATURES: vision.finish(look_whole(vision, pixels))[0]}
        layer, prefix = len(vision.blocks), vision.prefix_tokens
        block = vision.next_block or vision.blocks[-1]
        with (
            RecordedKeys(vision.blocks[-1], vision.heads) as keys,
            Projections(block) as next_,
            Values(vision) as values,
        ):
            told = vision.tell(pixels)
            out = vision.model(**told, output_hidden_states=True, output_attentions=True)
        rows, attention = out.hidden_states[layer][0], out.attentions[layer - 1][0]
        found = {
            names.CLS_ATTENTION: attention[:, 0, prefix:].mean(0),
            names.RECEIVED_ATTENTION: attention.mean((0, 1))[prefix:],
            names.KEYS: keys[0].mean(0)[prefix:],
        }
        maps = [attention[0] for attention in out.attentions]
        if names.FLOW_SCORE in self.method.tower_needs:
            found[names.FLOW_SCORE] = values.score(maps)
        for name in {*self.method.tower_needs} - found.keys() - {names.CLS_FEATURE}:
            found[name] = other_probe(name, vision, maps, next_)
        found = {name: pool_cells(probe, vision) for name, probe in found.items()}
        if prefix:
            found[names.SIGNAL_ELBOW] = elbow_tokens(pool_cells(rows[prefix:], vision), rows[:1])
        features = vision.finish(rows[None, prefix:])[0]
        return found | {names.FEATURES: features, names.CLS_FEATURE: rows[:prefix]}

    @torch.no_grad()
    def look(self, case: Case, budget: int | None = None) -> dict[str, Tensor]:
        """A case -> all that the compress graph may read, by name; the prompt without padding."""
        rows = self.parts.text.embed(torch.tensor([*case.before, *case.after]))
        mask = torch.zeros(len(rows))
        mask[case.question.start : case.question.stop] = 1.0
        prompt = {names.TEXT_EMBEDS: rows, names.TEXT_MASK: mask}
        weights = {names.PICTURE_WEIGHTS: weigh(self.parts.vision.pictures)}
        return self.encode(case.pixels, budget) | prompt | weights

    @torch.no_grad()
    def compress(self, seen: dict[str, Tensor], budget: int) -> dict[str, Tensor]:
        """What `look` found -> the outputs of the compress graph, by name.

        The outputs of `encode` are enough for methods that do not read the prompt.
        """
        if self.method.inside is not None:
            kept, sizes = seen[names.TOWER_KEPT], seen[names.TOWER_SIZES]
            projected = self.parts.projector(seen[names.FEATURES])
            return {names.VISUAL_TOKENS: projected, names.KEPT: kept, names.SIZES: sizes}
        vision, in_vision = seen[names.FEATURES], self.method.space == "vision"
        if self.parts.layout is not None and budget == self.parts.full_tokens:
            return lay_out_all(self.parts.projector(vision), self.parts.layout)
        probes = {name: seen[name] for name in self.method.needs_at(len(vision), budget)}
        rows = vision if in_vision else self.parts.projector(vision)
        seen_as = self.parts.vision
        features = Features(
            rows, seen_as.grid, probes, vision, tiles=seen_as.tiles, pictures=seen_as.pictures
        )
        plan = self.method.compress(features, budget)
        tokens = plan.apply(features.rows())
        tokens = self.parts.projector(tokens) if in_vision else tokens
        made = {names.VISUAL_TOKENS: tokens, names.KEPT: plan.indices, names.SIZES: plan.sizes}
        if self.parts.deepstack_projectors:
            width = vision.shape[1]
            chosen = [
                plan.apply(part) for part in torch.split(seen[names.DEEP_FEATURES], width, dim=1)
            ]
            pairs = zip(self.parts.deepstack_projectors, chosen, strict=True)
            made[names.VISUAL_DEEP] = torch.cat([each(part) for each, part in pairs], dim=1)
        return made

    @torch.no_grad()
    def embed(self, before: list[int], tokens: Tensor, after: list[int]) -> Tensor:
        """Ids around visual tokens [K, D] -> input embeddings [1, rows, D]."""
        table = self.parts.text.embed
        first, last = (table(torch.tensor(ids, dtype=torch.int64)) for ids in (before, after))
        return torch.cat([first, tokens, last])[None]

    @torch.no_grad()
    def answer(
        self,
        embeds: Tensor,
        new_tokens: int,
        visual: range = range(0),
        prompt_rows: int | None = None,
        made: dict[str, Tensor] | None = None,
    ) -> Answer:
        """Greedy decoding until a stop token.

        Args:
            made: the outputs of compress, for decoders that read more of tokens than their rows.
            visual: rows of the image, for policies and decoders that ask.
            prompt_rows: how many rows the prompt has, if more follow it here.
        """
        text = self.parts.text
        if self.cache is not None:
            return self._answer_from(self.cache, embeds, new_tokens, visual)
        ids: list[int] = []
        logits: list[Tensor] = []
        cache = begin_cache(text.model) if (own := self.begin_cache()) is None else own
        told = {name_cache_argument(text.model): cache, "use_cache": True}
        given = self.inputs(embeds, visual, prompt_rows, made)
        while len(ids) < new_tokens:
            out = text.model(**given, **told)
            logits.append(text.head(out.last_hidden_state[0, -1]))
            ids.append(int(logits[-1].argmax()))
            if ids[-1] in text.stop_ids:
                break
            places = given.get("position_ids")
            given = {"inputs_embeds": text.embed(torch.tensor([[ids[-1]]]))}
            given |= {} if places is None else {"position_ids": places[:, :, -1:] + 1}
        return Answer(torch.stack(logits), ids)

    def inputs(
        self,
        embeds: Tensor,
        visual: range,
        prompt_rows: int | None = None,
        made: dict[str, Tensor] | None = None,
    ) -> dict[str, Any]:
        """What Hugging Face's decoder takes of a prompt [1, n, D]; arguments as in `answer`."""
        count = embeds.shape[1]
        mask = look_ahead(self.parts.text, embeds, visual, prompt_rows)
        places = self._place(count, visual, made)
        told = {"attention_mask": mask, "position_ids": places}
        told |= self._deepen(count, visual, made)
        return {"inputs_embeds": embeds} | {n: v for n, v in told.items() if v is not None}

    def _deepen(self, count: int, visual: range, made: dict[str, Tensor] | None) -> dict[str, Any]:
        """What Hugging Face's decoder adds to visual rows after its first layers."""
        layers = len(self.parts.deepstack_projectors)
        if not layers or made is None:
            return {}
        mask = torch.tensor([[row in visual for row in range(count)]])
        parts = list(made[names.VISUAL_DEEP].chunk(layers, dim=1))
        return {"visual_pos_masks": mask, "deepstack_visual_embeds": parts}

    def _place(self, count: int, visual: range, made: dict[str, Tensor] | None) -> Tensor | None:
        """Positions [3, 1, n] of a prompt, row by row; None where they are numbers in a row."""
        if not self.parts.text.mrope_axes:
            return None
        lines, columns = self.parts.vision.grid
        tokens = range(len(visual)) if made is None else made[names.KEPT].tolist()
        places, following = [], 0
        for row in range(count):
            if row in visual:
                line, column = divmod(max(tokens[row - visual.start], 0), columns)
                places.append([visual.start, visual.start + line, visual.start + column])
                following = visual.start + max(lines, columns)
            else:
                places.append([following] * 3)
                following += 1
        return torch.tensor(places).T[:, None]

    def begin_cache(self) -> Any:
        """An empty cache as Hugging Face knows them; None for its own choice."""
        return None

    def _answer_from(
        self, cache: CacheReference, embeds: Tensor, new_tokens: int, visual: range
    ) -> Answer:
        logits = [cache.begin(embeds, visual)]
        ids = [int(logits[-1].argmax())]
        while len(ids) < new_tokens and ids[-1] not in self.parts.text.stop_ids:
            logits.append(cache.step(ids[-1]))
            ids.append(int(logits[-1].argmax()))
        return Answer(torch.stack(logits), ids)

    @torch.no_grad()
    def follow(self, embeds: Tensor, ids: list[int]) -> Tensor:
        """Logits [steps, W] of each step of a given answer, in one pass without a cache."""
        text = self.parts.text
        rows = torch.cat([embeds, text.embed(torch.tensor([ids[:-1]], dtype=torch.int64))], dim=1)
        hidden = text.model(inputs_embeds=rows, use_cache=False).last_hidden_state[0, -len(ids) :]
        logits: Tensor = text.head(hidden)
        return logits


def weigh(pictures: int) -> Tensor:
    """Weights [P] that graphs are checked with: 1, 2, ... and the first image once more."""
    return torch.arange(pictures).float() % 3 + 1


def look_ahead(text: TextParts, embeds: Tensor, visual: range, prompt_rows: int | None) -> Any:
    """The mask of a prompt [1, n, D] as Hugging Face's decoder takes it, pair by pair.

    None where rows see what is before them alone, which is its own choice.
    """
    if text.bidirectional == "nothing":
        return None
    count, config = embeds.shape[1], text.model.config
    of_image = text.bidirectional == "image"
    together = set(visual if of_image else range(prompt_rows or count))
    window = getattr(config, "sliding_window", None) or count

    def build(window: int) -> Tensor:
        mask = torch.full((1, 1, count, count), torch.finfo(torch.float32).min)
        for asking in range(count):
            for seen in range(count):
                alike = asking in together and seen in together
                near = seen > asking - window
                if (near and (seen <= asking or alike)) or (alike and not of_image):
                    mask[0, 0, asking, seen] = 0.0
        return mask

    if "sliding_attention" not in (getattr(config, "layer_types", None) or ()):
        return build(count)
    return {"full_attention": build(count), "sliding_attention": build(window)}


def look_whole(vision: VisionParts, pixels: Tensor) -> Tensor:
    """What a tower that is run whole makes of its patches, [1, n, V]."""
    found = vision.model(**vision.tell(pixels)).last_hidden_state
    if found.ndim == 4:  # a map of channels
        found = torch.stack([channel.flatten() for channel in found[0]], dim=1)[None]
    patches: Tensor = found[:, -vision.full_tokens * vision.cell**2 :]
    return patches


def pool_cells(rows: Tensor, vision: VisionParts) -> Tensor:
    """Rows or scores of patches, [n] or [n, W], averaged over the cell of each token."""
    if vision.cell == 1:
        return rows
    row_state = rows.reshape(len(rows), -1).T.reshape(
        -1, *(side * vision.cell for side in vision.grid)
    )
    pooled = torch.nn.functional.avg_pool2d(row_state, vision.cell).flatten(1).T
    return pooled.reshape(-1, *rows.shape[1:])


def lay_out_all(tokens: Tensor, layout: Layout) -> dict[str, Tensor]:
    """All tokens [N, D] among the family's separators: the outputs of compress, by name."""
    n = len(tokens)
    rows = [tokens[i] if i < n else layout.separators[i - n] for i in layout.order]
    kept = torch.tensor([i if i < n else -1 for i in layout.order])
    return {
        names.VISUAL_TOKENS: torch.stack(rows),
        names.KEPT: kept,
        names.SIZES: torch.ones(len(rows)),
    }


class RecordedKeys:
    """Records the key rows [1, heads, rows, H] of one block while it runs."""

    def __init__(self, block: Any, heads: int) -> None:
        attention = attention_of(block)
        self.projection = getattr(attention, "k_norm", attention.k_proj)
        self.heads = heads
        self.rows: list[Tensor] = []

    def __enter__(self) -> RecordedKeys:
        self.hook = self.projection.register_forward_hook(lambda _m, _i, out: self.rows.append(out))
        return self

    def __exit__(self, *_: object) -> None:
        self.hook.remove()

    def __getitem__(self, batch: int) -> Tensor:
        rows = self.rows[-1][batch]  # [rows, heads * H]
        return rows.view(rows.shape[0], self.heads, -1).transpose(0, 1)
