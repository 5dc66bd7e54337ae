"""A prompt plan against transformers, on texts that people send.

What the device will do (`edgetok.text.prompt`) is done here, and compared with the ids that
transformers' tokenizer makes of the rendered template.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgetok.errors import InputError
from edgetok.text.prompt import encode_prompt, load_tokenizer, strip_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgetok.bundle.processor import PromptPlan

__all__ = ["BATTERY", "SYSTEM", "Asked", "check_plan", "strip_text"]

SYSTEM = " Answer in one word. "
BATTERY = (
    "What is it?",
    "",
    " ",
    "\n\n",
    "  two spaces at both ends  ",
    "\nlines\nat both ends\n",
    "\ttab and no-break space\u00a0",
    "two  spaces   within",
    "HTML: <b>5 > 3 & 2 < 4</b> \\ {{ x }} {% y %}",
    "İstanbul ﬁne Ünïcode e\u0301 Straße",
    "漢字と仮名 한국어 ไทย हिन्दी",
    "مرحبا بالعالم שלום",
    "🙂👩‍👧‍👦🏳️‍🌈",
    "1234567890 3.14 -5e-3 12:30",
    "def f(x):\n    return x ** 2  # square\n",
    "don't I'LL they've",
    "word " * 40,
)


@dataclass(frozen=True)
class Asked:
    """A text, perhaps with a system message, and what the template makes of it."""

    text: str
    system: str | None
    rendered: str | None


def check_plan(
    plan: PromptPlan, tokenizer: Any, image_token_id: int, asked: Sequence[Asked], *, special: bool
) -> int:
    """Compare ids on every text; returns how many there are.

    Args:
        tokenizer: transformers' own.
        asked: texts with what the template makes of them.
        special: whether the tokenizer's own tokens stand around the text.

    Raises:
        InputError: naming the first text whose ids differ.
    """
    device = load_tokenizer(tokenizer.backend_tokenizer.to_str().encode())
    for each in asked:
        wanted = tokenizer(each.rendered or "", add_special_tokens=special)["input_ids"]
        prompt = encode_prompt(plan, device, each.text, each.system)
        got = [*prompt.before, image_token_id, *prompt.after]
        if got != _join_images(wanted, image_token_id):
            raise InputError(_explain(plan, each, wanted, got))
    return len(asked)


def _join_images(ids: list[int], image_token_id: int) -> list[int]:
    """The ids with one image token from the first to the last one."""
    places = [place for place, index in enumerate(ids) if index == image_token_id]
    return ids[: places[0] + 1] + ids[places[-1] + 1 :] if places else ids


def _explain(plan: PromptPlan, asked: Asked, wanted: list[int], got: list[int]) -> str:
    text = asked.text if len(asked.text) < 60 else asked.text[:60] + "…"
    if asked.rendered is None:
        return f"the chat template refuses the text {text!r}; change the template"
    segments = plan.segments if asked.system is None else plan.system or []
    shown = [s for s in segments if s.slot == "user"]
    if shown and strip_text(asked.text, shown[0].strip) not in asked.rendered:
        return (
            f"the chat template makes of the text {text!r} another one: {asked.rendered[-200:]!r}; "
            "a prompt plan holds what is written around a text and strips its ends, so change the "
            "template to place the text as it is"
        )
    place = next((i for i, (a, b) in enumerate(zip(wanted, got, strict=False)) if a != b), 0)
    return (
        f"the prompt with the text {text!r} would have other token ids than transformers' from "
        f"place {place} on: {got[place : place + 8]} instead of {wanted[place : place + 8]}; the "
        "template's control tokens are read in a way that a prompt plan cannot repeat "
        "(single_word, normalized, or a text that the template changes)"
    )
