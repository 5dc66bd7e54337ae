"""From an image and a prompt to the first logits, and from there token by token to the end."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from edgetok import names
from edgetok.control.thumbnail import describe
from edgetok.errors import UsageError
from edgetok.ladder import Rung
from edgetok.runtimes.answers.answer import Progress, Stopwatch
from edgetok.runtimes.answers.request import EncodedImage, Request
from edgetok.runtimes.images.several import Pictures, join_outputs, list_pictures
from edgetok.runtimes.processor import Processor
from edgetok.runtimes.runtime.interface import has_tower_per_rung, reads_prompt
from edgetok.runtimes.runtime.protocol import (
    FloatArray,
    Runtime,
    TextRows,
    TowerOutput,
    VisualTokens,
)
from edgetok.runtimes.runtime.reuse import PromptRows, embed_rows, fill
from edgetok.runtimes.text.sampling import Sampler
from edgetok.text.prompt import Detokenizer, Prompt, require_prompt_fits


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The steps of an answer over the graphs of one bundle; knows nothing of who else asks.

    Args:
        runtime: where the graphs run.
        processor: of the same bundle.
        digest: the bundle's.
    """

    runtime: Runtime
    processor: Processor
    digest: str

    def open(
        self, image: Pictures | EncodedImage, text: str, request: Request, progress: Progress
    ) -> PromptRows:
        """Choose the rung and find the rows of a first turn; notes both in `progress`.

        Raises:
            InputError: if image or prompt is rejected.
            UsageError: if another bundle encoded the image.
        """
        prompt, encoded = self.look(image, text, request, progress)
        return self.rows(prompt, encoded, request, progress)

    def look(
        self, image: Pictures | EncodedImage, text: str, request: Request, progress: Progress
    ) -> tuple[Prompt, EncodedImage]:
        """The prompt and the encoded image, after which the rung is chosen; errors as in `open`."""
        watch, runtime = progress.watch, self.runtime
        with watch.measure("tokenize"):
            prompt = self.processor.encode(text, request.system)
        progress.prompt_tokens = prompt.tokens
        progress.question = prompt.question_ids
        require_prompt_fits(prompt, max(rung.prompt_tokens for rung in runtime.ladder))
        rung = None
        if has_tower_per_rung(runtime.manifest):  # its tower is known only when the rung is
            progress.decision = request.policy.choose(runtime.ladder, {}, prompt.question_ids)
            rung = progress.decision.rung
        encoded = self.encoded(image, watch, rung)
        progress.signals = encoded.output.signals
        if progress.decision is None:
            progress.decision = request.policy.choose(
                runtime.ladder, encoded.output.signals, prompt.question_ids
            )
        return prompt, encoded

    def rows(
        self, prompt: Prompt, encoded: EncodedImage, request: Request, progress: Progress
    ) -> PromptRows:
        """What the rung that was chosen makes of them."""
        rung = progress.rung
        progress.max_new_tokens = request.max_new_tokens or rung.new_tokens
        require_prompt_fits(prompt, rung.prompt_tokens)
        visual = self.compress(encoded, rung, prompt, progress.watch, request.weights)
        progress.kept = tuple(visual.kept.tolist())
        return PromptRows(prompt.before, visual, prompt.after, len(prompt.after))

    def fill(self, rows: PromptRows, rung: Rung, progress: Progress) -> FloatArray:
        """Logits [W] of the last of these rows, which the cache holds then.

        Raises:
            InputError: if the cache has no room for them.
        """
        with progress.watch.measure("embed"):
            embeds = embed_rows(self.runtime, rows, rung.prompt_tokens)
        with progress.watch.measure("prefill"):
            logits, progress.reused_rows = fill(self.runtime, rung, rows, embeds)
            progress.exit_layer = self.runtime.exit_layer
        return logits

    def sampler(self, rows: PromptRows, request: Request) -> Sampler:
        """What chooses the tokens of the answer to these rows."""
        manifest = self.runtime.manifest
        asked = manifest.generation
        seen = rows.ids(None if asked is None else asked.image_id)
        return request.sampling.sampler(seen, manifest.text.stop_ids)

    def decode(
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
                token_id = self.choose(logits, sampler, progress)
                piece = "" if token_id is None else detokenizer.push(token_id)
        yield from progress.show(detokenizer.flush())

    def choose(self, logits: FloatArray, sampler: Sampler, progress: Progress) -> int | None:
        """The next token, or None with the reason noted."""
        if not np.isfinite(logits).all():
            progress.stop_reason = "numeric"
            self.runtime.forget()  # whatever went wrong, no other answer shall begin with it
            return None
        token_id = sampler(logits)
        progress.add_token(token_id, logits)
        if token_id in self.runtime.manifest.text.stop_ids:
            progress.stop_reason = "stop"
            return None
        return token_id

    def encoded(
        self, image: Pictures | EncodedImage, watch: Stopwatch, rung: Rung | None
    ) -> EncodedImage:
        """The image after the tower: that of `rung` where each rung has its own.

        Raises:
            InputError: if an image cannot be read.
            UsageError: if another bundle encoded it, or there are more or fewer than it reads.
        """
        if not isinstance(image, EncodedImage):
            outputs: list[TowerOutput] = []
            shown = list_pictures(image, self.runtime.manifest.vision.pictures)
            for picture in shown:  # one at a time: a video's frames need not fit into memory
                with watch.measure("preprocess"):
                    pixels = self.processor.pixels(picture)
                with watch.measure("tower"):
                    output = self.runtime.encode(pixels, rung)
                    outputs.append(self._with_complexity(output, pixels))
            return EncodedImage(join_outputs(outputs), self.digest)
        if image.digest != self.digest:
            raise UsageError("the image was encoded by another bundle; encode it with this one")
        return image

    def _with_complexity(self, output: TowerOutput, pixels: FloatArray) -> TowerOutput:
        """With the signal of the controller's thumbnail, if it asks for one."""
        controller = self.runtime.manifest.controller
        if controller is None or controller.thumbnail is None:
            return output
        cells = describe(pixels, controller.thumbnail.cells)
        complexity = controller.thumbnail.complexity(cells)
        return replace(output, signals={**output.signals, names.SIGNAL_COMPLEXITY: complexity})

    def compress(
        self,
        image: EncodedImage,
        rung: Rung,
        prompt: Prompt,
        watch: Stopwatch,
        weights: FloatArray | None = None,
    ) -> VisualTokens:
        """The visual tokens of a rung; computed once per image unless they depend on the request.

        `weights` are those of its images, if there are several.
        """
        of_image = weights is None and not reads_prompt(self.runtime.manifest)
        held = image.tokens.get(rung.budget) if of_image else None
        output = image.output if held else self._encode_for(image.output, rung, watch)
        with watch.measure("compress"):
            if held is not None:
                return held
            found = self.runtime.compress(output, rung, self._text_rows(prompt), weights)
        if of_image:
            found.rows.setflags(write=False)  # from now on it is everyone's
            image.tokens[rung.budget] = found
        return found

    def _encode_for(self, output: TowerOutput, rung: Rung, watch: Stopwatch) -> TowerOutput:
        """What the rung's own tower makes of the image, where another rung's has seen it."""
        if output.pixels is None or output.budget == rung.budget:
            return output
        shown = np.split(output.pixels, self.runtime.manifest.vision.pictures)
        with watch.measure("tower"):
            return join_outputs([self.runtime.encode(pixels, rung) for pixels in shown])

    def _text_rows(self, prompt: Prompt) -> TextRows | None:
        """The prompt as methods read it that look at it; None where none does."""
        if not reads_prompt(self.runtime.manifest):
            return None
        ids = [*prompt.before, *prompt.after]
        return TextRows(self.runtime.embed(ids), prompt.question)

    def _exhausted(self, progress: Progress) -> Literal["length", "cache"] | None:
        """Why no further token may be generated, if so."""
        if len(progress.token_ids) >= progress.max_new_tokens:
            return "length"
        if self.runtime.rows_left < 1:
            return "cache"
        return None
