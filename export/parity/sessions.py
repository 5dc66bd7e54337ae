"""Runs exported graphs one by one for the parity check, straight through ONNX Runtime.

It is deliberately not the runtime that ships: buffers are copied at each call, and nothing is
shared with `edgetok.runtimes`, so that a fault there cannot hide a fault here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from edgetok import names
from edgetok.export.graph import Graph
from edgetok.kv import EvictionPlan
from edgetok.overflow import EXACT, overflows
from edgetok.prefill import Prefill

Array = npt.NDArray[Any]
Made = Mapping[str, Array]  # the outputs of a compress graph, by name
_ROWS = (names.INPUT_EMBEDS, names.CHUNK_EMBEDS)


_ROUNDING = (b"MatMulNBits", b"MatMulIntegerToFloat")


def _is_float(graph: Graph) -> bool:
    """Whether packed and unpacked kernels give the same: packing would copy every weight.

    Where a graph rounds they do not, and what is checked must be what the runtime ships.
    """
    few_bits = any(tensor.dtype in ("int8", "uint8") for tensor in graph.stage.inputs)
    return not few_bits and not any(each in graph.data for each in _ROUNDING)


class GraphRunner:
    """Sessions over the graphs of a bundle that is not published yet.

    Args:
        root: directory that holds `weights/model.bin`.
        prefill: what the prefill graphs take away.
        plan: which rows an evicting cache keeps.
        shift: of a rung, from the number of a row after the image to its rotary position.
    """

    def __init__(
        self,
        graphs: Iterable[Graph],
        root: Path,
        prefill: Prefill | None = None,
        plan: EvictionPlan | None = None,
        shift: Callable[[int], int] = lambda _: 0,
    ) -> None:
        self._prefill, self.plan = prefill, plan
        self.root = root
        self.read: Array = np.zeros((0, 0, 0), np.int64)  # rows that the last step read
        self._shift = shift
        self._past: dict[str, Array] = {}
        self.signals: dict[int, float] = {}
        self.left = 0  # the layer before which visual rows left, after a prefill in segments
        self._only_rows: int | None = None
        # By stage, rung or layer, and rows of the prompt or chunk; 0 where a stage has neither.
        self._sessions: dict[tuple[str, int | None], dict[int, Any]] = {}
        self._unpacked: dict[str, Array] = {}
        self._shapes: dict[str, tuple[list[int], str]] = {}
        for graph in graphs:
            options = ort.SessionOptions()
            options.log_severity_level = 3
            # PyTorch works between two calls; threads that spin meanwhile would take its cores.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            folder = "session.model_external_initializers_file_folder_path"
            options.add_session_config_entry(folder, str(root))
            unpacked = "1" if graph.stage.stage != "decode" or _is_float(graph) else "0"
            options.add_session_config_entry("session.disable_prepacking", unpacked)
            if graph.stage.flavour == "ort" and overflows():
                options.add_session_config_entry(*EXACT)
            session = ort.InferenceSession(graph.data, options, providers=["CPUExecutionProvider"])
            stage, layer = graph.stage.stage, graph.stage.layer
            part = graph.stage.budget if layer is None else layer
            if stage in (names.SEGMENT, names.EXITED):
                stage, part = f"{stage}_{layer}", graph.stage.budget  # type: ignore[assignment]
            rows = next((t.shape[1] for t in graph.stage.inputs if t.name in _ROWS), 0)
            self._sessions.setdefault((stage, part), {})[rows] = session
            for spec in graph.stage.inputs:
                self._shapes[spec.name] = (spec.shape, spec.dtype)
        if (names.UNPACK, None) in self._sessions:
            self._unpacked = self.run(names.UNPACK, None, {})

    def run(
        self, stage: str, budget: int | None, feeds: dict[str, Array], rows: int = 0
    ) -> dict[str, Array]:
        """Run a rung's graph, or the shared one, of so many rows where there are several.

        Inputs that it does not have are left out.
        """
        own = (stage, budget)
        session = self._sessions[own if own in self._sessions else (stage, None)][rows]
        wanted = [value.name for value in session.get_inputs()]
        found = [value.name for value in session.get_outputs()]
        given = feeds | self._unpacked
        values = session.run(found, {name: given[name] for name in wanted})
        return dict(zip(found, values, strict=True))

    def look(self, budget: int | None, pixels: Array) -> dict[str, Array]:
        """All images of a prompt through the tower of a rung, one after another, by name."""
        (parts, *_), _ = self._shapes[names.PIXELS]
        seen = [
            self.run("tower", budget, {names.PIXELS: pixels[first : first + parts]})
            for first in range(0, len(pixels), parts)
        ]
        return {name: np.concatenate([one[name] for one in seen]) for name in seen[0]}

    def read_prompt(self, ids: Sequence[int], question: range) -> dict[str, Array]:
        """What text-aware methods read, by name: ids through the embed graph, and their mask."""
        (rows,), _ = self._shapes[names.TOKEN_IDS]
        padded, mask = np.zeros(rows, np.int64), np.zeros(rows, np.float32)
        padded[: len(ids)] = ids
        mask[question.start : question.stop] = 1.0
        return self.run("embed", None, {names.TOKEN_IDS: padded}) | {names.TEXT_MASK: mask}

    def pad_prompt(self, feeds: dict[str, Array]) -> dict[str, Array]:
        """Feeds with the rows of the prompt brought to the length that a graph has for them.

        Ones stand after the prompt, which no embedding table holds: what reads them is wrong.
        """
        if names.TEXT_EMBEDS not in self._shapes:
            return feeds
        (rows, _), _ = self._shapes[names.TEXT_EMBEDS]
        text, mask = feeds[names.TEXT_EMBEDS], feeds[names.TEXT_MASK]
        missing = rows - len(mask)
        return feeds | {
            names.TEXT_EMBEDS: np.pad(text, ((0, missing), (0, 0)), constant_values=1.0),
            names.TEXT_MASK: np.pad(mask, (0, missing)),
        }

    def answer(
        self,
        budget: int,
        embeds: Array,
        new_tokens: int,
        stop_ids: tuple[int, ...],
        start: int = 0,
        leave: int | None = None,
        made: Made | None = None,
    ) -> Any:
        """Greedy decoding of true rows [n, D] -> logits [steps, W] and ids.

        `start` is the first visual row and `made` what compress gave, where visual rows are
        treated apart, and `leave` the layer before which they leave, where that is not to be what
        the signals say.
        """
        logits = [self.begin(budget, embeds, start, leave, made)]
        ids = [int(logits[-1].argmax())]
        while len(ids) < new_tokens and ids[-1] not in stop_ids:
            logits.append(self.step(ids[-1]))
            ids.append(int(logits[-1].argmax()))
        return np.stack(logits), ids

    def begin(
        self,
        budget: int,
        embeds: Array,
        start: int = 0,
        leave: int | None = None,
        made: Made | None = None,
    ) -> Array:
        """Prefill of true rows [n, D] -> logits [W]."""
        out, count = self.prefill(budget, embeds, start, leave, made), embeds.shape[0]
        self._past, self._position = _as_past(out), count + self._shift(budget)
        self._lengths = (count - self._removed(budget)).astype(np.int32)
        if self.plan is not None:
            packed = self._lengths > np.array(self.plan.slots)
            self._lengths[packed] = np.array(self.plan.keep, np.int32)[packed]
        logits: Array = out[names.LOGITS][0]
        return logits

    def step(self, token_id: int) -> Array:
        """One token more -> logits [W]."""
        self.compact()
        places = self._lengths if self._renumbered else np.full(self._layers, self._position)
        feeds = self._past | {
            names.TOKEN_ID: np.array([[token_id]], np.int64),
            names.PAST_LENGTHS: self._lengths,
            names.POSITIONS: places.astype(np.int64)[:, None],
        }
        out = self.run("decode", None, feeds)
        self.read = out.get(names.DECODE_READ, self.read)
        self._past, self._position = self._past | _as_past(out), self._position + 1
        self._lengths = self._lengths + 1
        logits: Array = out[names.LOGITS][0]
        return logits

    def put(self, chunk: Array) -> Array:
        """The R rows [R, D] of the extend graph after those of the cache -> logits [W]."""
        width = len(chunk)
        first = self._lengths if self._renumbered else np.full(self._layers, self._position)
        feeds = self._past | {
            names.CHUNK_EMBEDS: chunk[None],
            names.PAST_LENGTHS: self._lengths + np.int32(width - 1),
            names.CHUNK_POSITIONS: first[:, None].astype(np.int64) + np.arange(width),
        }
        out = self.run(names.EXTEND, None, feeds, width)
        self._past, self._position = _as_past(out), self._position + width
        self._lengths = self._lengths + np.int32(width)
        logits: Array = out[names.LOGITS][0]
        return logits

    @property
    def chunk_sizes(self) -> list[int]:
        """Rows that each extend graph takes at once, ascending."""
        return sorted(self._sessions[names.EXTEND, None])

    def prompt_sizes(self, budget: int) -> list[int]:
        """Rows of each prefill graph of a rung, ascending."""
        return sorted(self._sessions["prefill", budget])

    @contextmanager
    def only(self, rows: int) -> Iterator[None]:
        """Prompts go through the prefill graphs of so many rows, not the shortest that fit."""
        self._only_rows = rows
        try:
            yield
        finally:
            self._only_rows = None

    def _size_for(self, budget: int, count: int) -> int:
        sizes = [self._only_rows] if self._only_rows else self.prompt_sizes(budget)
        return next(rows for rows in sizes if rows >= count)

    def room_for(self, budget: int) -> int:
        """Rows that fit into the cache after one another, those counted that prefill removes."""
        slots = [self._shapes[names.past_key(layer)][0][2] for layer in range(self._layers)]
        return int((np.array(slots) + self._removed(budget)).min())

    @property
    def reduces(self) -> bool:
        """Whether prefill takes rows away."""
        return self._prefill is not None

    @property
    def _renumbered(self) -> bool:
        if self.plan is not None:
            return self.plan.policy.positions == "renumbered"
        return self._prefill is not None and self._prefill.method.positions == "renumbered"

    def compact(self) -> None:
        """Empty the layers that are full, as a policy has it; pack a ring that is full."""
        if (names.FLUSH, None) in self._sessions:
            self._flush()
        if self.plan is None:
            return
        for layer in np.flatnonzero(self._lengths >= np.array(self.plan.slots)).tolist():
            out = self.run(names.COMPACT, layer, self._past)
            for kind in ("key", "value", "key_scale", "value_scale", "state"):
                if (kept := out.get(f"kept_{kind}")) is not None:
                    self._past[f"past_{kind}_{layer}"][:, :, : kept.shape[2]] = kept
            self._lengths[layer] = self.plan.keep[layer]

    def _flush(self) -> None:
        filled = self._past.get(names.buffer_name("past", "filled", 0))
        if filled is not None:
            self._flush_tiers(filled.copy())
            return
        groups, waiting = divmod(int(self._lengths[0]), self.ring)
        if waiting:
            return
        for name, packed in self.run(names.FLUSH, None, self._past).items():
            held, size = self._past[name.replace("flushed_", "past_")], packed.shape[2]
            held[:, :, (groups - 1) * size : groups * size] = packed

    def _flush_tiers(self, filled: Array) -> None:
        if int(self._lengths[0]) - int(filled.sum()) < self.ring:
            return
        added = np.zeros(2, np.int32)
        for name, packed in self.run(names.FLUSH, None, self._past).items():
            tier, size = int(name.startswith("flushed_low")), packed.shape[2]
            held, start = self._past[name.replace("flushed_", "past_")], int(filled[tier])
            held[:, :, start : start + size] = packed
            added[tier] = size
        for layer in range(self._layers):
            self._past[names.buffer_name("past", "filled", layer)] = filled + added

    def has_buffer(self, name: str) -> bool:
        """Whether the cache has a buffer of this name."""
        return name in self._shapes

    def buffer(self, name: str) -> Array:
        """A buffer of the cache as it is now."""
        return self._past[name]

    @property
    def ring(self) -> int:
        """Rows that wait in the ring of a KIVI cache; 0 where there is another one."""
        name = names.buffer_name("past", "ring_key", 0)
        return self._shapes[name][0][2] if name in self._shapes else 0

    @property
    def head_dim(self) -> int:
        """Channels of a row that waits there."""
        return self._shapes[names.buffer_name("past", "ring_key", 0)][0][3]

    @property
    def extends(self) -> bool:
        """Whether there is a graph for chunks."""
        return (names.EXTEND, None) in self._sessions

    def prompt_rows(self, budget: int) -> int:
        """Rows that a rung's prompt has room for."""
        return self.prompt_sizes(budget)[-1]

    def prefill(
        self,
        budget: int,
        embeds: Array,
        start: int = 0,
        leave: int | None = None,
        made: Made | None = None,
    ) -> dict[str, Array]:
        """True rows [n, D] through the prefill graph of a rung: all its outputs, by name."""
        if self.exits:
            return self._prefill_in_segments(budget, embeds, start, leave)
        rows = self._size_for(budget, len(embeds))
        last = embeds.shape[0] - 1 - self._removed(budget)
        feeds = {
            names.INPUT_EMBEDS: _pad(embeds, rows),
            names.LAST_ROW: last[-1:].astype(np.int64),
            names.VISUAL_START: np.array([start], np.int64),
            names.PAST_LENGTHS: last.astype(np.int32),
        }
        if made is not None:
            feeds |= {names.VISUAL_KEPT: made[names.KEPT]}
            feeds |= {name: made[name] for name in (names.VISUAL_DEEP,) if name in made}
        return self.run("prefill", budget, feeds | self._empty_cache(), rows)

    def _prefill_in_segments(
        self, budget: int, embeds: Array, start: int, leave: int | None
    ) -> dict[str, Array]:
        """The same graph by graph; signals by layer are in `signals`, the exit in `left`."""
        count, layers = embeds.shape[0], self._layers
        self.signals, self.left, rows = {}, layers, self.prompt_rows(budget)
        place = np.arange(rows - budget)
        feeds = self._empty_cache() | {
            names.INPUT_EMBEDS: _pad(embeds, rows),
            names.LAST_ROW: np.array([count - 1], np.int64),
            names.VISUAL_START: np.array([start], np.int64),
            names.PAST_LENGTHS: np.full(layers, count - 1, np.int32),
            names.TEXT_POSITIONS: np.where(place < start, place, place + budget),
        }
        out = self.run("prefill", budget, feeds, rows)
        for layer in self.exits:
            if self.left == layers:
                self.signals[layer] = float(out[names.EXIT_SIGNAL][0])
                wanted = self.signals[layer] > 0 if leave is None else layer == leave
                self.left = layer if wanted else layers
            gone = budget if self.left < layers else 0
            feeds = (
                feeds
                | out
                | {
                    names.LAST_ROW: np.array([count - 1 - gone], np.int64),
                    names.PAST_LENGTHS: np.full(layers, count - 1 - gone, np.int32),
                }
            )
            stage = names.EXITED if gone else names.SEGMENT
            out = out | self.run(f"{stage}_{layer}", budget, feeds)
        return out

    @property
    def exits(self) -> tuple[int, ...]:
        """Layers before which a signal may have visual rows leave."""
        return () if self._prefill is None else self._prefill.exits(self._layers)

    def _removed(self, budget: int) -> Array:
        """Rows that are gone before each layer, [L]."""
        if self._prefill is None:
            return np.zeros(self._layers, np.int64)
        if self.exits:
            return np.where(np.arange(self._layers) < self.left, 0, budget)
        return np.array(self._prefill.removed(self._layers, budget), np.int64)

    @property
    def _layers(self) -> int:
        shape, _ = self._shapes[names.PAST_LENGTHS]
        return shape[0]

    def _empty_cache(self) -> dict[str, Array]:
        return {
            name: np.zeros(shape, dtype)
            for name, (shape, dtype) in self._shapes.items()
            if name.startswith("past_") and name != names.PAST_LENGTHS
        }


def _pad(embeds: Array, rows: int) -> Array:
    """[n, D] -> [1, rows, D]."""
    return np.pad(embeds, ((0, rows - len(embeds)), (0, 0)))[None].astype(np.float32)


def as_arrays(made: Mapping[str, Any] | None) -> Made | None:
    """PyTorch's outputs of compress as a graph gives them."""
    return None if made is None else {name: value.numpy() for name, value in made.items()}


def _as_past(outputs: dict[str, Array]) -> dict[str, Array]:
    cache = {n: v for n, v in outputs.items() if n.startswith("present_")}
    return {n.replace("present_", "past_"): v for n, v in cache.items()}
