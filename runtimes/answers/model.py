"""A loaded bundle and all that may be asked of it, written once over the protocol."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager

from edgetok.bundle.manifest import Manifest
from edgetok.control import Fixed, load_table
from edgetok.control.thumbnail import describe
from edgetok.errors import UsageError
from edgetok.ladder import Ladder
from edgetok.runtimes.answers.answer import Answer, Clock, Progress, Stopwatch
from edgetok.runtimes.answers.choosing import Chooser, Tables
from edgetok.runtimes.answers.conversation import Conversation
from edgetok.runtimes.answers.request import Choice, EncodedImage, Request, Signal
from edgetok.runtimes.answers.steps import Pipeline
from edgetok.runtimes.answers.stream import Stream
from edgetok.runtimes.images.preprocess import ImageInput
from edgetok.runtimes.images.several import Pictures, require_weights
from edgetok.runtimes.processor import Processor
from edgetok.runtimes.runtime.protocol import FloatArray, Runtime, VisualTokens
from edgetok.runtimes.text.prompt import Prompt, require_prompt_fits
from edgetok.runtimes.text.sampling import Sampling


class Model:
    """A loaded bundle that answers questions about images, one at a time.

    Args:
        runtime: where the graphs run.
        processor: of the same bundle.
        digest: of what answers in the bundle, see `bundle.manifest.digest_content`.
        tables: finds what `edgetok bench` measured, by the bundle's digest and the device.
        clock: seconds, monotonic; tests bring their own.
    """

    def __init__(
        self,
        runtime: Runtime,
        processor: Processor,
        digest: str,
        *,
        tables: Tables = load_table,
        clock: Clock = time.perf_counter,
    ) -> None:
        self.runtime = runtime
        self.processor = processor
        self.digest = digest
        self._clock = clock
        self._chooser = Chooser(runtime, digest, tables)
        self._pipeline = Pipeline(runtime, processor, digest)
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

    @property
    def session(self) -> str:
        """A name of its own for this load: what limits learn lives as long."""
        return self._chooser.session

    def encode(self, image: Pictures, *, budget: int | None = None) -> EncodedImage:
        """Run the tower once for each picture; give the result to `generate` in their place.

        Args:
            image: one picture, or a list of them where prompts of the bundle have several.
            budget: the rung to encode for, where the method acts inside the tower and each rung
                has its own; the largest when None. Another rung then encodes the image again.

        Raises:
            InputError: if the image cannot be read.
            UsageError: for an unknown rung, or while a stream of this model is open.
        """
        bucket = None if budget is None else self.ladder.bucket(budget)
        with self._exclusive():
            return self._pipeline.encoded(image, Stopwatch(self._clock), bucket)

    def generate(
        self,
        image: Pictures | EncodedImage,
        prompt: str,
        *,
        budget: int | None = None,
        max_ttft_ms: float | None = None,
        max_memory_mib: float | None = None,
        max_energy_j: float | None = None,
        signal: Signal | None = None,
        weights: Sequence[float] | None = None,
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
            max_energy_j=max_energy_j,
            signal=signal,
            weights=weights,
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
        image: Pictures | EncodedImage,
        prompt: str,
        *,
        budget: int | None = None,
        max_ttft_ms: float | None = None,
        max_memory_mib: float | None = None,
        max_energy_j: float | None = None,
        signal: Signal | None = None,
        weights: Sequence[float] | None = None,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> Stream:
        """Answer piece by piece. Nothing runs before the first piece is asked for.

        Args:
            image: a path, the bytes of a file, a Pillow image, an array uint8 [H, W, 3], a list of
                these where prompts of the bundle have several, or what `encode` returned.
            prompt: the user's text; control tokens in it are plain text.
            budget: the rung to use. Or give limits, which need `edgetok bench` to have run here,
                or a signal; without any of them the bundle's certified controller chooses, if
                it has one, all its rungs are loaded and the temperature is 0; else the largest
                rung answers.
            max_ttft_ms: limit for the time to the first token.
            max_memory_mib: limit for the memory of the process.
            max_energy_j: limit for the energy of an answer, on devices that tell it.
            signal: "elbow" lets the image choose.
            weights: of each picture, by which some methods divide the budget; all alike when None.
            max_new_tokens: as many as the rung was exported for when None.
            temperature, top_p, seed: see `sampling.Sampling`.

        Raises:
            UsageError: for options that are out of range or contradict each other, or, at the
                first piece, while another stream of this model is open.
            InputError: at the first piece, if image or prompt is rejected.
        """
        choice = Choice(budget, max_ttft_ms, max_memory_mib, signal, max_energy_j)
        policy = self._chooser.policy(choice, temperature)
        shares = require_weights(self.manifest, weights)
        request = Request(policy, Sampling(temperature, top_p, seed), max_new_tokens, shares)
        progress = Progress(Stopwatch(self._clock))
        return Stream(self._run(image, prompt, request, progress), progress)

    def first_logits(
        self, image: Pictures | EncodedImage, prompt: str, *, budget: int
    ) -> FloatArray:
        """Logits [W] from which the first token of an answer is chosen, a copy.

        Raises:
            UsageError: for an unknown rung, or while a stream of this model is open.
            InputError: if image or prompt is rejected.
        """
        request = Request(Fixed(budget), Sampling(), None)
        progress = Progress(Stopwatch(self._clock))
        with self._exclusive():
            rows = self._pipeline.open(image, prompt, request, progress)
            return self._pipeline.fill(rows, progress.bucket, progress).copy()

    def describe(self, image: ImageInput) -> list[float]:
        """The cells of an image's thumbnail (`control.thumbnail`); raises InputError."""
        return describe(self.processor.pixels(image))

    def question_ids(self, prompt: str) -> tuple[int, ...]:
        """Token ids of the user's own text, as a controller sees them; raises InputError."""
        return self.processor.encode(prompt).question_ids

    def compress(self, image: EncodedImage, prompt: str, *, budget: int) -> VisualTokens:
        """The visual tokens that a rung makes of an encoded image for this prompt.

        Raises:
            UsageError: for an unknown rung, an image that another bundle encoded, or while a
                stream of this model is open.
            InputError: if the prompt is rejected.
        """
        bucket = self.ladder.bucket(budget)
        tokens = self.processor.encode(prompt)
        require_prompt_fits(tokens, bucket.prompt_tokens)
        with self._exclusive():
            encoded = self._pipeline.encoded(image, Stopwatch(self._clock), bucket)
            return self._pipeline.compress(encoded, bucket, tokens)

    def converse(
        self,
        image: Pictures | EncodedImage,
        *,
        budget: int | None = None,
        max_ttft_ms: float | None = None,
        max_memory_mib: float | None = None,
        max_energy_j: float | None = None,
        signal: Signal | None = None,
    ) -> Conversation:
        """Talk about an image in several turns; nothing runs before the first question.

        Arguments as in `stream`; the rung is chosen once, at the first question. Between two turns
        the model may answer other questions, after which the next turn takes longer.

        Raises:
            UsageError: for options that are out of range or contradict each other, or if the
                model's chat template has no later turns.
        """
        choice = Choice(budget, max_ttft_ms, max_memory_mib, signal, max_energy_j)
        policy = self._chooser.policy(choice, certified=False)
        self.processor.encode_turn("")  # says whether there can be a second turn
        return Conversation(self._pipeline, image, policy, self._exclusive, self._clock)

    def forget(self) -> None:
        """Have the next answer computed from its first row on, for the measure of it.

        Without this, rows that its prompt shares with the one before it are taken from the cache.

        Raises:
            UsageError: while a stream of this model is open.
        """
        with self._exclusive():
            self.runtime.forget()

    def _run(
        self, image: Pictures | EncodedImage, text: str, request: Request, progress: Progress
    ) -> Generator[str, None, None]:
        with self._exclusive():
            with progress.watch.measure("ttft"):
                prompt, encoded = self._pipeline.look(image, text, request, progress)
                pieces = self._begin(prompt, encoded, request, progress)
                while progress.review is not None:  # nothing is shown before it is taken
                    said = list(pieces)
                    if (following := progress.review(progress.answer_signals)) is None:
                        pieces = iter(said)
                        break
                    progress.reject(following)
                    pieces = self._begin(prompt, encoded, request, progress)
            self._chooser.note(progress)
            yield from pieces

    def _begin(
        self, prompt: Prompt, encoded: EncodedImage, request: Request, progress: Progress
    ) -> Iterator[str]:
        """The pieces of the answer of the rung that was chosen, its first token known."""
        sampler = request.sampling.sampler()
        rows = self._pipeline.rows(prompt, encoded, request, progress)
        logits = self._pipeline.fill(rows, progress.bucket, progress)
        token_id = self._pipeline.choose(logits, sampler, progress)
        return self._pipeline.decode(token_id, sampler, progress)

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
