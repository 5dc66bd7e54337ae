"""A prompt plan against transformers, on texts that people send, alone and in conversations.

What the device will do (`edgetok.text.prompt`) is done here, and compared with the ids that
transformers' tokenizer makes of the rendered template. What an answer is made of, a model says:
of conversations, the ids around answers are compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from edgetok.bundle.golden import IMAGE_PLACEHOLDER
from edgetok.bundle.golden_inputs import GoldenPrompt, GoldenTurn
from edgetok.errors import InputError
from edgetok.text.prompt import Strip, encode_prompt, encode_turn, strip_text
from edgetok.text.tokenizer import TextTokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgetok.bundle.processor import PromptPlan

SYSTEM = " Answer in one word. "
REPLY = "It is a red circle"  # ends in a letter, which no tokenizer joins with what stands behind
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
    """The questions of a conversation, perhaps with a system message, and its rendered form."""

    texts: tuple[str, ...]
    system: str | None
    rendered: str | None


@dataclass(frozen=True)
class PromptSide:
    """A prompt plan, and what transformers made of the texts that it was held against.

    Args:
        turns: of each text, the ids of a later turn; empty where there are none.
        conversations: how many of several turns were compared.
    """

    plan: PromptPlan
    prompts: tuple[GoldenPrompt, ...]
    turns: tuple[GoldenTurn, ...]
    conversations: int


@dataclass(frozen=True)
class PlanCheck:
    """What is held against what.

    Args:
        device: the tokenizer of the bundle.
        tokenizer: transformers' own.
        special: whether the tokenizer's own tokens stand around the text.
    """

    plan: PromptPlan
    device: TextTokenizer
    tokenizer: Any
    image_token_id: int
    special: bool

    def compare(self, asked: Sequence[Asked], longer: Sequence[Asked]) -> PromptSide:
        """Compare ids on single questions and on conversations of several turns.

        Raises:
            InputError: naming the first text whose ids differ.
        """
        prompts = tuple(map(self._check_prompt, asked))
        turns = [self._check_conversation(each) for each in longer]
        once = {turn.text: turn for turn in turns}  # the same, whatever was said before
        return PromptSide(self.plan, prompts, tuple(once.values()), len(turns))

    def _check_prompt(self, asked: Asked) -> GoldenPrompt:
        (text,) = asked.texts
        encoded = self.tokenizer(asked.rendered or "", add_special_tokens=self.special)
        wanted = self._join_images(encoded["input_ids"])
        got = self._begin(asked)
        if asked.rendered is None or got != wanted:
            raise InputError(_explain(self.plan, asked, wanted, got))
        token = self.image_token_id
        ids = [IMAGE_PLACEHOLDER if index == token else index for index in wanted]
        return GoldenPrompt(text=text, system=asked.system, ids=ids)

    def _check_conversation(self, asked: Asked) -> GoldenTurn:
        """The ids of the last turn."""
        made = [self._begin(asked)]
        made += [list(encode_turn(self.plan, self.device, text)) for text in asked.texts[1:]]
        pieces = self._cut_at_answers(asked)
        pieces[0] = self._join_images(pieces[0])
        for got, wanted in zip(made[:-1], pieces[:-1], strict=True):
            # White space before an answer may be part of its first token.
            got, wanted = self._strip_space(got), self._strip_space(wanted)
            if got != wanted:
                raise InputError(_explain(self.plan, asked, wanted, got))
        if made[-1] != pieces[-1]:
            raise InputError(_explain(self.plan, asked, pieces[-1], made[-1]))
        return GoldenTurn(text=asked.texts[-1], ids=pieces[-1])

    def _begin(self, asked: Asked) -> list[int]:
        prompt = encode_prompt(self.plan, self.device, asked.texts[0], asked.system)
        return [*prompt.before, self.image_token_id, *prompt.after]

    def _join_images(self, ids: list[int]) -> list[int]:
        """The ids with one image token from the first to the last one."""
        places = [place for place, index in enumerate(ids) if index == self.image_token_id]
        return ids[: places[0] + 1] + ids[places[-1] + 1 :] if places else ids

    def _cut_at_answers(self, asked: Asked) -> list[list[int]]:
        """Transformers' ids before, between and behind the answers; of those, no token."""
        rendered = asked.rendered or ""
        parts = rendered.split(REPLY)
        if len(parts) != len(asked.texts):
            raise InputError(_explain(self.plan, asked, [], []))
        encoded = self.tokenizer(
            rendered, add_special_tokens=self.special, return_offsets_mapping=True
        )
        ends = list(accumulate(len(part) + len(REPLY) for part in parts[:-1]))
        pieces: list[list[int]] = [[] for _ in parts]
        for index, (start, end) in zip(
            encoded["input_ids"], encoded["offset_mapping"], strict=True
        ):
            turn = sum(start >= each for each in ends)
            if turn == len(ends) or end <= ends[turn] - len(REPLY):
                pieces[turn].append(index)
        return pieces

    def _strip_space(self, ids: list[int]) -> list[int]:
        while ids and not self.tokenizer.decode(ids[-1:]).strip():
            ids = ids[:-1]
        return ids


def _explain(plan: PromptPlan, asked: Asked, wanted: list[int], got: list[int]) -> str:
    what = " then ".join(repr(t if len(t) < 60 else t[:60] + "…") for t in asked.texts)
    what = f"the text {what}" if len(asked.texts) == 1 else f"the conversation {what}"
    if asked.rendered is None:
        return f"the chat template refuses {what}; change the template"
    segments = plan.segments if asked.system is None else plan.system or []
    kinds = [segments, *[plan.turn or []] * (len(asked.texts) - 1)]
    strips: list[Strip] = [
        next((s.strip for s in kind if s.slot == "user"), "both") for kind in kinds
    ]
    shown = [strip_text(*each) in asked.rendered for each in zip(asked.texts, strips, strict=True)]
    if not all(shown):
        return (
            f"the chat template makes of {what} another one: {asked.rendered[-200:]!r}; "
            "a prompt plan holds what is written around a text and strips its ends, so change the "
            "template to place the text as it is"
        )
    place = next((i for i, (a, b) in enumerate(zip(wanted, got, strict=False)) if a != b), 0)
    return (
        f"the prompt with {what} would have other token ids than transformers' from "
        f"place {place} on: {got[place : place + 8]} instead of {wanted[place : place + 8]}; the "
        "template's control tokens are read in a way that a prompt plan cannot repeat "
        "(single_word, normalized, or a text that the template changes)"
    )
