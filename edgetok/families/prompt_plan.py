"""From a chat template to the prompt plan of a bundle."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from msgspec.structs import replace

from edgetok.bundle.processor import PromptPlan, Segment
from edgetok.errors import InputError
from edgetok.families import template_writer
from edgetok.families.prompt_check import SYSTEM, PlanCheck, PromptSide
from edgetok.families.template import read_template
from edgetok.families.template_writer import STRIPS, TemplateWriter
from edgetok.families.tokenizer import open_tokenizer, write_tokenizer
from edgetok.text.prompt import Strip
from edgetok.text.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgetok.families.checkpoint import Checkpoint

_SLOTS: dict[str, Literal["user", "system"]] = {template_writer.USER: "user"}
_SLOTS |= {template_writer.SYSTEM: "system"}
_TURNS = 3  # of the conversations that are compared: a first one, a later one, and one after that


def read_prompt(
    checkpoint: Checkpoint,
    image_token_id: int,
    spell: Callable[[str], str] = str,
    *,
    template: str | None = None,
    prefixed: bool = True,
    pictures: int = 1,
) -> PromptSide:
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
    writer = TemplateWriter(checkpoint, template, tokenizer, spell, pictures)
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
    device = load_tokenizer(write_tokenizer(checkpoint.path))
    check = PlanCheck(plan, device, tokenizer, image_token_id, special=bool(before or behind))
    systems, is_plain = ((None, SYSTEM) if plan.system else (None,)), shown.system_is_plain
    asked = writer.ask(systems, plain=is_plain, turns=1)
    longer = writer.ask(systems, plain=is_plain, turns=_TURNS) if plan.turn else []
    return check.compare(asked, longer)


def surround_image(placeholder: str, before: str, after: str) -> Callable[[str], str]:
    """For families whose processor puts tokens of its own around those of an image."""
    return lambda text: text.replace(placeholder, before + placeholder + after)


def read_gaps(
    checkpoint: Checkpoint, image_token_id: int, spell: Callable[[str], str], pictures: int
) -> list[list[int]]:
    """Ids between each image of a prompt and the next, as Hugging Face tokenizes it whole.

    Raises:
        InputError: as `read_prompt`.
    """
    if pictures == 1:
        return []
    tokenizer = open_tokenizer(checkpoint.path)
    writer = TemplateWriter(checkpoint, read_template(checkpoint), tokenizer, spell, pictures)
    ids = tokenizer(writer.show().one, add_special_tokens=False)["input_ids"]
    places = [place for place, index in enumerate(ids) if index == image_token_id]
    return [ids[start + 1 : end] for start, end in pairwise(places)]


# --- from text to segments -----------------------------------------------------------------------


@dataclass(frozen=True)
class _Control:
    """A control token: its id, and at which sides it takes white space of the text away."""

    index: int
    strip: Strip


def _list_controls(tokenizer: Any, image_token_id: int) -> dict[str, _Control]:
    added = tokenizer.get_added_tokens_decoder()
    return {
        token.content: _Control(index, STRIPS[token.lstrip + 2 * token.rstrip])
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
