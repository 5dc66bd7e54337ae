"""From an image and a prompt to an answer, written once over the protocol."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Literal

import numpy as np

from edgetok.bundle.manifest import Manifest
from edgetok.control import BenchTable, Fixed, load_table
from edgetok.errors import UsageError
from edgetok.ladder import Bucket, Ladder
from edgetok.runtimes.answer import Answer, Clock, Progress, Stopwatch
from edgetok.runtimes.interface import has_tower_per_rung
from edgetok.runtimes.preprocess import ImageInput
from edgetok.runtimes.processor import Processor
from edgetok.runtimes.prompt import Detokenizer, Prompt, require_prompt_fits
from edgetok.runtimes.protocol import FloatArray, Runtime, TextRows, VisualTokens
from edgetok.runtimes.request import Choice, EncodedImage, Request, Signal
from edgetok.runtimes.sampling import Sampler, Sampling


class Stream:
    """Pieces of text as they are generated. Closing it cancels; `answer` is there at the end."""

    def __init__(self, pieces: Generator[str, None, None], progress: Progress) -> None:
        self._pieces = pieces
        self._progress = progress

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop generating; the model is free for the next question."""
        self._pieces.close()
        if self._progress.stop_reason is None:
            self._progress.stop_reason = "cancelled"

    @property
    def answer(self) -> Answer:
        """The answer, once the stream has ended or was closed.

        Raises:
            UsageError: before that.
        """
        return self._progress.answer()


