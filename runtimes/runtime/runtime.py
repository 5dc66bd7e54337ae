"""A bundle on a device: all graphs made ready at load, over one set of buffers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from edgetok import names
from edgetok.bundle.manifest import Flavour, Manifest
from edgetok.bundle.reader import Bundle
from edgetok.errors import UsageError
from edgetok.ladder import Rung
from edgetok.runtimes.backends.backend import Backend, Graph
from edgetok.runtimes.backends.ort import OrtBackend
from edgetok.runtimes.backends.providers import ENGINE_DEVICES, provider_of
from edgetok.runtimes.runtime.cache import (
    CALL_COST,
    CacheRows,
    Chunks,
    HeldRows,
    choose_chunks,
    place_chunks,
)
from edgetok.runtimes.runtime.feeding import feed_prompt, feed_rows, feed_visual
from edgetok.runtimes.runtime.graphs import LoadedGraphs
from edgetok.runtimes.runtime.interface import SIGNAL_PREFIX, has_tower_per_rung
from edgetok.runtimes.runtime.protocol import FloatArray, Key, TextRows, TowerOutput, VisualTokens
from edgetok.runtimes.runtime.requirements import (
    loaded_ladder,
    require_cache,
    require_flavour,
    require_memory,
    require_pixels,
    require_rows,
    require_threads,
)


class BundleRuntime:
    """Implements `protocol.Runtime`.

    Args:
        bundle: an opened bundle.
        device: "cpu", "cuda", "ort-tensorrt" or "ort-rtx" in ONNX Runtime; "tensorrt" or "rtx" for
            engines without it.
        budgets: the rungs to load; all when None.
        threads: threads per operator; one per physical core when None.
        flavour: which of the bundle's graphs to run.
        precision: of matrix products in engines; other devices compute as the graphs say.

    Raises:
        UsageError: for an unknown device, rung, number of threads or flavour, or one that the
            bundle does not have.
        IncompatibleError: if ONNX Runtime or the provider is missing, or refuses a graph.
        ResourceError: if the machine has less free memory than the bundle needs.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str = "cpu",
        budgets: Iterable[int] | None = None,
        threads: int | None = None,
        flavour: Flavour = "ort",
        precision: str = "fp16",
    ) -> None:
        provider = None if device in ENGINE_DEVICES else provider_of(device)
        self.manifest: Manifest = bundle.manifest
        self.flavour = require_flavour(bundle.manifest, flavour)
        self.ladder = loaded_ladder(bundle.ladder, budgets)
        self.device = device
        self.threads = require_threads(threads)
        require_memory(bundle.manifest, self.ladder, flavour)
        self._rows = CacheRows(self.manifest.kv, self.manifest.text.max_positions)
        self._held = HeldRows()
        self._left: int | None = None
        self._backend: Backend
        if provider is None:
            from edgetok.runtimes.backends.tensorrt import (
                EngineBackend,
            )  # what builds them is large

            self._backend = EngineBackend(bundle, device, self.flavour, precision)
        else:
            require_cache(self.manifest, self.flavour, provider)
            self._backend = OrtBackend(bundle, provider, self.threads)
        self._loaded: LoadedGraphs | None = None
        self._loaded = LoadedGraphs(bundle, self.ladder, self.flavour, self._backend)

    @property
    def _graphs(self) -> LoadedGraphs:
        if self._loaded is None:
            raise UsageError("this model is closed; load the bundle again")
        return self._loaded

    def close(self) -> None:
        """Let go of graphs and memory; every later call raises UsageError."""
        if self._loaded is not None:
            self._loaded = None
            self._backend.close()

    def encode(self, pixels: FloatArray, rung: Rung | None = None) -> TowerOutput:
        """Run the tower on pixels [1, 3, h, w]; that of `rung` where each rung has its own.

        Raises:
            InputError: for another shape, or values that are not finite.
        """
        rung = rung or self.ladder.largest
        graph = self._graph("tower", rung)
        require_pixels(pixels, graph.inputs[names.PIXELS].host.shape)
        graph.inputs[names.PIXELS].write(pixels)
        graph.run()
        outputs = {name: buffer.pull() for name, buffer in graph.outputs.items()}
        signals = {n: float(v[0]) for n, v in outputs.items() if n.startswith(SIGNAL_PREFIX)}
        tensors = {n: v.copy() for n, v in outputs.items() if n not in signals}
        if not has_tower_per_rung(self.manifest):
            return TowerOutput(tensors, signals)
        return TowerOutput(tensors, signals, rung.budget, pixels.copy())

    def compress(
        self,
        image: TowerOutput,
        rung: Rung,
        text: TextRows | None = None,
        weights: FloatArray | None = None,
    ) -> VisualTokens:
        """Reduce encoded images to `rung.budget` visual tokens; `weights` are all 1 if None.

        Raises:
            UsageError: if the method looks at the prompt and there is none, or another rung's tower
                encoded the image.
            InputError: if the prompt has more rows than the graph has room for.
        """
        graph = self._graph("compress", rung)
        if image.budget not in (None, rung.budget):
            raise UsageError(
                f"the tower of {image.budget} visual tokens encoded this image; encode it for "
                f"{rung.budget}"
            )
        for name, buffer in graph.inputs.items():
            if name in names.OF_PROMPT:
                feed_prompt(name, buffer, text)
            elif name == names.PICTURE_WEIGHTS:
                buffer.write(np.ones_like(buffer.host) if weights is None else weights)
            else:
                buffer.write(image.tensors[name])
        graph.run()
        rows, kept, sizes = (
            graph.outputs[name].pull().copy()
            for name in (names.VISUAL_TOKENS, names.KEPT, names.SIZES)
        )
        deep = graph.outputs.get(names.VISUAL_DEEP)
        return VisualTokens(rows, kept, sizes, None if deep is None else deep.pull().copy())

    def embed(self, ids: list[int]) -> FloatArray:
        """Embeddings [len(ids), D], a view.

        Raises:
            InputError: if there are more ids than the graph has room for.
        """
        graph = self._graph("embed", self.ladder.smallest)
        buffer = graph.inputs[names.TOKEN_IDS]
        require_rows(len(ids), buffer.host.shape[0], "text tokens")
        buffer.host.fill(self.manifest.text.pad_id)
        buffer.host[: len(ids)] = ids
        buffer.push()
        graph.run()
        embeds: FloatArray = graph.outputs[names.TEXT_EMBEDS].pull()[: len(ids)]
        return embeds

    def prefill(
        self,
        rung: Rung,
        embeds: FloatArray,
        keys: Sequence[Key] = (),
        *,
        visual_start: int | None = None,
        visual: VisualTokens | None = None,
    ) -> FloatArray:
        """Fill the cache with a prompt [n, D]; logits [W] of its last row, a view.

        Args:
            keys: what the rows are, see `protocol.Runtime`.
            visual_start: the first visual row, for bundles that treat those apart.
            visual: the tokens that the visual rows are, where positions have three axes.

        Raises:
            InputError: if n is 0 or more than the rung has room for, or the rung's visual rows do
                not lie before the last row.
            UsageError: if the bundle takes rows away at prefill and `visual_start` is missing.
        """
        count = len(embeds)
        require_rows(count, rung.prefill_tokens, "prompt rows")
        graph = self._graphs.find_prompt(rung, count)
        feed_rows(graph.inputs[names.INPUT_EMBEDS], embeds)
        start = feed_visual(graph, rung.budget, count, visual_start, visual)
        self._held.forget()
        self._begin(graph, rung, count)
        graph.run()
        if (segments := self._graphs.segments).exits:
            graph, self._left = segments.follow(graph, rung, count, start)
            self._rows.begin(count, segments.removed(self._left, rung.budget))
        self._held.begin(keys)
        logits: FloatArray = graph.outputs[names.LOGITS].pull()[0]
        return logits

    def _begin(self, graph: Graph, rung: Rung, count: int) -> None:
        """Tell prefill how many rows each layer will hold of a prompt of `count`."""
        spec = next(r for r in self.manifest.ladder if r.budget == rung.budget)
        lengths = count - np.array(spec.removed, np.int32)
        graph.inputs[names.LAST_ROW].write(lengths[-1:] - 1)
        graph.inputs[names.PAST_LENGTHS].write(lengths - 1)
        self._rows.begin(count, spec.removed, spec.shift)

    @property
    def exit_layer(self) -> int | None:
        """The layer before which visual rows left the last prompt; None where none asks."""
        return self._left

    def count_held(self, keys: Sequence[Key]) -> int:
        """How many of a prompt's first rows need not be computed again; fewer than all of them."""
        if self.manifest.kv.reuse == "nothing":
            return 0
        shared = min(self._held.count_shared(keys), len(keys) - 1)
        text_follows = all(isinstance(key, int) for key in keys[shared:])
        if self._may_rewind:
            return shared if text_follows or len(keys) >= min(self._graphs.extend, default=1) else 0
        # Rows that are gone were chosen by all that came before: only more can be put after.
        return shared if text_follows and shared == len(self._held) else 0

    def prefill_cost(self, rung: Rung, rows: int) -> float:
        """What `prefill` of so many rows takes: a call, and all rows of the graph that it runs."""
        graph = self._graphs.find_prompt(rung, rows)
        return CALL_COST + float(graph.inputs[names.INPUT_EMBEDS].host.shape[1])

    def extend_cost(self, start: int, keys: Sequence[Key]) -> float:
        """What `extend` of these rows from `start` on takes, in rows of a prefill."""
        return self._chunks(start, keys).cost

    def extend(self, embeds: FloatArray, start: int, keys: Sequence[Key]) -> FloatArray:
        """Put rows of a prompt [n, D] from `start` on after those before; logits [W], a view.

        Raises:
            UsageError: if `count_held` does not allow `start`.
            InputError: if the cache has no room for them.
        """
        if not 1 <= start <= self.count_held(keys):
            raise UsageError(f"the cache does not hold the first {start} rows of this prompt")
        if self._may_rewind:
            self._rows.rewind(start)
            self._held.cut(start)
        self._rows.require_left(len(keys) - start)
        logits: FloatArray = np.zeros(0, np.float32)
        chunks = self._chunks(start, keys)
        for at, width in place_chunks(start, len(keys) - chunks.steps, chunks.widths):
            logits = self._put(embeds[at : at + width], at, keys[at : at + width])
        for key in keys[len(self._held) :]:
            logits = self.step(key)  # type: ignore[arg-type]  # text, as `count_held` requires
        return logits

    def _chunks(self, start: int, keys: Sequence[Key]) -> Chunks:
        """The cheapest way to put the rows from `start` on."""
        images = (i for i in range(len(keys), start, -1) if not isinstance(keys[i - 1], int))
        given = start, len(keys), tuple(self._graphs.extend)
        steps = len(keys) - next(images, start)
        return choose_chunks(*given, overlapping=self._may_rewind, steps=steps)

    def forget(self) -> None:
        """Compute the next prompt from its first row on."""
        self._held.forget()

    @property
    def rows_left(self) -> int:
        """Tokens that can still be appended to the cache."""
        return self._rows.left

    def step(self, token_id: int) -> FloatArray:
        """Append a token to what the cache holds; logits [W], a view.

        Raises:
            InputError: if the cache is full.
        """
        graph = self._graphs.decode
        self._rows.require_left(1)
        self._graphs.room.make_room(self._rows)
        inputs = graph.inputs
        inputs[names.TOKEN_ID].write(np.array([[token_id]], np.int64))
        inputs[names.PAST_LENGTHS].write(self._rows.lengths)
        inputs[names.POSITIONS].write(self._rows.positions)
        graph.run()
        self._rows.append()
        self._held.append([token_id])
        logits: FloatArray = graph.outputs[names.LOGITS].pull()[0]
        return logits

    def _put(self, chunk: FloatArray, at: int, keys: Sequence[Key]) -> FloatArray:
        """A chunk [R, D] after the first `at` rows, some of which it may write once more."""
        if at < len(self._held):
            self._rows.rewind(at)
            self._held.cut(at)
        graph = self._graphs.extend[len(chunk)]
        inputs = graph.inputs
        inputs[names.CHUNK_EMBEDS].write(chunk[None])
        inputs[names.PAST_LENGTHS].write(self._rows.lengths + np.int32(len(chunk) - 1))
        inputs[names.CHUNK_POSITIONS].write(self._rows.next_positions(len(chunk)))
        graph.run()
        self._rows.append(len(chunk))
        self._held.append(keys)
        logits: FloatArray = graph.outputs[names.LOGITS].pull()[0]
        return logits

    @property
    def _may_rewind(self) -> bool:
        """Whether the cache may be cut after any row, and every layer has all rows until there."""
        return self.manifest.kv.reuse == "rewind" and self._rows.are_whole

    def _graph(self, stage: str, rung: Rung) -> Graph:
        return self._graphs.find(stage, rung)
