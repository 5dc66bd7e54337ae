"""Making room in a full ring: a graph packs its rows, and they are filed in few bits.

What it packed goes through a scratch, as in `compaction`: writing a group into its place by the
host touches that place alone, where a graph would copy the whole region.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgetok import names
from edgetok.kv.stores.kivi import KiviShape
from edgetok.kv.stores.zipcache import ZipShape
from edgetok.runtimes.backends.ort import BoundGraph, Buffer
from edgetok.runtimes.runtime.cache import CacheRows


@dataclass(frozen=True)
class Flushing:
    """The graph that packs the full rings of all layers, and the buffers of the region.

    Args:
        region: inputs of the decode graph, by name.
    """

    shape: KiviShape | ZipShape
    graph: BoundGraph
    region: dict[str, Buffer]

    def make_room(self, rows: CacheRows) -> None:
        """Pack the ring if it is full.

        Raises:
            ResourceError: if memory ran out.
        """
        held = int(rows.lengths[0])
        if isinstance(self.shape, KiviShape):
            if held and not held % self.shape.ring:
                self._pack(held // self.shape.ring - 1)
            return
        if held - int(self.region[names.part("past", "filled", 0)].pull().sum()) == self.shape.ring:
            self._pack(None)

    def _pack(self, group: int | None) -> None:
        """File what the graph made: as a group of that number, or behind what tiers hold."""
        self.graph.run()
        for layer in range(self.shape.layers):
            sizes = {}
            for kind in self.shape.group:
                source = self.graph.outputs[names.part("flushed", kind, layer)]
                rows = sizes[kind] = source.host.shape[2]
                start = self._filled(layer, kind) if group is None else group * rows
                _file(source, self.region[names.part("past", kind, layer)], start)
            if group is None:
                filled = self.region[names.part("past", "filled", layer)]
                filled.write(filled.pull() + np.array([sizes["high_key"], sizes["low_key"]]))

    def _filled(self, layer: int, kind: str) -> int:
        """Rows that a tier holds."""
        filled = self.region[names.part("past", "filled", layer)].pull()
        return int(filled[0 if kind.startswith("high") else 1])


def _file(source: Buffer, target: Buffer, start: int) -> None:
    """Write rows, or what goes with them, from `start` on."""
    packed = source.pull()
    held = target.pull()
    held[:, :, start : start + packed.shape[2]] = packed
    target.push()
