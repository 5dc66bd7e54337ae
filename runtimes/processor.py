"""What turns a bundle's inputs into tensors: its image plan, prompt plan and tokenizer."""

from __future__ import annotations

from dataclasses import dataclass

from edgetok.bundle.processor import (
    IMAGE_FILE,
    PROMPT_FILE,
    ImagePlan,
    PromptPlan,
    parse_image_plan,
    parse_prompt_plan,
)
from edgetok.bundle.reader import Bundle
from edgetok.images.preprocess import preprocess
from edgetok.images.reading import ImageInput
from edgetok.runtimes.runtime.protocol import FloatArray
from edgetok.text.prompt import Prompt, encode_prompt, encode_turn
from edgetok.text.tokenizer import TextTokenizer, load_tokenizer


@dataclass(frozen=True, slots=True)
class Processor:
    """The processor of one bundle."""

    image: ImagePlan
    prompt: PromptPlan
    tokenizer: TextTokenizer

    def pixels(self, image: ImageInput) -> FloatArray:
        """Pixels [1, 3, h, w]; see `preprocess.preprocess`."""
        return preprocess(image, self.image)

    def encode(self, user_text: str, system: str | None = None) -> Prompt:
        """Token ids around the image; see `prompt.encode_prompt`."""
        return encode_prompt(self.prompt, self.tokenizer, user_text, system)

    def encode_turn(self, user_text: str) -> tuple[int, ...]:
        """Token ids of a later turn; see `prompt.encode_turn`."""
        return encode_turn(self.prompt, self.tokenizer, user_text)


def read_processor(bundle: Bundle) -> Processor:
    """Read the three processor files.

    Raises:
        BundleError: if one is missing or damaged.
    """
    return Processor(
        parse_image_plan(bundle.read(IMAGE_FILE)),
        parse_prompt_plan(bundle.read(PROMPT_FILE)),
        load_tokenizer(bundle.tokenizer()),
    )
