"""What a chat template makes of conversations whose texts stand for themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgetok.errors import InputError
from edgetok.families.prompt_check import BATTERY, REPLY, Asked
from edgetok.families.template import Conversation, render
from edgetok.text.prompt import Strip, strip_text

if TYPE_CHECKING:
    from edgetok.families.checkpoint import Checkpoint

STRIPS: tuple[Strip, ...] = (None, "left", "right", "both")
# Private-use characters: no template and no tokenizer gives them a meaning.
USER, _ANSWER, SYSTEM = (f"\ue0a5edgetok-{n}\ue0a6" for n in ("user", "answer", "system"))
_TURNS = 3  # the first one has the image; the third one shows that the second is like all later


@dataclass(frozen=True)
class Shown:
    """A prompt of one turn, the same with a system message, and what a later turn adds.

    `strips`: what the template takes from the texts of user and system, and of the user's later
    `turn`.
    """

    one: str
    system: str | None
    system_is_plain: bool  # whether templates want a system message as a text, not as parts
    turn: str | None
    strips: dict[str, Strip]


@dataclass(frozen=True)
class TemplateWriter:
    """The template of a checkpoint, and what its processor makes of the text."""

    checkpoint: Checkpoint
    template: str
    tokenizer: Any
    spell: Callable[[str], str]
    pictures: int

    def show(self) -> Shown:
        """How the template places texts, by texts that stand for themselves."""
        turns, systems = range(1, _TURNS + 1), (SYSTEM, _widen(SYSTEM))
        one, *longer, spaced, spaced_turn, parts, spaced_parts, plain, spaced_plain = self._write(
            *(self._converse(*[USER] * count) for count in turns),
            self._converse(_widen(USER)),
            self._converse(USER, _widen(USER)),
            *(self._converse(USER, system=text) for text in systems),
            *(self._converse(USER, system=text, plain=True) for text in systems),
        )
        strips: dict[str, Strip] = {"user": self._find_strip(one or "", spaced, USER)}
        turn = _find_turn(one or "", longer)
        strips["turn"] = None
        if turn is not None and spaced_turn is not None:
            tail = spaced_turn[len(longer[0] or "") - len(turn) :]
            strips["turn"] = self._find_strip(turn, tail, USER)
        is_plain = parts is None or parts.count(SYSTEM) != 1
        system, spaced_system = (plain, spaced_plain) if is_plain else (parts, spaced_parts)
        if system is None or system.count(SYSTEM) != 1:
            return Shown(one or "", None, False, turn, strips)
        strips["system"] = self._find_strip(system, spaced_system, SYSTEM)
        return Shown(one or "", system, is_plain, turn, strips)

    def ask(self, systems: Sequence[str | None], *, plain: bool, turns: int) -> list[Asked]:
        """Conversations of so many turns about the texts of the battery, with each system message.

        Each text is asked first in one of them, and in another one each time later.
        """
        asked = [
            (tuple(BATTERY[(first + turn) % len(BATTERY)] for turn in range(turns)), system)
            for system in systems
            for first in range(len(BATTERY))
        ]
        forms = [self._converse(*texts, system=s, plain=plain, reply=REPLY) for texts, s in asked]
        written = self._write(self._converse(USER), *forms)[1:]
        return [Asked(*each, shown) for each, shown in zip(asked, written, strict=True)]

    def _find_strip(self, shown: str, spaced: str | None, mark: str) -> Strip:
        for strip in STRIPS:
            if spaced == shown.replace(mark, strip_text(_widen(mark), strip)):
                return strip
        raise InputError(
            f"the chat template of {self.checkpoint.path} changes white space in the text that it "
            "is given; a prompt plan can only take it away at the ends. Change the template"
        )

    def _write(self, *conversations: Conversation) -> list[str | None]:
        names = self.tokenizer.special_tokens_map
        made = render(self.checkpoint.path, self.template, names, conversations)
        return [None if text is None else self.spell(text) for text in made]

    def _converse(
        self, *texts: str, system: str | None = None, plain: bool = False, reply: str = _ANSWER
    ) -> Conversation:
        """Messages of a conversation that ends with the last of these questions."""
        answer = {"role": "assistant", "content": [{"type": "text", "text": reply}]}
        messages: Conversation = []
        if system is not None:
            content: Any = system if plain else [{"type": "text", "text": system}]
            messages.append({"role": "system", "content": content})
        for turn, text in enumerate(texts):
            content = [{"type": "image"}] * (0 if turn else self.pictures)
            question = {"role": "user", "content": [*content, {"type": "text", "text": text}]}
            messages += [answer, question] if turn else [question]
        return messages


def _widen(mark: str) -> str:
    return f" \n\t {mark} \t\n "


def _find_turn(first: str, longer: Sequence[str | None]) -> str | None:
    """What stands after an answer in conversations of two and three turns, if always the same."""
    second, third = longer
    if second is None or third is None or not second.startswith(first):
        return None
    space, _, turn = second[len(first) :].partition(_ANSWER)
    if space.strip() or third != f"{second}{space}{_ANSWER}{turn}":
        return None
    return turn
