"""What a runtime must do: eight calls, NumPy in and out. Everything else is written over these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgetok.bundle.manifest import Flavour, Manifest
from edgetok.ladder import Ladder, Rung

FloatArray = NDArray[np.float32]
IdArray = NDArray[np.int64]

# What a row of a prompt is: the id of its token, or which visual tokens and which one of them.
Key = int | tuple[str, int]


@dataclass(frozen=True, slots=True)
class TowerOutput:
    """What one image leaves after, or all of a prompt; every rung of the ladder starts from it.

    Args:
        tensors: features [N, V] and the probes of the method, by graph name; owned copies.
        signals: how hard the image is, by graph name; empty when the tower has none.
        budget: the rung whose tower this came from; None where all rungs share one.
        pixels: [P, 3, h, w], from which another rung's tower starts; None where all share one.
    """

    tensors: Mapping[str, FloatArray]
    signals: Mapping[str, float]
    budget: int | None = None
    pixels: FloatArray | None = None


@dataclass(frozen=True)
class VisualTokens:
    """What the language model sees of an image on one rung; owned copies.

    Args:
        rows: projected tokens [K, D].
        kept: source index of each token [K]; -1 for the CLS token or a mixture of all.
        sizes: how many source tokens each stands for [K].
        deep: [K, layers * D], added after the decoder's first layers; None where nothing is.
    """

    rows: FloatArray
    kept: IdArray
    sizes: FloatArray
    deep: FloatArray | None = None

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the rows: what tells them from those of another image, rung or question."""
        return sha256(self.rows.tobytes()).hexdigest()


@dataclass(frozen=True, slots=True)
class TextRows:
    """A prompt as text-aware compressors read it.

    Args:
        rows: embeddings [n, D] of all its text tokens, as `Runtime.embed` gives them.
        question: the places of the user's own text among them.
    """

    rows: FloatArray
    question: range


class Runtime(Protocol):
    """A bundle, loaded on a device. It holds one KV cache, so one answer at a time.

    Arrays that a call returns beside `TowerOutput` and `VisualTokens` may be views of the
    runtime's own buffers: they are valid until the same method is called again.
    """

    @property
    def manifest(self) -> Manifest: ...

    @property
    def ladder(self) -> Ladder:
        """The rungs that are loaded; at least one, maybe fewer than the bundle has."""
        ...

    @property
    def device(self) -> str:
        """Where it runs, such as "cpu"."""
        ...

    @property
    def flavour(self) -> Flavour:
        """Which of the bundle's graphs run."""
        ...

    @property
    def threads(self) -> int:
        """Threads that one operator may use."""
        ...

    def encode(self, pixels: FloatArray, rung: Rung | None = None) -> TowerOutput:
        """Run the tower on normalised pixels [1, 3, h, w].

        `rung` says whose tower where each rung has its own; the largest if None.
        """
        ...

    def compress(
        self,
        image: TowerOutput,
        rung: Rung,
        text: TextRows | None = None,
        weights: FloatArray | None = None,
    ) -> VisualTokens:
        """Reduce an encoded image to the visual tokens of a rung.

        Args:
            image: what this rung's tower made of it, where each rung has its own.
            text: needed where the bundle's method looks at the prompt, and ignored elsewhere.
            weights: [images], by which a method may divide the budget; all 1 if None.
        """
        ...

    def embed(self, ids: list[int]) -> FloatArray:
        """Embeddings [len(ids), D] of at most `prompt_tokens` text ids."""
        ...

    def prefill(
        self,
        rung: Rung,
        embeds: FloatArray,
        keys: Sequence[Key] = (),
        *,
        visual_start: int | None = None,
        visual: VisualTokens | None = None,
    ) -> FloatArray:
        """Fill the cache with a prompt [n, D], n at most `rung.prefill_tokens`.

        Args:
            keys: what the rows are, so that they can be found again; nothing if that is not known.
            visual_start: the first of the rung's visual rows, which lie together in the prompt;
                needed where the bundle treats those apart, and ignored elsewhere.
            visual: the tokens that these rows are; needed where the decoder reads more of them
                than their rows, and ignored elsewhere.

        Returns:
            Logits [W] of the last row.
        """
        ...

    @property
    def exit_layer(self) -> int | None:
        """The decoder layer before which visual rows left the last prompt that was prefilled.

        The number of layers if they stayed; None for a bundle in which no signal decides that.
        """
        ...

    def count_held(self, keys: Sequence[Key]) -> int:
        """How many of a prompt's first rows the cache holds and `extend` can go on after.

        Fewer than all of them: the logits of the last row must come from somewhere. 0 where what
        the cache holds does not depend on these rows alone.
        """
        ...

    def extend(self, embeds: FloatArray, start: int, keys: Sequence[Key]) -> FloatArray:
        """Put the rows of a prompt [n, D] from `start` on after those before, which are held.

        Returns:
            Logits [W] of the last row.
        """
        ...

    def prefill_cost(self, rung: Rung, rows: int) -> float:
        """What `prefill` of so many rows takes, in rows of the graph that would run."""
        ...

    def extend_cost(self, start: int, keys: Sequence[Key]) -> float:
        """What `extend` of these rows from `start` on takes, in rows of a prefill."""
        ...

    def forget(self) -> None:
        """Hold nothing that is known: the next prompt is computed from its first row on."""
        ...

    @property
    def rows_left(self) -> int:
        """Tokens that can still be appended to the cache."""
        ...

    def step(self, token_id: int) -> FloatArray:
        """Append one token to the rows already in the cache.

        Returns:
            Logits [W] of the new row.
        """
        ...

    def close(self) -> None:
        """Let go of graphs and memory; every later call that needs them raises UsageError."""
        ...
