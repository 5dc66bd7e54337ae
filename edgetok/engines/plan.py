"""Which engines a bundle needs: one per stage, or one for all rungs where they share weights."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgetok import names
from edgetok.bundle.manifest import Flavour, Stage, count_rows, digest_content
from edgetok.bundle.reader import Bundle
from edgetok.bundle.tensors import Extent, extent
from edgetok.engines.half import HALVES, halve
from edgetok.engines.rungs import JoinedGraph, Shape, count_bytes, join_rungs, list_weights
from edgetok.errors import BundleError, ResourceError, UsageError

PRECISIONS = ("fp32", *HALVES)
# Stages whose rungs read the same weights; a `compress` has few, and its rungs differ in more.
_SHARING = ("prefill", names.SEGMENT, "tower")
_ROWS = re.compile(rf"(past|present)_(key|value)_[0-9]+|{names.KEPT_KEY}|{names.KEPT_VALUE}")
# What building takes beside the weights, for each rung, and in multiples of the weights: a little
# more than benchmarks/engines_ladder.py saw, and than 3 and 2 times 200 to 500 MiB of weights.
BASE_BYTES, PROFILE_BYTES = 320 << 20, 16 << 20
WEIGHTS_FACTORS = {"fp32": 4, "fp16": 3, "bf16": 3}


@dataclass(frozen=True)
class EngineJob:
    """One engine to be.

    Args:
        name: unique in the bundle, such as `decode`, `compress_64` or `prefill`.
        stages: the graphs that it serves, one per rung or one for all.
        graph: what is built; its lists are in the order of `stages`.
        bundle: digest of the content that it belongs to.
        precision: of matrix products.
    """

    name: str
    stages: tuple[Stage, ...]
    graph: JoinedGraph
    bundle: str
    precision: str

    @property
    def data(self) -> bytes:
        return bytes(self.graph.model.SerializeToString(deterministic=True))

    @property
    def digest(self) -> str:
        """sha256 of the graph; its weights are the bundle's."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def weights_bytes(self) -> int:
        return sum(count_bytes(tensor) for tensor in list_weights(self.graph.model))

    @property
    def peak_bytes(self) -> int:
        """Memory that building it takes at its peak, predicted."""
        profiles = PROFILE_BYTES * len(self.stages)
        return BASE_BYTES + profiles + WEIGHTS_FACTORS[self.precision] * self.weights_bytes

    @property
    def profiles(self) -> list[tuple[dict[str, Shape], dict[str, Shape], dict[str, Shape]]]:
        """Per rung the least, likeliest and largest shapes, which are the same."""
        return [(shapes, shapes, shapes) for shapes in self.graph.shapes]

    @property
    def range_profile(self) -> tuple[dict[str, Shape], dict[str, Shape], dict[str, Shape]]:
        """One profile for all rungs, best at the largest."""
        least, largest = (
            {
                name: tuple(pick(sizes) for sizes in zip(*(s[name] for s in shapes), strict=True))
                for name in shapes[0]
            }
            for shapes, pick in ((self.graph.shapes, min), (self.graph.shapes, max))
        )
        return least, largest, largest


