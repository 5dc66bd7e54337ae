"""Making room in a full KV cache: a graph chooses the rows of a layer that stay.

What it chose goes through one scratch that all layers share, since a graph must not write where it
reads; the rows behind it are left as they are, and the next ones are written over them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgetok import names
from edgetok.bundle.manifest import Flavour, Manifest, Stage
from edgetok.runtimes.backends.ort import BoundGraph, Buffer
from edgetok.runtimes.runtime.cache import CacheRows

_KEPT: dict[str, Callable[[int], str]] = {
    names.KEPT_KEY: names.past_key,
    names.KEPT_VALUE: names.past_value,
    names.KEPT_KEY_SCALE: names.past_key_scale,
    names.KEPT_VALUE_SCALE: names.past_value_scale,
    names.KEPT_STATE: names.past_state,
}


@dataclass(frozen=True)
class Compaction:
    """The graphs that empty each layer, by layer; none where no policy does."""

    graphs: dict[int, BoundGraph]

    def make_room(self, rows: CacheRows) -> None:
        """Empty every full layer that has a graph for it.

        Raises:
            ResourceError: if memory ran out.
        """
        for layer in rows.full:
            if layer in self.graphs:
                self._empty(layer)
                rows.compact(layer)

    def _empty(self, layer: int) -> None:
        graph = self.graphs[layer]
        graph.run()
        for source, kept in graph.outputs.items():
            _copy_rows(kept, graph.inputs[_KEPT[source](layer)])


def _copy_rows(source: Buffer, target: Buffer) -> None:
    """Write the rows of a smaller buffer over the first rows of a larger one."""
    kept = source.pull()
    held = target.pull()
    held[:, :, : kept.shape[2]] = kept
    target.push()


def load_compaction(
    manifest: Manifest, flavour: Flavour, bind: Callable[[Stage], BoundGraph]
) -> Compaction:
    """Bind the graph of every layer, the one with most rows first: see `session.Memory`."""
    stages = [s for s in manifest.stages if s.stage == names.COMPACT and s.flavour == flavour]
    order = sorted(stages, key=lambda stage: -manifest.kv.keep[stage.layer or 0])
    return Compaction({stage.layer or 0: bind(stage) for stage in order})
