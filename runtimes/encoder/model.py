"""A loaded bundle of an encoder: images in, classes, embeddings, scores or maps out."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from edgetok import limits, names
from edgetok.bundle.encoders import EncoderManifest, Scores, Similarity
from edgetok.bundle.manifest import Flavour
from edgetok.bundle.processor import IMAGE_FILE, ImagePlan, parse_image_plan
from edgetok.bundle.reader import EncoderBundle
from edgetok.errors import InputError, UsageError
from edgetok.images.preprocess import preprocess
from edgetok.images.reading import ImageInput
from edgetok.runtimes.backends.backend import Backend
from edgetok.runtimes.backends.ort import OrtBackend
from edgetok.runtimes.backends.providers import provider_of
from edgetok.runtimes.encoder.requirements import (
    read_tokenizer,
    require_budgets,
    require_flavour,
    require_memory,
)
from edgetok.runtimes.runtime.protocol import FloatArray, IdArray
from edgetok.runtimes.runtime.requirements import WEIGHTS_PREFIX, require_pixels, require_threads


@dataclass(frozen=True, slots=True)
class Encoding:
    """What an encoder made of an image.

    Attributes:
        output: [...], without the dimension of images; see the task of the bundle.
        kept: int64 [K], the patch that each row left is centred on, or -1.
        sizes: float32 [K], how many patches each stands for.
        budget: K.
        milliseconds: of preprocessing and of the graph, by name.
    """

    output: FloatArray
    kept: IdArray
    sizes: FloatArray
    budget: int
    milliseconds: dict[str, float]


@dataclass(frozen=True, slots=True)
class Score:
    """How likely a class or a text is."""

    label: str
    probability: float
    logit: float


class Encoder:
    """A bundle without a language model, loaded; made by `load_encoder`. One call at a time.

    Args:
        bundle: an opened bundle.
        device: "cpu" or "cuda".
        budgets: the rungs to load; all when None.
        threads: threads per operator; one per physical core when None.
        flavour: which of the bundle's graphs to run.
    """

    def __init__(
        self,
        bundle: EncoderBundle,
        *,
        device: str = "cpu",
        budgets: Iterable[int] | None = None,
        threads: int | None = None,
        flavour: Flavour = "ort",
    ) -> None:
        self.manifest: EncoderManifest = bundle.manifest
        self.digest, self.device = bundle.digest, device
        self.budgets = require_budgets(bundle, budgets)
        self.threads = require_threads(threads)
        require_flavour(self.manifest, flavour)
        require_memory(self.manifest)
        self._plan: ImagePlan = parse_image_plan(bundle.read(IMAGE_FILE))
        self._tokenizer = read_tokenizer(bundle)
        self._backend: Backend = OrtBackend(bundle, provider_of(device), self.threads)
        bind = self._backend.bind
        self._graphs = {k: bind(bundle.stage(names.ENCODE, k, flavour)) for k in self.budgets[::-1]}
        text = self.manifest.text is not None
        self._describe = bind(bundle.stage(names.DESCRIBE, 0, flavour)) if text else None
        for path in self.manifest.files:  # sessions opened weights by name: still those hashed?
            if path.startswith(WEIGHTS_PREFIX):
                bundle.path_of(path)
        self._in_use = threading.Lock()
        self._is_closed = False

    def close(self) -> None:
        """Let go of graphs and memory; calls that need a graph raise UsageError from now on."""
        with self._in_use:
            if not self._is_closed:
                self._is_closed, self._graphs, self._describe = True, {}, None
                self._backend.close()

    def __enter__(self) -> Encoder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def task(self) -> str:
        """What the bundle is for: classify, embed, similarity, depth or segment."""
        return self.manifest.task

    def pixels(self, image: ImageInput) -> FloatArray:
        """Pixels [1, 3, h, w] of an image; see `preprocess.preprocess`."""
        return preprocess(image, self._plan)

    def encode(self, image: ImageInput, *, budget: int | None = None) -> Encoding:
        """Run a rung on an image; the largest when `budget` is None.

        Raises:
            InputError: if the image cannot be read.
            UsageError: for a rung that is not loaded.
        """
        started = time.perf_counter()
        pixels = self.pixels(image)
        seen = time.perf_counter()
        made = self.run(pixels, budget=budget)
        done = time.perf_counter()
        made.milliseconds.update(preprocess=1000 * (seen - started), encode=1000 * (done - seen))
        return made

    def run(self, pixels: FloatArray, *, budget: int | None = None) -> Encoding:
        """The same from pixels [1, 3, h, w] on, without times.

        Raises:
            InputError: for another shape, or values that are not finite.
        """
        budget = self.budgets[-1] if budget is None else budget
        if budget not in self.budgets:
            raise UsageError(
                f"the rung of {budget} patches is not loaded; loaded are {self.budgets}"
            )
        with self._opened():
            graph = self._graphs[budget]
            require_pixels(pixels, graph.inputs[names.PIXELS].host.shape)
            graph.inputs[names.PIXELS].write(pixels)
            graph.run()
            found = {name: buffer.pull().copy() for name, buffer in graph.outputs.items()}
        output = found[self.manifest.output.name][0]
        return Encoding(output, found[names.KEPT], found[names.SIZES], budget, {})

    def describe(self, text: str) -> FloatArray:
        """The embedding [E] of a text, of length 1.

        Raises:
            UsageError: if the bundle knows no texts.
            InputError: if the text is too long or no valid Unicode.
        """
        ids = self.read_text(text)
        with self._opened():
            graph = self._describe
            assert graph is not None  # noqa: S101  # as reading has seen
            graph.inputs[names.TOKEN_IDS].write(ids[None])
            graph.run()
            made: FloatArray = graph.outputs[names.TEXT_EMBEDDING].pull()[0].copy()
        return made

    def read_text(self, text: str) -> IdArray:
        """Token ids [T] of a text, padded; errors are those of `describe`."""
        if self._tokenizer is None or self.manifest.text is None:
            raise UsageError(f"this bundle's task is {self.task}, which takes no texts")
        try:
            size_bytes = len(text.encode())
        except UnicodeEncodeError as error:
            raise InputError(f"the text is no valid Unicode: {error.reason}") from error
        if size_bytes > limits.PROMPT_BYTES:
            raise InputError(
                f"a text has {size_bytes} bytes; at most {limits.PROMPT_BYTES} are read"
            )
        ids, most = self._tokenizer.encode(text).ids, self.manifest.text.tokens
        if len(ids) != most:
            raise InputError(f"a text has {len(ids)} tokens; this model reads up to {most}")
        return np.array(ids, np.int64)

    def classify(self, image: ImageInput, *, budget: int | None = None) -> list[Score]:
        """All classes, the likeliest first.

        Raises:
            UsageError: if the bundle does not classify.
        """
        self._require("classify")
        return self.rank(self.encode(image, budget=budget))

    def rank(self, made: Encoding) -> list[Score]:
        """The classes of an encoding that is already there, the likeliest first."""
        logits = made.output.astype(np.float64)
        return _ranked(self.manifest.labels, share_out(logits, self.manifest.scores), logits)

    def compare(
        self, image: ImageInput, texts: Sequence[str], *, budget: int | None = None
    ) -> list[Score]:
        """How well each text goes with the image, the best first.

        Raises:
            UsageError: if the bundle does not compare, or there are no texts.
        """
        return self.rank_texts(self.encode(image, budget=budget), texts)

    def rank_texts(self, made: Encoding, texts: Sequence[str]) -> list[Score]:
        """The same for an encoding that is already there."""
        self._require("similarity")
        if not texts or self.manifest.text is None:
            raise UsageError("there is nothing to compare the picture with; give texts")
        cosines = np.array([self.describe(text) @ made.output for text in texts], np.float64)
        logits, shares = score(cosines, self.manifest.text.similarity)
        return _ranked(texts, shares, logits)

    @contextmanager
    def _opened(self) -> Iterator[None]:
        """The graphs, for one call at a time."""
        with self._in_use:
            if self._is_closed:
                raise UsageError("this encoder is closed; load the bundle again")
            yield

    def _require(self, task: str) -> None:
        if self.task != task:
            raise UsageError(f"this bundle's task is {self.task}, not {task}")


def score(cosines: Any, similarity: Similarity) -> tuple[Any, Any]:
    """Cosines [n] to logits [n] and probabilities [n]."""
    logits = similarity.scale * cosines + similarity.bias
    return logits, share_out(logits, similarity.kind)


def share_out(logits: Any, kind: Scores) -> Any:
    """Logits [n] to what is shown of them [n]."""
    if kind == "none":
        return logits
    if kind == "sigmoid":
        return np.exp(-np.logaddexp(0, -logits))
    shares = np.exp(logits - logits.max())
    return shares / shares.sum()


def load_encoder(
    bundle: str | os.PathLike[str] | EncoderBundle,
    device: str = "cpu",
    *,
    budgets: Iterable[int] | None = None,
    threads: int | None = None,
    flavour: Flavour = "ort",
) -> Encoder:
    """Open the bundle of an encoder, check it and make all its sessions.

    Raises:
        BundleError: if the bundle is incomplete, malformed or damaged.
        IncompatibleError: if ONNX Runtime or the device's provider is missing.
        ResourceError: if there is too little memory.
        UsageError: if the bundle answers questions; for an unknown device, rung or flavour.
    """
    opened = bundle if isinstance(bundle, EncoderBundle) else EncoderBundle.open(Path(bundle))
    return Encoder(opened, device=device, budgets=budgets, threads=threads, flavour=flavour)


def _ranked(labels: Sequence[str], shares: Any, logits: Any) -> list[Score]:
    order = np.argsort(-shares, kind="stable")
    return [Score(labels[i], float(shares[i]), float(logits[i])) for i in order]
