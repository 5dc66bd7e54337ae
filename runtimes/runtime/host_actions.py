"""Making room in a KV cache that is full: a graph says what stays, and the host writes it there.

What the graph makes goes through a buffer of its own, since a graph must not write where it reads,
and writing some rows into their place touches these alone where a graph would copy all others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edgetok.bundle.manifest import KvCache
from edgetok.errors import BundleError
from edgetok.runtimes.backends.backend import Graph, Tensor
from edgetok.runtimes.runtime.cache import CacheRows

_TIERS = ("high", "low")  # in the order in which `past_filled` counts them
_FLUSHED = "flushed_"


class Room(Protocol):
    """What makes room for a row where there is none."""

    def make_room(self, rows: CacheRows) -> None:
        """Make room for one row more in every layer.

        Raises:
            BundleError: if what is to be written does not fit into its buffer.
            ResourceError: if memory ran out.
        """
        ...


@dataclass(frozen=True)
class Compaction:
    """The graphs that empty each layer, by layer; none where rows never leave.

    Args:
        cache: inputs of the decode graph, by name.
    """

    graphs: Mapping[int, Graph]
    cache: Mapping[str, Tensor]

    def make_room(self, rows: CacheRows) -> None:
        """Empty every full layer that has a graph for it."""
        for layer in rows.full:
            if layer in self.graphs:
                graph = self.graphs[layer]
                graph.run()
                for name, kept in graph.outputs.items():
                    past = f"past_{name.removeprefix('kept_')}_{layer}"
                    write_rows(kept, self.cache[past], 0, past)
                rows.compact(layer)


@dataclass(frozen=True)
class Groups:
    """The graph that packs the full rings of all layers, each as the next group of rows."""

    kv: KvCache
    graph: Graph
    cache: Mapping[str, Tensor]

    def make_room(self, rows: CacheRows) -> None:
        """Pack the rings if they are full."""
        held, ring = int(rows.lengths[0]), self.kv.ring
        if not held or held % ring:
            return
        self.graph.run()
        for name, packed in self.graph.outputs.items():
            past = f"past_{name.removeprefix(_FLUSHED)}"
            start = (held // ring - 1) * packed.host.shape[2]
            write_rows(packed, self.cache[past], start, past)


@dataclass(frozen=True)
class Tiers:
    """The same where rows of a ring go to one of two tiers, which count what they hold."""

    kv: KvCache
    graph: Graph
    cache: Mapping[str, Tensor]

    def make_room(self, rows: CacheRows) -> None:
        """Divide the rings between the tiers if they are full."""
        held, filed = int(rows.lengths[0]), int(self.cache["past_filled_0"].pull().sum())
        if not 0 <= held - filed <= self.kv.ring:
            raise BundleError(
                f"past_filled_0 counts {filed} of {held} rows, and a ring of {self.kv.ring} cannot "
                "hold the others; export again"
            )
        if held - filed == self.kv.ring:
            self.graph.run()
            for layer in range(self.kv.layers):
                self._file(layer)

    def _file(self, layer: int) -> None:
        """Write what the graph made of a layer after the rows that its tiers hold."""
        filled = self.cache[f"past_filled_{layer}"]
        starts, added = dict(zip(_TIERS, filled.pull().tolist(), strict=True)), dict[str, int]()
        for name, packed in self.graph.outputs.items():
            kind, _, number = name.removeprefix(_FLUSHED).rpartition("_")
            if number == str(layer):
                tier = kind.partition("_")[0]
                past = f"past_{kind}_{layer}"
                write_rows(packed, self.cache[past], starts[tier], past)
                added[tier] = packed.host.shape[2]
        filled.write(filled.host + np.array([added[tier] for tier in _TIERS], np.int32))


def write_rows(source: Tensor, target: Tensor, start: int, name: str) -> None:
    """Write rows, or what goes with them, from `start` on, in axis 2.

    Raises:
        BundleError: if they do not fit there.
    """
    rows, held = source.pull(), target.pull()
    if not 0 <= start <= held.shape[2] - rows.shape[2]:
        raise BundleError(
            f"{name} has {held.shape[2]} rows, and {rows.shape[2]} do not fit there from row "
            f"{start} on; export again"
        )
    held[:, :, start : start + rows.shape[2]] = rows
    target.push()
