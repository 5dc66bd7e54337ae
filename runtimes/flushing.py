"""Making room in the ring of a KIVI cache: a graph packs a full ring, and the group is filed.

What it packed goes through a scratch, as in `compaction`: writing a group into its place by the
host touches that place alone, where a graph would copy the whole region.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgetok import names
from edgetok.bundle.kivi import KiviShape
from edgetok.runtimes.cache import CacheRows
from edgetok.runtimes.session import BoundGraph, Buffer


@dataclass(frozen=True)
class Flushing:
    """The graph that packs the full rings of all layers, and the buffers of the region.

    Args:
        region: inputs of the decode graph, by name.
    """

    shape: KiviShape
    graph: BoundGraph
    region: dict[str, Buffer]

    def make_room(self, rows: CacheRows) -> None:
        """Pack the ring if it is full. Doing so twice changes nothing.

        Raises:
            ResourceError: if memory ran out.
        """
        groups, waiting = divmod(int(rows.lengths[0]), self.shape.ring)
        if waiting or not groups:
            return
        self.graph.run()
        for layer in range(self.shape.layers):
            for kind in self.shape.group:
                source = self.graph.outputs[names.part("flushed", kind, layer)]
                _file(source, self.region[names.part("past", kind, layer)], groups - 1)


def _file(source: Buffer, target: Buffer, group: int) -> None:
    """Write a group into its place among others."""
    packed = source.pull()
    held = target.pull()
    size = packed.shape[2]
    held[:, :, group * size : (group + 1) * size] = packed
    target.push()
