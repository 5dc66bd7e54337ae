"""A loaded bundle and all that may be asked of it, written once over the protocol."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from types import TracebackType
from typing import Unpack

from edgetok.bundle.manifest import Manifest
from edgetok.control import Fixed, load_table
from edgetok.control.thumbnail import describe
from edgetok.images.reading import ImageInput
from edgetok.ladder import Ladder
from edgetok.runtimes.answers.answer import Answer, Clock, Progress
from edgetok.runtimes.answers.choosing import Chooser, Tables
from edgetok.runtimes.answers.conversation import Conversation
from edgetok.runtimes.answers.request import (
    AnswerOptions,
    Choice,
    ChoiceOptions,
    EncodedImage,
    Request,
)
from edgetok.runtimes.answers.session import Session
from edgetok.runtimes.answers.steps import Pipeline
from edgetok.runtimes.answers.stream import Stream
from edgetok.runtimes.images.several import Pictures, require_weights
from edgetok.runtimes.processor import Processor
from edgetok.runtimes.runtime.protocol import FloatArray, Runtime, VisualTokens
from edgetok.runtimes.text.sampling import Sampling
from edgetok.text.prompt import Prompt, require_prompt_fits


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
        self._chooser = Chooser(runtime, digest, tables)
        self._session = Session(Pipeline(runtime, processor, digest), clock)

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
        """Run the tower once for each image; give the result to `generate` in their place.

        Args:
            image: one image, or a list of them where prompts of the bundle have several.
            budget: the rung to encode for, where the method acts inside the tower and each rung
                has its own; the largest when None. Another rung then encodes the image again.

        Raises:
            InputError: if the image cannot be read.
            UsageError: for an unknown rung, or while a stream of this model is open.
        """
        rung = None if budget is None else self.ladder.rung(budget)
        with self._session.exclusive() as steps:
            return steps.encoded(image, self._session.watch(), rung)

    def generate(
        self, image: Pictures | EncodedImage, prompt: str, **options: Unpack[AnswerOptions]
    ) -> Answer:
        """Answer a question about an image; arguments and errors as in `stream`."""
        return self.stream(image, prompt, **options).finish()

    def stream(
        self, image: Pictures | EncodedImage, prompt: str, **options: Unpack[AnswerOptions]
    ) -> Stream:
        """Answer piece by piece. Nothing runs before the first piece is asked for.

        Args:
            image: a path, the bytes of a file, a Pillow image, an array uint8 [H, W, 3], a list of
                these where prompts of the bundle have several, or what `encode` returned.
            prompt: the user's text; control tokens in it are plain text.
            options: which rung, of how many tokens, how sampled: see `request.AnswerOptions`.

        Raises:
            UsageError: for options that are out of range or contradict each other, or, at the
                first piece, while another stream of this model is open.
            InputError: at the first piece, if image or prompt is rejected.
        """
        choice, rest = Choice.split(options)
        policy = self._chooser.policy(choice, rest.get("temperature", 0.0))
        weights = require_weights(self.manifest, rest.pop("weights", None))
        system = rest.pop("system", None)
        request = Request.of(policy, rest, self.manifest.generation, weights, system)
        progress = self._session.progress()
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
        progress = self._session.progress()
        with self._session.exclusive() as steps:
            rows = steps.open(image, prompt, request, progress)
            return steps.fill(rows, progress.rung, progress).copy()

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
        rung = self.ladder.rung(budget)
        tokens = self.processor.encode(prompt)
        require_prompt_fits(tokens, rung.prompt_tokens)
        watch = self._session.watch()
        with self._session.exclusive() as steps:
            encoded = steps.encoded(image, watch, rung)
            return steps.compress(encoded, rung, tokens, watch)

    def converse(
        self,
        image: Pictures | EncodedImage,
        *,
        system: str | None = None,
        **options: Unpack[ChoiceOptions],
    ) -> Conversation:
        """Talk about an image in several turns; nothing runs before the first question.

        Arguments as in `stream`; the rung is chosen once, at the first question. Between two turns
        the model may answer other questions, after which the next turn takes longer.

        Raises:
            UsageError: for options that are out of range or contradict each other, or if the
                model's chat template has no later turns, or takes no system message.
        """
        policy = self._chooser.policy(Choice(**options), certified=False)
        self.processor.encode_turn("")  # says whether there can be a second turn
        self.processor.encode("", system)  # and this, whether there can be a system message
        return Conversation(self._session, image, policy, system)

    def forget(self) -> None:
        """Have the next answer computed from its first row on, for the measure of it.

        Without this, rows that its prompt shares with the one before it are taken from the cache.

        Raises:
            UsageError: while a stream of this model is open.
        """
        with self._session.exclusive():
            self.runtime.forget()

    def close(self) -> None:
        """Let go of graphs and memory, and keep what makes the next start quick.

        What was given out remains; calls that would run a graph raise UsageError from now on.
        Closing twice is closing once.

        Raises:
            UsageError: while a stream of this model is open.
        """
        with self._session.exclusive():
            self.runtime.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _run(
        self, image: Pictures | EncodedImage, text: str, request: Request, progress: Progress
    ) -> Generator[str, None, None]:
        with self._session.exclusive() as steps:
            with progress.watch.measure("ttft"):
                prompt, encoded = steps.look(image, text, request, progress)
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
        steps = self._session.steps
        rows = steps.rows(prompt, encoded, request, progress)
        sampler = steps.sampler(rows, request)
        logits = steps.fill(rows, progress.rung, progress)
        token_id = steps.choose(logits, sampler, progress)
        return steps.decode(token_id, sampler, progress)
