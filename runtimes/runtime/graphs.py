"""The graphs of a bundle as sessions over one set of buffers, each file once."""

from __future__ import annotations

from typing import Protocol

from edgetok import names
from edgetok.bundle.manifest import Flavour, Stage, ring_shape, shared_stages
from edgetok.bundle.reader import Bundle
from edgetok.errors import UsageError
from edgetok.kv.stores.kivi import KiviShape
from edgetok.kv.stores.zipcache import ZipShape
from edgetok.ladder import Bucket, Ladder
from edgetok.runtimes.backends.ort import BoundGraph
from edgetok.runtimes.runtime.compaction import Compaction, load_compaction
from edgetok.runtimes.runtime.flushing import Flushing
from edgetok.runtimes.runtime.interface import require_interface
from edgetok.runtimes.runtime.requirements import WEIGHTS_PREFIX
from edgetok.runtimes.runtime.segments import Segments, load_segments


class Backend(Protocol):
    """What makes graphs of a bundle's stages, over one set of buffers.

    A graph has the inputs, outputs and `run` of `session.BoundGraph`.
    """

    def bind(self, stage: Stage) -> BoundGraph: ...


class LoadedGraphs:
    """What every rung of a ladder runs, checked against the manifest before it is loaded.

    Raises:
        BundleError: if a graph does not fit the manifest, or weights changed meanwhile.
        IncompatibleError: if the backend refuses a graph.
        ResourceError: if there is too little memory.
    """

    def __init__(
        self,
        bundle: Bundle,
        ladder: Ladder,
        flavour: Flavour,
        backend: Backend,
    ) -> None:
        self._bundle, self._ladder, self._flavour = bundle, ladder, flavour
        self._backend = backend
        self._graphs = self._load()

    def find(self, stage: str, bucket: Bucket) -> BoundGraph:
        """The graph of a stage that serves a rung.

        Raises:
            UsageError: if the rung is not loaded.
        """
        try:
            return self._graphs[stage, bucket.budget]
        except KeyError:
            raise UsageError(
                f"the rung of {bucket.budget} visual tokens is not loaded; loaded are "
                f"{self._ladder.budgets}"
            ) from None

    def get(self, stage: str, bucket: Bucket) -> BoundGraph | None:
        """The same; None if the bundle has no such stage."""
        return self._graphs.get((stage, bucket.budget))

    def load_room(self, decode: BoundGraph) -> Compaction | Flushing:
        """What makes room for a row where there is none."""
        bucket = self._ladder.largest
        manifest, shape = self._bundle.manifest, ring_shape(self._bundle.manifest)
        if isinstance(shape, KiviShape | ZipShape):
            return Flushing(shape, self.find(names.FLUSH, bucket), decode.inputs)
        return load_compaction(manifest, self._flavour, lambda stage: self._bind(stage, bucket))

    def load_segments(self) -> Segments:
        """The graphs behind the first one of a prefill in segments."""
        return load_segments(self._bundle.manifest, self._flavour, self._ladder, self._bind)

    def _load(self) -> dict[tuple[str, int], BoundGraph]:
        bundle, by_file = self._bundle, dict[str, BoundGraph]()
        graphs = {}
        for name in shared_stages(bundle.manifest):
            for bucket in reversed(self._ladder.buckets):  # see `Memory`
                stage = bundle.stage(name, bucket.budget, self._flavour)
                if stage.file not in by_file:
                    by_file[stage.file] = self._bind(stage, bucket)
                else:
                    self._require(stage, bucket)
                graphs[name, bucket.budget] = by_file[stage.file]
        for path in bundle.manifest.files:  # sessions opened weights by name: still those hashed?
            if path.startswith(WEIGHTS_PREFIX):
                bundle.path_of(path)
        return graphs

    def _bind(self, stage: Stage, bucket: Bucket) -> BoundGraph:
        self._require(stage, bucket)
        return self._backend.bind(stage)

    def _require(self, stage: Stage, bucket: Bucket) -> None:
        tower = self._bundle.stage("tower", bucket.budget, self._flavour)
        require_interface(self._bundle.manifest, stage, bucket, tower)
