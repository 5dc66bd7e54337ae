"""The graphs of a bundle, bound to one set of buffers, each file once."""

from __future__ import annotations

from edgetok import names
from edgetok.bundle.buffers import require_buffers
from edgetok.bundle.manifest import Flavour, Stage, count_rows, shared_stages
from edgetok.bundle.reader import Bundle
from edgetok.errors import UsageError
from edgetok.ladder import Ladder, Rung
from edgetok.runtimes.backends.backend import Backend, Graph
from edgetok.runtimes.runtime.host_actions import Compaction, Groups, Room, Tiers
from edgetok.runtimes.runtime.interface import Served, require_interface
from edgetok.runtimes.runtime.requirements import WEIGHTS_PREFIX
from edgetok.runtimes.runtime.segments import Segments, load_segments


class LoadedGraphs:
    """What every rung of a ladder runs, checked against the manifest before it is loaded.

    Attributes:
        decode: the graph of a step.
        extend: graphs that put a chunk after the rows of the cache, by its rows; mostly two.
        room: what makes room for a row where there is none.
        segments: the graphs after the first one of a prefill in segments.

    Raises:
        BundleError: if a graph does not fit the manifest, or weights changed meanwhile.
        IncompatibleError: if the backend refuses a graph.
        ResourceError: if there is too little memory.
    """

    def __init__(self, bundle: Bundle, ladder: Ladder, flavour: Flavour, backend: Backend) -> None:
        require_buffers(bundle.manifest, flavour)
        self._bundle, self._ladder, self._flavour = bundle, ladder, flavour
        self._backend = backend
        self._unpack()
        self._graphs = self._load()
        self.decode = self.find("decode", ladder.smallest)
        chunks = self._graphs.get((names.EXTEND, ladder.smallest.budget), {})
        self.extend = {rows: chunks[rows] for rows in sorted(chunks)}
        self.room = self._load_room()
        self.segments: Segments = load_segments(bundle.manifest, flavour, ladder, self._bind)

    def find(self, stage: str, rung: Rung) -> Graph:
        """The graph of a stage that serves a rung; the longest, where there are several.

        Raises:
            UsageError: if the rung is not loaded.
        """
        graphs = self._find_all(stage, rung)
        return graphs[max(graphs)]

    def find_prompt(self, rung: Rung, rows: int) -> Graph:
        """The shortest prefill graph of a rung that has so many rows; else the longest."""
        graphs = self._find_all("prefill", rung)
        return graphs[min((size for size in graphs if size >= rows), default=max(graphs))]

    def _find_all(self, stage: str, rung: Rung) -> dict[int, Graph]:
        try:
            return self._graphs[stage, rung.budget]
        except KeyError:
            raise UsageError(
                f"the rung of {rung.budget} visual tokens is not loaded; loaded are "
                f"{self._ladder.budgets}"
            ) from None

    def _unpack(self) -> None:
        """Make the weights that graphs read as inputs; they lie in the buffers that all share."""
        for stage in self._bundle.manifest.stages:
            if (stage.stage, stage.flavour) == (names.UNPACK, self._flavour):
                self._backend.bind(stage).run()

    def _load_room(self) -> Room:
        kv, rung, cache = self._bundle.manifest.kv, self._ladder.largest, self.decode.inputs
        if kv.filing != "none":
            filing = Groups if kv.filing == "groups" else Tiers
            return filing(kv, self.find(names.FLUSH, rung), cache)
        own = (s for s in self._bundle.manifest.stages if s.flavour == self._flavour)
        graphs = {s.layer or 0: s for s in own if s.stage == names.COMPACT}
        order = sorted(graphs, key=lambda layer: -kv.keep[layer])  # see `Backend`
        return Compaction({layer: self._bind(graphs[layer], rung) for layer in order}, cache)

    def _load(self) -> dict[tuple[str, int], dict[int, Graph]]:
        """The graphs of each stage and rung, by the rows that they take at most."""
        bundle, by_file = self._bundle, dict[str, Graph]()
        graphs: dict[tuple[str, int], dict[int, Graph]] = {}
        for name in shared_stages(bundle.manifest):
            for rung in reversed(self._ladder.rungs):  # see `Backend`
                own = graphs[name, rung.budget] = {}
                for stage in bundle.stages(name, rung.budget, self._flavour):
                    if stage.file not in by_file:
                        by_file[stage.file] = self._bind(stage, rung)
                    else:
                        self._require(stage, rung)
                    own[count_rows(stage)] = by_file[stage.file]
        for path in bundle.manifest.files:  # sessions opened weights by name: still those hashed?
            if path.startswith(WEIGHTS_PREFIX):
                bundle.path_of(path)
        return graphs

    def _bind(self, stage: Stage, rung: Rung) -> Graph:
        self._require(stage, rung)
        return self._backend.bind(stage)

    def _require(self, stage: Stage, rung: Rung) -> None:
        before = (
            self._bundle.stage(name, rung.budget, self._flavour) for name in ("tower", "compress")
        )
        require_interface(Served(self._bundle.manifest, stage, rung, *before))
