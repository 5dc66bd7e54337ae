"""From a chat template to the prompt plan of a bundle.

A chat template is a program that came with the checkpoint. It is rendered once, here, in Jinja's
immutable sandbox and in a process of its own that is ended after `limits.CHAT_TEMPLATE_SECONDS`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from edgetok import limits
from edgetok.bundle.processor import PromptPlan, Segment
from edgetok.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgetok.families.checkpoint import Checkpoint

# Private-use characters: no template and no tokenizer gives them a meaning.
_USER = "\ue0a5edgetok-user\ue0a6"
_ANSWER = "\ue0a5edgetok-answer\ue0a6"
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
    between them.

    A later turn is what the template adds when there is one more; there is none if it changes
    what it wrote before.

    Args:
        spell: what the family's processor makes of the rendered text, with one image token where
            the visual tokens go.
        template: in place of the checkpoint's own, for families that have none.
        prefixed: whether the tokenizer's own first tokens stand before the template's.
        pictures: how many the prompt has.

    Raises:
        InputError: if there is no template, it fails, or it does not place one image and one text.
    """
    tokenizer = Tokenizer.from_file(str(checkpoint.path / "tokenizer.json"))
    rendered, longer = _render(checkpoint, template or _read_template(checkpoint), pictures)
    rendered, longer = spell(rendered), [None if text is None else spell(text) for text in longer]
    controls = _control_tokens(tokenizer, image_token_id)
    cut = _cut(rendered, controls, image_token_id)
    shown, segments = sum(s.slot == "image" for s in cut), _join_pictures(cut)
    placed = [s.slot for s in segments if s.slot]
    if shown != pictures or placed not in (["image", "user"], ["user", "image"]):
        raise InputError(
            f"the chat template of {checkpoint.path} does not place exactly "
            f"{'one image' if pictures == 1 else f'{pictures} images in a row'} and one text: "
            f"{rendered[:200]!r}"
        )
    prefix = tokenizer.encode("", add_special_tokens=True).ids if prefixed else []
    first = segments[0].ids or []
    if prefix and first[: len(prefix)] != prefix:
        segments.insert(0, Segment(ids=prefix))  # what the tokenizer's post-processor would add
    turn = _find_turn(rendered, longer)
    later = None if turn is None else _cut(turn, controls, image_token_id)
    if later is not None and [s.slot for s in later if s.slot] != ["user"]:
        later = None
    return PromptPlan(segments=segments, forbidden_ids=sorted(set(controls.values())), turn=later)


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
    tokenizer = Tokenizer.from_file(str(checkpoint.path / "tokenizer.json"))
    rendered, _ = _render(checkpoint, _read_template(checkpoint), pictures)
    ids = tokenizer.encode(spell(rendered), add_special_tokens=False).ids
    places = [place for place, index in enumerate(ids) if index == image_token_id]
    return [ids[start + 1 : end] for start, end in pairwise(places)]


def _join_pictures(segments: list[Segment]) -> list[Segment]:
    """The segments with one place for all images; as they are if those do not stand in a row."""
    places = [place for place, segment in enumerate(segments) if segment.slot == "image"]
    if len(places) < 2:
        return segments
    between = segments[places[0] : places[-1]]
    if any(segment.slot == "user" for segment in between):
        return segments
    return segments[: places[0]] + segments[places[-1] :]


def _find_turn(first: str, longer: list[str | None]) -> str | None:
    """What stands after an answer in conversations of two and three turns, if always the same."""
    second, third = longer
    if second is None or third is None or not second.startswith(first):
        return None
    space, _, turn = second[len(first) :].partition(_ANSWER)
    if space.strip() or third != f"{second}{space}{_ANSWER}{turn}":
        return None
    return turn


def _control_tokens(tokenizer: Tokenizer, image_token_id: int) -> dict[str, int]:
    added = tokenizer.get_added_tokens_decoder()
    return {
        token.content: index
        for index, token in added.items()
        if token.special or index == image_token_id
    }


def _cut(rendered: str, controls: dict[str, int], image_token_id: int) -> list[Segment]:
    marks = sorted([*controls, _USER], key=len, reverse=True)
    segments: list[Segment] = []
    for piece in re.split("(" + "|".join(map(re.escape, marks)) + ")", rendered):
        if not piece:
            continue
        if piece == _USER:
            segments.append(Segment(slot="user"))
        elif controls.get(piece) == image_token_id:
            segments.append(Segment(slot="image"))
        elif piece in controls:
            segments.append(Segment(ids=[controls[piece]]))
        else:
            segments.append(Segment(text=piece))
    return segments


def _converse(turns: int, pictures: int) -> list[dict[str, Any]]:
    """Messages of a conversation that ends with the question of its last turn."""
    question, answer = {"type": "text", "text": _USER}, {"type": "text", "text": _ANSWER}
    messages = [{"role": "user", "content": [{"type": "image"}] * pictures + [question]}]
    for _ in range(turns - 1):
        messages.append({"role": "assistant", "content": [answer]})
        messages.append({"role": "user", "content": [question]})
    return messages


def _render(checkpoint: Checkpoint, template: str, pictures: int) -> tuple[str, list[str | None]]:
    """The template with one turn and more; None where it refuses that many."""
    request = {
        "template": template,
        "conversations": [_converse(1 + more, pictures) for more in range(_TURNS)],
        "variables": {
            "add_generation_prompt": True,
            **_token_names(checkpoint.read_json("tokenizer_config.json")),
        },
    }
    command = [sys.executable, "-I", "-m", "edgetok.families.render_template"]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(request).encode(),
            capture_output=True,
            timeout=limits.CHAT_TEMPLATE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(
            f"the chat template of {checkpoint.path} ran longer than "
            f"{limits.CHAT_TEMPLATE_SECONDS} s"
        ) from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        reason = lines[-1][:300] if lines else "killed"
        raise InputError(f"the chat template of {checkpoint.path} failed: {reason}")
    first, *longer = json.loads(done.stdout)
    return first, longer


def _token_names(config: dict[str, Any]) -> dict[str, str]:
    names = {}
    for key in ("bos_token", "eos_token", "pad_token", "unk_token"):
        token = config.get(key)
        names[key] = token.get("content", "") if isinstance(token, dict) else token or ""
    return names


def _read_template(checkpoint: Checkpoint) -> str:
    named = checkpoint.path / "additional_chat_templates" / "default.jinja"
    jinja = named if named.is_file() else checkpoint.path / "chat_template.jinja"
    if jinja.is_file():
        template: Any = jinja.read_text(encoding="utf-8", errors="strict")
    else:
        template = checkpoint.read_json("chat_template.json").get("chat_template")
        template = template or checkpoint.read_json("processor_config.json").get("chat_template")
        template = template or checkpoint.read_json("tokenizer_config.json").get("chat_template")
    if isinstance(template, list):  # several with names, as transformers wrote them before 4.52
        entries = [each for each in template if isinstance(each, dict)]
        template = next((t.get("template") for t in entries if t.get("name") == "default"), None)
    if not isinstance(template, str):
        raise InputError(
            f"{checkpoint.path} has no chat template; add chat_template.jinja, the prompt format "
            "that the model was trained with"
        )
    if len(template.encode()) > limits.CHAT_TEMPLATE_BYTES:
        raise InputError(f"the chat template is longer than {limits.CHAT_TEMPLATE_BYTES} bytes")
    return template
