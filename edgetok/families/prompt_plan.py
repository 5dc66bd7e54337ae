"""From a chat template to the prompt plan of a bundle."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from msgspec.structs import replace

from edgetok.bundle.processor import PromptPlan, Segment
from edgetok.errors import InputError
from edgetok.families.prompt_check import BATTERY, SYSTEM, Asked, check_plan, strip_text
from edgetok.families.template import Conversation, read_template, render
from edgetok.families.tokenizer import open_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgetok.families.checkpoint import Checkpoint

Strip = Literal["left", "right", "both"] | None
_STRIPS: tuple[Strip, ...] = (None, "left", "right", "both")

# Private-use characters: no template and no tokenizer gives them a meaning.
_USER, _ANSWER, _SYSTEM = (f"\ue0a5edgetok-{n}\ue0a6" for n in ("user", "answer", "system"))
_SLOTS: dict[str, Literal["user", "system"]] = {_USER: "user", _SYSTEM: "system"}
_TURNS = 3  # the first one has the image; the third one shows that the second is like all later


def read_prompt_plan(
    checkpoint: Checkpoint,
    image_token_id: int,
    spell: Callable[[str], str] = str,
    *,
    template: str | None = None,
    prefixed: bool = True,
    pictures: int = 1,
) -> PromptPlan:
    """Render the template with its images and one user turn, and cut it into segments.

    Several images have one place, from the first to the last one; `read_gaps` says what stands
    between them. A later turn is what the template adds when there is one more; there is none if
    it changes what it wrote before. The plan is held against transformers before it is returned
    (`edgetok.families.prompt_check`).

    Args:
        spell: what the family's processor makes of the rendered text, with one image token where
            the visual tokens go.
        template: in place of the checkpoint's own, for families that have none.
        prefixed: whether the tokenizer's own first and last tokens stand around the template's.
        pictures: how many the prompt has.

    Raises:
        InputError: if there is no template, it fails, does not place one image and one text, or
            changes a text otherwise than by taking the white space of its ends away.
    """
    tokenizer = open_tokenizer(checkpoint.path)
    template = template or read_template(checkpoint)
    writer = _Writer(checkpoint, template, tokenizer, spell, pictures)
    controls = _list_controls(tokenizer.backend_tokenizer, image_token_id)
    shown = writer.show()
    segments = _cut(shown.one, controls, image_token_id)
    placed = _require_places(checkpoint, shown.one, segments, pictures)
    before, behind = _find_own_tokens(tokenizer, shown.one) if prefixed else ([], [])
    system = shown.system and _place(_cut(shown.system, controls, image_token_id), placed)
    turn = _cut(shown.turn, controls, image_token_id) if shown.turn and not behind else None
    if turn is not None and [s.slot for s in turn if s.slot] != ["user"]:
        turn = None
    plan = PromptPlan(
        segments=_surround(_strip(_join_pictures(segments), shown.strips), before, behind),
        forbidden_ids=sorted(control.index for control in controls.values()),
        turn=turn and _strip(turn, {"user": shown.strips["turn"]}),
        system=_surround(_strip(system, shown.strips), before, behind) if system else None,
        starts_with_text=segments[0].ids is None,
    )
    systems = (None, SYSTEM) if plan.system else (None,)
    asked = writer.ask(systems, plain=shown.system_is_plain)
    check_plan(plan, tokenizer, image_token_id, asked, special=bool(before or behind))
    return plan


def surround_image(placeholder: str, before: str, after: str) -> Callable[[str], str]:
    """For families whose processor puts tokens of its own around those of an image."""
    return lambda text: text.replace(placeholder, before + placeholder + after)


def read_gaps(
    checkpoint: Checkpoint, image_token_id: int, spell: Callable[[str], str], pictures: int
) -> list[list[int]]:
    """Ids between each image of a prompt and the next, as Hugging Face tokenizes it whole.

    Raises:
        InputError: as `read_prompt_plan`.
    """
    if pictures == 1:
        return []
    tokenizer = open_tokenizer(checkpoint.path)
    writer = _Writer(checkpoint, read_template(checkpoint), tokenizer, spell, pictures)
    ids = tokenizer(writer.show().one, add_special_tokens=False)["input_ids"]
    places = [place for place, index in enumerate(ids) if index == image_token_id]
    return [ids[start + 1 : end] for start, end in pairwise(places)]


# --- what the template writes --------------------------------------------------------------------


@dataclass(frozen=True)
class _Shown:
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
class _Writer:
    """The template of a checkpoint, and what its processor makes of the text."""

    checkpoint: Checkpoint
    template: str
    tokenizer: Any
    spell: Callable[[str], str]
    pictures: int

    def show(self) -> _Shown:
        """How the template places texts, by texts that stand for themselves."""
        turns, systems = range(1, _TURNS + 1), (_SYSTEM, _widen(_SYSTEM))
        one, *longer, spaced, spaced_turn, parts, spaced_parts, plain, spaced_plain = self._write(
            *(self._converse(_USER, turns=count) for count in turns),
            self._converse(_widen(_USER)),
            self._converse(_USER, _widen(_USER), turns=2),
            *(self._converse(_USER, system=text) for text in systems),
            *(self._converse(_USER, system=text, plain=True) for text in systems),
        )
        strips: dict[str, Strip] = {"user": self._find_strip(one or "", spaced, _USER)}
        turn = _find_turn(one or "", longer)
        strips["turn"] = None
        if turn is not None and spaced_turn is not None:
            tail = spaced_turn[len(longer[0] or "") - len(turn) :]
            strips["turn"] = self._find_strip(turn, tail, _USER)
        is_plain = parts is None or parts.count(_SYSTEM) != 1
        system, spaced_system = (plain, spaced_plain) if is_plain else (parts, spaced_parts)
        if system is None or system.count(_SYSTEM) != 1:
            return _Shown(one or "", None, False, turn, strips)
        strips["system"] = self._find_strip(system, spaced_system, _SYSTEM)
        return _Shown(one or "", system, is_plain, turn, strips)

    def ask(self, systems: Sequence[str | None], *, plain: bool) -> list[Asked]:
        """The texts of the battery as users ask them, with each system message."""
        asked = [(text, system) for system in systems for text in BATTERY]
        forms = [self._converse(text, system=system, plain=plain) for text, system in asked]
        written = self._write(self._converse(_USER), *forms)[1:]
        return [Asked(*each, shown) for each, shown in zip(asked, written, strict=True)]

    def _find_strip(self, shown: str, spaced: str | None, mark: str) -> Strip:
        for strip in _STRIPS:
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
        self, *texts: str, turns: int = 1, system: str | None = None, plain: bool = False
    ) -> Conversation:
        """Messages of a conversation that ends with the question of its last turn."""
        asked = [texts[min(turn, len(texts) - 1)] for turn in range(turns)]
        answer = {"role": "assistant", "content": [{"type": "text", "text": _ANSWER}]}
        messages: Conversation = []
        if system is not None:
            content: Any = system if plain else [{"type": "text", "text": system}]
            messages.append({"role": "system", "content": content})
        for turn, text in enumerate(asked):
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


# --- from text to segments -----------------------------------------------------------------------


@dataclass(frozen=True)
class _Control:
    """A control token: its id, and at which sides it takes white space of the text away."""

    index: int
    strip: Strip


def _list_controls(tokenizer: Any, image_token_id: int) -> dict[str, _Control]:
    added = tokenizer.get_added_tokens_decoder()
    return {
        token.content: _Control(index, _STRIPS[token.lstrip + 2 * token.rstrip])
        for index, token in added.items()
        if token.special or index == image_token_id
    }


def _cut(rendered: str, controls: dict[str, _Control], image_token_id: int) -> list[Segment]:
    marks = sorted([*controls, *_SLOTS], key=len, reverse=True)
    segments: list[Segment] = []
    for piece in re.split("(" + "|".join(map(re.escape, marks)) + ")", rendered):
        control = controls.get(piece)
        if piece in _SLOTS:
            segments.append(Segment(slot=_SLOTS[piece]))
        elif control is not None and control.index == image_token_id:
            segments.append(Segment(slot="image", strip=control.strip))
        elif control is not None:
            segments.append(Segment(ids=[control.index], strip=control.strip))
        elif piece:
            segments.append(Segment(text=piece))
    return segments


def _require_places(
    checkpoint: Checkpoint, rendered: str, segments: list[Segment], pictures: int
) -> list[str]:
    """The slots in their order, all images as one."""
    images = sum(s.slot == "image" for s in segments)
    placed = [str(s.slot) for s in _join_pictures(segments) if s.slot]
    if images != pictures or placed not in (["image", "user"], ["user", "image"]):
        raise InputError(
            f"the chat template of {checkpoint.path} does not place exactly "
            f"{'one image' if pictures == 1 else f'{pictures} images in a row'} and one text: "
            f"{rendered[:200]!r}"
        )
    return placed


def _place(segments: list[Segment], placed: list[str]) -> list[Segment] | None:
    """The segments with a system message, if they are the others and that; else None."""
    joined = _join_pictures(segments)
    return joined if [s.slot for s in joined if s.slot not in (None, "system")] == placed else None


def _join_pictures(segments: list[Segment]) -> list[Segment]:
    """The segments with one place for all images; as they are if those do not stand in a row."""
    places = [place for place, segment in enumerate(segments) if segment.slot == "image"]
    if len(places) < 2:
        return segments
    between = segments[places[0] : places[-1]]
    if any(segment.slot == "user" for segment in between):
        return segments
    return segments[: places[0]] + segments[places[-1] :]


def _strip(segments: list[Segment], strips: dict[str, Strip]) -> list[Segment]:
    return [
        replace(segment, strip=strips[segment.slot]) if segment.slot in strips else segment
        for segment in segments
    ]


def _find_own_tokens(tokenizer: Any, rendered: str) -> tuple[list[int], list[int]]:
    """What the tokenizer puts around a text of its own accord, unless that has it already."""
    if tokenizer.bos_token and rendered.startswith(tokenizer.bos_token):
        return [], []
    plain = tokenizer("x", add_special_tokens=False)["input_ids"]
    whole = tokenizer("x")["input_ids"]
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return whole[:start], whole[start + len(plain) :]
    return [], []


def _surround(segments: list[Segment], before: list[int], behind: list[int]) -> list[Segment]:
    first = [Segment(ids=before)] if before else []
    return [*first, *segments, *([Segment(ids=behind)] if behind else [])]
