"""What of a prompt the KV cache holds already, so that only the rest is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgetok.ladder import Rung
from edgetok.runtimes.runtime.protocol import FloatArray, Key, Runtime, VisualTokens


@dataclass(frozen=True, slots=True)
class PromptRows:
    """Everything that the cache holds before an answer: ids around the visual tokens.

    Args:
        before: ids before the image.
        visual: the tokens of one rung.
        after: ids after the image; in a conversation those of all turns.
        first_turn: how many of `after` belong to the first turn, which `prefill` takes at once.
    """

    before: tuple[int, ...]
    visual: VisualTokens
    after: tuple[int, ...]
    first_turn: int

    def __len__(self) -> int:
        return len(self.before) + len(self.visual.rows) + len(self.after)

    @property
    def opening(self) -> int:
        """Rows of the first turn."""
        return len(self) - len(self.after) + self.first_turn

    @property
    def keys(self) -> list[Key]:
        """What each row is; equal rows before it have the same key and state."""
        digest = self.visual.digest
        image: list[Key] = [(digest, i) for i in range(len(self.visual.rows))]
        return [*self.before, *image, *self.after]

    def ids(self, image_id: int | None) -> list[int]:
        """What `generate` of transformers would be given: visual rows are `image_id`, if any."""
        image = [] if image_id is None else [image_id] * len(self.visual.rows)
        return [*self.before, *image, *self.after]

    def followed_by(self, ids: Sequence[int]) -> PromptRows:
        """The same with more text after it."""
        return replace(self, after=(*self.after, *ids))


def embed_rows(runtime: Runtime, rows: PromptRows, most_ids: int) -> FloatArray:
    """Embeddings [n, D] of all rows; the embed graph takes `most_ids` at once."""
    ids = [*rows.before, *rows.after]
    pieces = [runtime.embed(ids[at : at + most_ids]).copy() for at in range(0, len(ids), most_ids)]
    text, split = np.concatenate(pieces), len(rows.before)
    return np.concatenate([text[:split], rows.visual.rows, text[split:]])


def fill(
    runtime: Runtime, rung: Rung, rows: PromptRows, embeds: FloatArray
) -> tuple[FloatArray, int]:
    """Have the cache hold these rows, in the way that takes the least time.

    Returns:
        Logits [W] of the last row, and how many of the first rows were held before.

    Raises:
        InputError: if the cache has no room for them.
    """
    keys, opening = rows.keys, rows.opening
    held = runtime.count_held(keys)
    fresh = runtime.prefill_cost(rung, opening)
    fresh += runtime.extend_cost(opening, keys)
    if held and runtime.extend_cost(held, keys) <= fresh:
        return runtime.extend(embeds, held, keys), held
    logits = runtime.prefill(
        rung,
        embeds[:opening],
        keys[:opening],
        visual_start=len(rows.before),
        visual=rows.visual,
    )
    if len(rows) > opening:
        logits = runtime.extend(embeds, opening, keys)
    return logits, 0