def plan_engines(
    bundle: Bundle,
    *,
    flavour: Flavour,
    precision: str = "fp16",
    budgets: Iterable[int] | None = None,
    max_build_bytes: int | None = None,
) -> list[EngineJob]:
    """The engines of a bundle, the largest last.

    Where one engine of all rungs is predicted to need more memory than `max_build_bytes`, or cannot
    be made, each rung has its own.

    Args:
        flavour: whose graphs are built.
        precision: of matrix products, one of `PRECISIONS`.
        budgets: the rungs; all when None.

    Raises:
        UsageError: if the bundle has no such graphs, or the precision is unknown.
        ResourceError: if a graph needs more memory than allowed, however it is built.
        BundleError: if a graph is damaged or was changed.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r} is unknown; use {', '.join(PRECISIONS)}")
    wanted = {None, *(bundle.ladder.budgets if budgets is None else budgets)}
    stages = [s for s in bundle.manifest.stages if s.flavour == flavour and s.budget in wanted]
    if not stages:
        raise UsageError(
            f"this bundle has no {flavour} graphs, which engines are made of; export it again with "
            f"--flavour {flavour}"
        )
    planner = _Planner(bundle, precision)
    jobs = [job for group in _group(stages) for job in planner.plan(group, max_build_bytes)]
    for job in jobs:
        _require_memory(job, max_build_bytes)
    return sorted(jobs, key=lambda job: job.weights_bytes)


def _group(stages: Sequence[Stage]) -> list[list[Stage]]:
    """Stages that may have an engine in common."""
    groups: dict[tuple[object, ...], list[Stage]] = {}
    for stage in sorted(stages, key=lambda stage: stage.budget or 0):
        own = None if stage.stage in _SHARING else stage.budget
        groups.setdefault((stage.stage, stage.layer, own), []).append(stage)
    return list(groups.values())


def _require_memory(job: EngineJob, limit: int | None) -> None:
    if limit is not None and job.peak_bytes > limit:
        raise ResourceError(
            f"the engine of {job.name} needs about {_mib(job.peak_bytes)} MiB to build, and "
            f"--max-build-memory is {_mib(limit)} MiB; build on a machine with more memory, or "
            "export with int4 weights"
        )


class _Planner:
    def __init__(self, bundle: Bundle, precision: str) -> None:
        self._bundle, self._precision = bundle, precision
        self._digest = digest_content(bundle.manifest)

    def plan(self, stages: Sequence[Stage], limit: int | None) -> list[EngineJob]:
        models = [self._load(stage) for stage in stages]
        if (joined := join_rungs(models, self._read)) is not None:
            job = self._job(stages, joined)
            if limit is None or job.peak_bytes <= limit:
                return [job]
        singles = [join_rungs([model], self._read) for model in models]
        return [self._job([s], g) for s, g in zip(stages, singles, strict=True) if g is not None]

    def _job(self, stages: Sequence[Stage], graph: JoinedGraph) -> EngineJob:
        if self._precision != "fp32":
            halved = halve(graph.model, self._precision, list_cache(stages[0]))
            graph = replace(graph, model=halved)
        name = _name_engine(stages, self._bundle.manifest.stages)
        return EngineJob(name, tuple(stages), graph, self._digest, self._precision)

    def _load(self, stage: Stage) -> ModelProto:
        return widen_softmax(onnx.load_model_from_string(self._bundle.graph(stage)))

    def _read(self, tensor: TensorProto) -> NDArray[np.generic]:
        """The values of a tensor, from the bundle's weights if they lie there."""
        if tensor.data_location != TensorProto.EXTERNAL:
            array: NDArray[np.generic] = numpy_helper.to_array(tensor)
            return array
        place = extent(tensor)
        if not isinstance(place, Extent):
            raise BundleError(f"tensor {tensor.name}: {place}")
        with self._bundle.path_of(place.location).open("rb") as file:
            file.seek(place.offset)
            data = file.read(place.length)
        inline = TensorProto()
        inline.CopyFrom(tensor)
        inline.data_location = TensorProto.DEFAULT
        del inline.external_data[:]
        inline.raw_data = data
        return numpy_helper.to_array(inline)


def widen_softmax(model: ModelProto) -> ModelProto:
    """The same graph, with any Softmax of one dimension as one of [1, n]: TensorRT takes no other.

    A Reshape to [1, -1] before it and one to [-1] after it change no number.
    """
    graph = model.graph
    values = [*graph.input, *graph.output, *graph.value_info]
    flat = {v.name for v in values if len(v.type.tensor_type.shape.dim) == 1}
    nodes = []
    for index, node in enumerate(graph.node):
        if node.op_type != "Softmax" or node.output[0] not in flat:
            nodes.append(node)
            continue
        names_of = [f"softmax_{index}/{part}" for part in ("wide", "row", "shape", "rows")]
        wide, row, shape, rows = names_of
        graph.initializer.append(helper.make_tensor(shape, TensorProto.INT64, [2], [1, -1]))
        graph.initializer.append(helper.make_tensor(rows, TensorProto.INT64, [1], [-1]))
        nodes.append(helper.make_node("Reshape", [node.input[0], shape], [wide]))
        nodes.append(helper.make_node("Softmax", [wide], [row], axis=-1))
        nodes.append(helper.make_node("Reshape", [row, rows], [node.output[0]]))
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def list_cache(stage: Stage) -> list[str]:
    """Float32 inputs and outputs that are keys and values of a cache."""
    ends = [*stage.inputs, *stage.outputs]
    return [t.name for t in ends if t.dtype == "float32" and _ROWS.fullmatch(t.name)]


def _name_engine(stages: Sequence[Stage], of: Sequence[Stage]) -> str:
    """Unique among all: that of a single graph which has a longer one beside it says its rows."""
    stage = stages[0]
    parts = [stage.stage, stage.layer, stage.budget if len(stages) == 1 else None]
    if len(stages) == 1:
        kind = (stage.stage, stage.layer, stage.budget, stage.flavour)
        longest = max(count_rows(s) for s in of if (s.stage, s.layer, s.budget, s.flavour) == kind)
        parts.append(count_rows(stage) if count_rows(stage) < longest else None)
    return "_".join(str(part) for part in parts if part is not None)


def _mib(size: int) -> int:
    return size >> 20
