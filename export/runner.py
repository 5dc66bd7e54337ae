"""Runs exported graphs one by one for the parity gate, straight through ONNX Runtime.

It is deliberately not the runtime that ships: buffers are copied at each call, and nothing is
shared with `edgetok.runtimes`, so that a fault there cannot hide a fault here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from edgetok import names
from edgetok.export.graphs import Graph

Array = npt.NDArray[Any]


class GraphRunner:
    """Sessions over the graphs of a bundle that is not published yet.

    Args:
        root: directory that holds `weights/model.bin`.
    """

    def __init__(self, graphs: Iterable[Graph], root: Path) -> None:
        self._sessions: dict[tuple[str, int | None], Any] = {}
        self._shapes: dict[str, tuple[list[int], str]] = {}
        for graph in graphs:
            options = ort.SessionOptions()
            options.log_severity_level = 3
            # PyTorch works between two calls; threads that spin meanwhile would take its cores.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            folder = "session.model_external_initializers_file_folder_path"
            options.add_session_config_entry(folder, str(root))
            # As the runtime ships them: packed and unpacked kernels round int8 rows differently.
            unpacked = "0" if graph.stage.stage == "decode" else "1"
            options.add_session_config_entry("session.disable_prepacking", unpacked)
            session = ort.InferenceSession(graph.data, options, providers=["CPUExecutionProvider"])
            self._sessions[graph.stage.stage, graph.stage.bucket] = session
            for spec in graph.stage.inputs:
                self._shapes[spec.name] = (spec.shape, spec.dtype)

    def run(self, stage: str, bucket: int | None, feeds: dict[str, Array]) -> dict[str, Array]:
        """Run a rung's graph, or the shared one; inputs that it does not have are left out."""
        own = (stage, bucket)
        session = self._sessions[own if own in self._sessions else (stage, None)]
        wanted = [value.name for value in session.get_inputs()]
        found = [value.name for value in session.get_outputs()]
        values = session.run(found, {name: feeds[name] for name in wanted})
        return dict(zip(found, values, strict=True))

    def read_prompt(self, ids: Sequence[int], question: range) -> dict[str, Array]:
        """What text-aware methods read, by name: ids through the embed graph, and their mask."""
        (rows,), _ = self._shapes[names.TOKEN_IDS]
        padded, mask = np.zeros(rows, np.int64), np.zeros(rows, np.float32)
        padded[: len(ids)] = ids
        mask[question.start : question.stop] = 1.0
        return self.run("embed", None, {names.TOKEN_IDS: padded}) | {names.TEXT_MASK: mask}

    def pad_prompt(self, feeds: dict[str, Array]) -> dict[str, Array]:
        """Feeds with the rows of the prompt brought to the length that a graph has for them.

        Ones stand behind the prompt, which no embedding table holds: what reads them is wrong.
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

    def answer(self, budget: int, embeds: Array, new_tokens: int, stop_ids: tuple[int, ...]) -> Any:
        """Greedy decoding of true rows [n, D] -> logits [steps, W] and ids."""
        rows, count = self._pad(budget, embeds), embeds.shape[0]
        feeds = self._empty_cache() | {
            names.INPUT_EMBEDS: rows,
            names.LAST_ROW: np.array([count - 1], np.int64),
            names.PAST_LENGTHS: np.full(self._layers, count - 1, np.int32),
        }
        out = self.run("prefill", budget, feeds)
        logits, ids = [out[names.LOGITS][0]], [int(out[names.LOGITS].argmax())]
        while len(ids) < new_tokens and ids[-1] not in stop_ids:
            step: dict[str, Array] = {
                names.TOKEN_ID: np.array([[ids[-1]]], np.int64),
                names.PAST_LENGTHS: np.full(self._layers, count, np.int32),
                names.POSITIONS: np.full((self._layers, 1), count, np.int64),
            }
            out = self.run("decode", None, step | _as_past(out))
            logits.append(out[names.LOGITS][0])
            ids.append(int(out[names.LOGITS].argmax()))
            count += 1
        return np.stack(logits), ids

    def extend(self, budget: int, embeds: Array, start: int) -> tuple[Array, Array]:
        """Rows before `start` by prefill, a chunk behind them, then a greedy step.

        `embeds` [n, D] must end with the chunk. Returns the logits [W] of chunk and step.
        """
        width = self.chunk_rows
        feeds = self._empty_cache() | {
            names.INPUT_EMBEDS: self._pad(budget, embeds[:start]),
            names.LAST_ROW: np.array([start - 1], np.int64),
            names.PAST_LENGTHS: np.full(self._layers, start - 1, np.int32),
        }
        chunk: dict[str, Array] = {
            names.CHUNK_EMBEDS: embeds[None, start:],
            names.PAST_LENGTHS: np.full(self._layers, start + width - 1, np.int32),
            names.CHUNK_POSITIONS: np.tile(np.arange(start, start + width), (self._layers, 1)),
        }
        extended = self.run("extend", None, chunk | _as_past(self.run("prefill", budget, feeds)))
        step: dict[str, Array] = {
            names.TOKEN_ID: extended[names.LOGITS].argmax(-1, keepdims=True).astype(np.int64),
            names.PAST_LENGTHS: np.full(self._layers, start + width, np.int32),
            names.POSITIONS: np.full((self._layers, 1), start + width, np.int64),
        }
        stepped = self.run("decode", None, step | _as_past(extended))
        return extended[names.LOGITS][0], stepped[names.LOGITS][0]

    @property
    def chunk_rows(self) -> int:
        """Rows that the extend graph takes at once."""
        shape, _ = self._shapes[names.CHUNK_EMBEDS]
        return shape[1]

    @property
    def _layers(self) -> int:
        shape, _ = self._shapes[names.PAST_LENGTHS]
        return shape[0]

    def _pad(self, budget: int, embeds: Array) -> Array:
        inputs = self._sessions["prefill", budget].get_inputs()
        shape = next(value.shape for value in inputs if value.name == names.INPUT_EMBEDS)
        rows = np.zeros(shape, np.float32)
        rows[0, : embeds.shape[0]] = embeds
        return rows

    def _empty_cache(self) -> dict[str, Array]:
        return {
            name: np.zeros(shape, dtype)
            for name, (shape, dtype) in self._shapes.items()
            if name.startswith("past_") and name != names.PAST_LENGTHS
        }


def _as_past(outputs: dict[str, Array]) -> dict[str, Array]:
    return {n.replace("present_", "past_"): v for n, v in outputs.items() if n != names.LOGITS}
