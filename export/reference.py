"""The model as Hugging Face runs it, in eager PyTorch: what every graph is proved against.

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
from edgetok.export.reference_cache import CacheReference
from edgetok.export.reference_flow import Values
from edgetok.export.reference_inside import ReducingReference
from edgetok.export.reference_probes import Projections, other_probe
from edgetok.families.parts import Parts
from edgetok.methods import Method
from edgetok.tokens import Features, elbow_tokens


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
        """pixels [1, 3, h, w] -> every output of the tower graph, by name.

        `budget` matters to methods inside the tower alone; all tokens if None.
        """
        vision = self.parts.vision
        if self.method.inside is not None:
            inside = ReducingReference(vision, self.method.inside)
            return inside.run(pixels, budget or vision.full_tokens)
        layer, prefix = len(vision.blocks), vision.prefix_tokens
        block = vision.next_block or vision.blocks[-1]
        with (
            RecordedKeys(vision.blocks[-1], vision.heads) as keys,
            Projections(block) as next_,
            Values(vision) as values,
        ):
            out = vision.model(pixels, output_hidden_states=True, output_attentions=True)
        rows, attention = out.hidden_states[layer][0], out.attentions[layer - 1][0]
        found = {
            names.FEATURES: rows[prefix:],
            names.CLS_FEATURE: rows[:prefix],
            names.CLS_ATTENTION: attention[:, 0, prefix:].mean(0),
            names.RECEIVED_ATTENTION: attention.mean((0, 1))[prefix:],
            names.KEYS: keys[0].mean(0)[prefix:],
        }
        maps = [attention[0] for attention in out.attentions]
        if names.FLOW_SCORE in self.method.tower_needs:
            found[names.FLOW_SCORE] = values.score(maps)
        for name in {*self.method.tower_needs} - found.keys():
            found[name] = other_probe(name, vision, maps, next_)
        if prefix:
            found[names.SIGNAL_ELBOW] = elbow_tokens(
                found[names.FEATURES], found[names.CLS_FEATURE]
            )
        return found

    @torch.no_grad()
    def look(self, case: Case, budget: int | None = None) -> dict[str, Tensor]:
        """A case -> all that the compress graph may read, by name; the prompt without padding."""
        rows = self.parts.text.embed(torch.tensor([*case.before, *case.after]))
        mask = torch.zeros(len(rows))
        mask[case.question.start : case.question.stop] = 1.0
        prompt = {names.TEXT_EMBEDS: rows, names.TEXT_MASK: mask}
        return self.encode(case.pixels, budget) | prompt

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
        probes = {name: seen[name] for name in self.method.needs_at(len(vision), budget)}
        rows = vision if in_vision else self.parts.projector(vision)
        grid, tiles = self.parts.vision.grid, self.parts.vision.tiles
        features = Features(rows, grid, probes, vision=vision, tiles=tiles)
        plan = self.method.compress(features, budget)
        tokens = plan.apply(features.rows())
        tokens = self.parts.projector(tokens) if in_vision else tokens
        return {names.VISUAL_TOKENS: tokens, names.KEPT: plan.indices, names.SIZES: plan.sizes}

    @torch.no_grad()
    def embed(self, before: list[int], tokens: Tensor, after: list[int]) -> Tensor:
        """Ids around visual tokens [K, D] -> input embeddings [1, rows, D]."""
        table = self.parts.text.embed
        parts = [table(torch.tensor(before)), tokens, table(torch.tensor(after))]
        return torch.cat(parts)[None]

    @torch.no_grad()
    def answer(self, embeds: Tensor, new_tokens: int, visual: range = range(0)) -> Answer:
        """Greedy decoding until a stop token; a policy may ask which rows are visual."""
        text = self.parts.text
        if self.cache is not None:
            return self._answer_from(self.cache, embeds, new_tokens, visual)
        ids: list[int] = []
        logits: list[Tensor] = []
        cache = self.begin_cache()
        rows = embeds
        while len(ids) < new_tokens:
            out = text.model(inputs_embeds=rows, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            logits.append(text.head(out.last_hidden_state[0, -1]))
            ids.append(int(logits[-1].argmax()))
            if ids[-1] in text.stop_ids:
                break
            rows = text.embed(torch.tensor([[ids[-1]]]))
        return Answer(torch.stack(logits), ids)

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


class RecordedKeys:
    """Records the key rows [1, heads, rows, H] of one block while it runs."""

    def __init__(self, block: Any, heads: int) -> None:
        self.projection = block.self_attn.k_proj
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
