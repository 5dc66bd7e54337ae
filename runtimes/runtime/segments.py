"""Prefill graph by graph, where a signal may have the visual rows leave between two of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgetok import names
from edgetok.bundle.manifest import Flavour, Manifest, Stage
from edgetok.ladder import Bucket, Ladder
from edgetok.runtimes.backends.backend import Graph


@dataclass(frozen=True)
class Segments:
    """The graphs after the first one of a prefill in segments; none where it is one graph.

    Args:
        exits: layers before which visual rows may leave, ascending.
        layers: of the decoder.
        with_vision: by rung and first layer.
        exited: by first layer.
    """

    exits: tuple[int, ...]
    layers: int
    with_vision: dict[tuple[int, int], Graph]
    exited: dict[int, Graph]

    def follow(self, graph: Graph, bucket: Bucket, count: int, start: int) -> tuple[Graph, int]:
        """Run what follows a prompt's first graph, which has run.

        Args:
            count: rows of the prompt.
            start: the first visual row.

        Returns:
            The graph that has the logits, and the layer before which visual rows left, or the
            number of layers.
        """
        left = self.layers
        for layer in self.exits:
            if left == self.layers and float(graph.outputs[names.EXIT_SIGNAL].pull()[0]) > 0:
                left = layer
            if left < self.layers:
                graph = self.exited[layer]
                self._place_text(graph, bucket.budget, count, start)
            else:
                graph = self.with_vision[bucket.budget, layer]
            graph.run()
        return graph, left

    def _place_text(self, graph: Graph, visual: int, count: int, start: int) -> None:
        """Where text rows are, and where they stay in the positions of the model."""
        place, last = np.arange(graph.inputs[names.TEXT_POSITIONS].host.shape[0]), count - visual
        graph.inputs[names.TEXT_POSITIONS].write(np.where(place < start, place, place + visual))
        graph.inputs[names.PAST_LENGTHS].write(np.full(self.layers, last - 1, np.int32))
        if names.LAST_ROW in graph.inputs:
            graph.inputs[names.LAST_ROW].write(np.array([last - 1], np.int64))

    def removed(self, left: int, visual: int) -> list[int]:
        """Rows that each layer's cache does not hold, where visual ones left before `left`."""
        return [visual if layer >= left else 0 for layer in range(self.layers)]


def load_segments(
    manifest: Manifest,
    flavour: Flavour,
    ladder: Ladder,
    bind: Callable[[Stage, Bucket], Graph],
) -> Segments:
    """Bind the graphs of the loaded rungs, the largest rung first: see `Backend`."""
    with_vision: dict[tuple[int, int], Graph] = {}
    exited: dict[int, Graph] = {}
    stages = [stage for stage in manifest.stages if stage.flavour == flavour]
    for bucket in reversed(ladder.buckets):
        for stage in stages:
            if stage.stage == names.SEGMENT and stage.bucket == bucket.budget:
                with_vision[bucket.budget, stage.layer or 0] = bind(stage, bucket)
    for stage in stages:
        if stage.stage == names.EXITED:
            exited[stage.layer or 0] = bind(stage, ladder.largest)
    return Segments(tuple(manifest.prefill.exits), manifest.kv.layers, with_vision, exited)