class Model:
    """A loaded bundle that answers questions about images, one at a time.

    Args:
        runtime: where the graphs run.
        processor: of the same bundle.
        digest: the bundle's.
        tables: finds what `edgetok bench` measured, by the bundle's digest and the device.
        clock: seconds, monotonic; tests bring their own.
    """

    def __init__(
        self,
        runtime: Runtime,
        processor: Processor,
        digest: str,
        *,
        tables: Callable[[str, str], BenchTable] = load_table,
        clock: Clock = time.perf_counter,
    ) -> None:
        self.runtime = runtime
        self.processor = processor
        self.digest = digest
        self._tables = tables
        self._clock = clock
        self._in_use = threading.Lock()

    @property
    def manifest(self) -> Manifest:
        return self.runtime.manifest

    @property
    def ladder(self) -> Ladder:
        """The rungs that are loaded."""
        return self.runtime.ladder

    @property
    def device(self) -> str:
        return self.runtime.device

    def encode(self, image: ImageInput, *, budget: int | None = None) -> EncodedImage:
        """Run the tower once; give the result to `generate` in place of the image.

        Args:
            budget: the rung to encode for, where the method acts inside the tower and each rung
                has its own; the largest when None. Another rung then encodes the image again.

        Raises:
            InputError: if the image cannot be read.
            UsageError: for an unknown rung, or while a stream of this model is open.
        """
        bucket = None if budget is None else self.ladder.bucket(budget)
        with self._exclusive():
            return self._encode(image, Stopwatch(self._clock), bucket)

    def generate(
        self,
        image: ImageInput | EncodedImage,
        prompt: str,
        *,
        budget: int | None = None,
        max_ttft_ms: float | None = None,
        max_memory_mib: float | None = None,
        signal: Signal | None = None,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> Answer:
        """Answer a question about an image; arguments and errors as in `stream`."""
        stream = self.stream(
            image,
            prompt,
            budget=budget,
            max_ttft_ms=max_ttft_ms,
            max_memory_mib=max_memory_mib,
            signal=signal,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
        )
        for _ in stream:
            pass
        return stream.answer

    def stream(
        self,
        image: ImageInput | EncodedImage,
        prompt: str,
        *,
        budget: int | None = None,
        max_ttft_ms: float | None = None,
        max_memory_mib: float | None = None,
        signal: Signal | None = None,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> Stream:
        """Answer piece by piece. Nothing runs before the first piece is asked for.

        Args:
            image: a path, the bytes of a file, a Pillow image, an array uint8 [H, W, 3], or what
                `encode` returned.
            prompt: the user's text; control tokens in it are plain text.
            budget: the rung to use. Or give limits, which need `edgetok bench` to have run here,
                or a signal; without any of them the largest rung answers.
            max_ttft_ms: limit for the time to the first token.
            max_memory_mib: limit for the memory of the process.
            signal: "elbow" lets the image choose.
            max_new_tokens: as many as the rung was exported for when None.
            temperature, top_p, seed: see `sampling.Sampling`.

        Raises:
            UsageError: for options that are out of range or contradict each other, or, at the
                first piece, while another stream of this model is open.
            InputError: at the first piece, if image or prompt is rejected.
        """
        choice = Choice(budget, max_ttft_ms, max_memory_mib, signal)
        policy = choice.policy(self.ladder, lambda: self._tables(self.digest, self.device))
        request = Request(policy, Sampling(temperature, top_p, seed), max_new_tokens)
        progress = Progress(Stopwatch(self._clock))
        return Stream(self._run(image, prompt, request, progress), progress)

    def first_logits(
        self, image: ImageInput | EncodedImage, prompt: str, *, budget: int
    ) -> FloatArray:
        """Logits [W] from which the first token of an answer is chosen, a copy.

        Raises:
            UsageError: for an unknown rung, or while a stream of this model is open.
            InputError: if image or prompt is rejected.
        """
        request = Request(Fixed(budget), Sampling(), None)
        with self._exclusive():
            return self._begin(image, prompt, request, Progress(Stopwatch(self._clock))).copy()

    def compress(self, image: EncodedImage, prompt: str, *, budget: int) -> VisualTokens:
        """The visual tokens that a rung makes of an encoded image for this prompt.

        Raises:
            UsageError: for an unknown rung, an image that another bundle encoded, or while a
                stream of this model is open.
            InputError: if the prompt is rejected.
        """
        bucket = self.ladder.bucket(budget)
        encoded = self._encoded(image, Stopwatch(self._clock), bucket)
        tokens = self.processor.encode(prompt)
        require_prompt_fits(tokens, bucket.prompt_tokens)
        with self._exclusive():
            return self.runtime.compress(encoded.output, bucket, self._embed(tokens))

    def _run(
        self, image: ImageInput | EncodedImage, text: str, request: Request, progress: Progress
    ) -> Generator[str, None, None]:
        sampler = request.sampling.sampler()
        with self._exclusive():
            with progress.watch.measure("ttft"):
                logits = self._begin(image, text, request, progress)
                token_id = self._choose(logits, sampler, progress)
            yield from self._decode(token_id, sampler, progress)

    def _begin(
        self, image: ImageInput | EncodedImage, text: str, request: Request, progress: Progress
    ) -> FloatArray:
        """Everything up to the first logits [W]."""
        watch = progress.watch
        with watch.measure("tokenize"):
            prompt = self.processor.encode(text)
        progress.prompt_tokens = prompt.tokens
        require_prompt_fits(prompt, max(bucket.prompt_tokens for bucket in self.ladder))
        bucket = None
        if has_tower_per_rung(self.manifest):  # its tower is known only when the rung is
            progress.decision = request.policy.choose(self.ladder, {})
            bucket = progress.decision.bucket
        encoded = self._encoded(image, watch, bucket)
        progress.signals = encoded.output.signals
        if bucket is None:
            progress.decision = request.policy.choose(self.ladder, encoded.output.signals)
            bucket = progress.decision.bucket
        progress.max_new_tokens = request.max_new_tokens or bucket.new_tokens
        require_prompt_fits(prompt, bucket.prompt_tokens)
        with watch.measure("embed"):
            written = self._embed(prompt)
        with watch.measure("compress"):
            visual = self.runtime.compress(encoded.output, bucket, written)
        progress.kept = tuple(visual.kept.tolist())
        with watch.measure("prefill"):
            embeds = _assemble(prompt, written.rows, visual.rows)
            return self.runtime.prefill(bucket, embeds, len(prompt.before))

    def _decode(
        self, token_id: int | None, sampler: Sampler, progress: Progress
    ) -> Generator[str, None, None]:
        """Yield the text of `token_id` and of all that follow."""
        detokenizer = Detokenizer(self.processor.tokenizer)
        piece = "" if token_id is None else detokenizer.push(token_id)
        while token_id is not None:
            yield from progress.show(piece)
            progress.stop_reason = self._exhausted(progress)
            if progress.stop_reason is not None:
                break
            with progress.watch.measure("decode_total"):
                logits = self.runtime.step(token_id)
                token_id = self._choose(logits, sampler, progress)
                piece = "" if token_id is None else detokenizer.push(token_id)
        yield from progress.show(detokenizer.flush())

    def _choose(self, logits: FloatArray, sampler: Sampler, progress: Progress) -> int | None:
        """The next token, or None with the reason noted."""
        if not np.isfinite(logits).all():
            progress.stop_reason = "numeric"
            return None
        token_id = sampler(logits)
        progress.add_token(token_id, logits)
        if token_id in self.manifest.text.stop_ids:
            progress.stop_reason = "stop"
            return None
        return token_id

    def _exhausted(self, progress: Progress) -> Literal["length", "cache"] | None:
        """Why no further token may be generated, if so."""
        if len(progress.token_ids) >= progress.max_new_tokens:
            return "length"
        if self.runtime.rows_left < 1:
            return "cache"
        return None

    def _encoded(
        self, image: ImageInput | EncodedImage, watch: Stopwatch, bucket: Bucket | None
    ) -> EncodedImage:
        if not isinstance(image, EncodedImage):
            return self._encode(image, watch, bucket)
        if image.digest != self.digest:
            raise UsageError("the image was encoded by another bundle; encode it with this one")
        return image

    def _encode(self, image: ImageInput, watch: Stopwatch, bucket: Bucket | None) -> EncodedImage:
        with watch.measure("preprocess"):
            pixels = self.processor.pixels(image)
        with watch.measure("tower"):
            return EncodedImage(self.runtime.encode(pixels, bucket), self.digest)

    def _embed(self, prompt: Prompt) -> TextRows:
        return TextRows(self.runtime.embed([*prompt.before, *prompt.after]), prompt.question)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        # Waiting would deadlock a thread that forgot to close its own stream.
        if not self._in_use.acquire(blocking=False):
            raise UsageError(
                "this model is answering already and has one KV cache; read that stream to its "
                "end, close it, or load the bundle again"
            )
        try:
            yield
        finally:
            self._in_use.release()


def _assemble(prompt: Prompt, text: FloatArray, visual: FloatArray) -> FloatArray:
    """Rows [n, D] of the prompt with the visual tokens [K, D] in their place."""
    split = len(prompt.before)
    return np.concatenate([text[:split], visual, text[split:]])
