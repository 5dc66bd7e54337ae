"""Prompt plans against transformers: control tokens, stripped texts, system messages, refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from edgetok.errors import InputError, UsageError
from edgetok.families.checkpoint import read_checkpoint
from edgetok.families.prompt_check import BATTERY
from edgetok.families.prompt_plan import read_prompt
from edgetok.families.tokenizer import write_tokenizer
from edgetok.text.prompt import encode_prompt
from edgetok.text.tokenizer import load_tokenizer

IMAGE = 3
TEXTS = (
    "What is it?",
    "",
    "  two  ",
    "\n\n",
    "\tfirst\nsecond \u00a0",
    "漢字 🙂",
    "\x1c\x1d x \x1e",
)
CONTENT = (
    "{% for c in m.content %}{% if c.type == 'image' %}{{ '<image>\n' }}"
    "{% else %}{{ TEXT }}{% endif %}{% endfor %}"
)
LOOP = "{{ bos_token }}{% for m in messages %}BODY{% endfor %}{{ '<|assistant|>\n' }}"


@pytest.fixture
def copy(model_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_dir, tmp_path / "model"))


def write_template(path: Path, *, text: str = "c.text", before: str = "'USER: '") -> None:
    body = "{{ " + before + " }}" + CONTENT.replace("TEXT", text) + "{{ ' <|end|> \n' }}"
    (path / "chat_template.jinja").write_text(LOOP.replace("BODY", body))


def add_tokens(path: Path, **flags: bool) -> None:
    file = path / "tokenizer.json"
    data = json.loads(file.read_text())
    start = 1 + max(data["model"]["vocab"].values())
    usual = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    for place, content in enumerate(("<|user|>", "<|end|>", "<|assistant|>")):
        token = {"id": start + place, "content": content, "special": True}
        data["added_tokens"].append(token | usual | flags)
    file.write_text(json.dumps(data))


def ask_transformers(path: Path, text: str, system: Any = None) -> list[int]:
    """Ids of a question by `apply_chat_template` and the tokenizer, nothing of edgetok."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.chat_template = (path / "chat_template.jinja").read_text()
    messages = [] if system is None else [{"role": "system", "content": system}]
    content = [{"type": "image"}, {"type": "text", "text": text}]
    messages.append({"role": "user", "content": content})
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    special = not rendered.startswith(tokenizer.bos_token or "\0")
    return list(tokenizer(rendered, add_special_tokens=special)["input_ids"])


def require_same(path: Path, system: str | None = None, shown: Any = None) -> None:
    plan = read_prompt(read_checkpoint(path), IMAGE).plan
    tokenizer = load_tokenizer(write_tokenizer(path))
    for text in TEXTS:
        prompt = encode_prompt(plan, tokenizer, text, system)
        wanted = ask_transformers(path, text, system if shown is None else shown)
        assert [*prompt.before, IMAGE, *prompt.after] == wanted, text


@pytest.mark.parametrize(
    "flags",
    [
        {"lstrip": True},
        {"rstrip": True},
        {"lstrip": True, "rstrip": True},
        {"normalized": True},
        {"special": False},
    ],
    ids=str,
)
def test_control_tokens_take_white_space(copy: Path, flags: dict[str, bool]) -> None:
    add_tokens(copy, **flags)
    write_template(copy, before="'<|user|>'")
    require_same(copy)


@pytest.mark.parametrize(
    "text", ["c.text | trim", "c.text.strip()", "c.text.lstrip()", "c.text.rstrip()"]
)
def test_templates_strip_texts(copy: Path, text: str) -> None:
    write_template(copy, text=text)
    require_same(copy)


@pytest.mark.parametrize(
    "text",
    [
        "c.text | upper",
        "c.text | replace('  ', ' ')",
        "c.text[:20]",
        "c.text | escape",
        "c.text | trim('\n')",
    ],
)
def test_templates_that_change_texts_are_refused(copy: Path, text: str) -> None:
    write_template(copy, text=text)
    with pytest.raises(InputError, match="template"):
        read_prompt(read_checkpoint(copy), IMAGE)


def test_own_tokens_on_both_sides(copy: Path) -> None:
    file = copy / "tokenizer.json"
    data = json.loads(file.read_text())
    pieces = [{"SpecialToken": {"id": name, "type_id": 0}} for name in ("<s>", "</s>")]
    single = [pieces[0], {"Sequence": {"id": "A", "type_id": 0}}, pieces[1]]
    tokens = {
        name: {"id": name, "ids": [index], "tokens": [name]}
        for index, name in ((1, "<s>"), (2, "</s>"))
    }
    kind = "TemplateProcessing"
    data["post_processor"] = {"type": kind, "single": single, "pair": [], "special_tokens": tokens}
    file.write_text(json.dumps(data))
    write_template(copy)
    template = copy / "chat_template.jinja"
    template.write_text(template.read_text().replace("{{ bos_token }}", ""))
    assert ask_transformers(copy, "x")[0] == 1
    assert ask_transformers(copy, "x")[-1] == 2
    require_same(copy)


def test_truncation_and_padding_of_the_file_do_nothing(copy: Path) -> None:
    file = copy / "tokenizer.json"
    wanted = ask_transformers(copy, "word " * 40)
    cut = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"truncation": cut}))
    plan = read_prompt(read_checkpoint(copy), IMAGE).plan
    prompt = encode_prompt(plan, load_tokenizer(write_tokenizer(copy)), "word " * 40)
    assert [*prompt.before, IMAGE, *prompt.after] == wanted


def test_transformers_variables_blocks_and_functions(copy: Path) -> None:
    file = copy / "tokenizer_config.json"
    named = {"extra_special_tokens": {"image_token": "<image>"}}
    file.write_text(json.dumps(json.loads(file.read_text()) | named))
    write_template(copy)
    template = copy / "chat_template.jinja"
    begin = (
        "{% if tools is not none or documents is not none %}{{ raise_exception('x') }}{% endif %}"
        "{% generation %}{{ 'G' }}{% endgeneration %}{{ strftime_now('%Y') }}"
    )
    template.write_text(begin + template.read_text().replace("'<image>", "image_token + '"))
    require_same(copy)


SYSTEM = " Answer in one word. "


def test_system_messages_of_parts(copy: Path) -> None:
    write_template(copy, before="m.role | upper + ': '")
    require_same(copy, SYSTEM, [{"type": "text", "text": SYSTEM}])


def test_system_messages_of_text_alone(copy: Path) -> None:
    write_template(copy)
    template = copy / "chat_template.jinja"
    begin = (
        "{% if messages[0].role == 'system' %}{{ 'S: ' + messages[0].content | trim }}"
        "{% set messages = messages[1:] %}{% endif %}"
    )
    template.write_text(begin + template.read_text())
    require_same(copy)
    require_same(copy, SYSTEM)


def test_a_template_without_system_messages(copy: Path) -> None:
    write_template(copy)
    template = copy / "chat_template.jinja"
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    template.write_text(refusal + template.read_text())
    plan = read_prompt(read_checkpoint(copy), IMAGE).plan
    with pytest.raises(UsageError, match="takes no system message"):
        encode_prompt(plan, load_tokenizer(write_tokenizer(copy)), "x", "y")


def converse(path: Path, texts: list[str], reply: str, system: str | None) -> list[int]:
    """Ids of a whole conversation by transformers, the question of its last turn included."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    messages: list[Any] = [] if system is None else [{"role": "system", "content": system}]
    for turn, text in enumerate(texts):
        content = [{"type": "image"}] * (not turn) + [{"type": "text", "text": text}]
        answer = {"role": "assistant", "content": [{"type": "text", "text": reply}]}
        messages += [*([answer] if turn else []), {"role": "user", "content": content}]
    template = (path / "chat_template.jinja").read_text()
    rendered = tokenizer.apply_chat_template(
        messages, chat_template=template, tokenize=False, add_generation_prompt=True
    )
    return list(tokenizer(rendered, add_special_tokens=False)["input_ids"])


CHAT = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content + '\n' }}"
    "{% else %}{{ '<|user|>' if m.role == 'user' else '<|assistant|>\n' }}{% for c in m.content %}"
    "{% if c.type == 'image' %}{{ '<image>\n' }}{% else %}{{ c.text | trim }}{% endif %}"
    "{% endfor %}{{ '<|end|>\n' }}{% endif %}{% endfor %}{{ '<|assistant|>\n' }}"
)


def test_conversations_are_compared(copy: Path) -> None:
    add_tokens(copy)
    (copy / "chat_template.jinja").write_text(CHAT)
    side = read_prompt(read_checkpoint(copy), IMAGE)
    assert side.conversations == len(side.prompts) == 2 * len(BATTERY)
    assert [turn.text for turn in side.turns] == [*BATTERY[2:], *BATTERY[:2]]
    assert {prompt.system for prompt in side.prompts} == {None, SYSTEM}
    for turn in side.turns:
        for system in (None, "Be brief."):
            ids = converse(copy, ["what?", "and then", turn.text], "nothing at all", system)
            assert ids[-len(turn.ids) :] == turn.ids
            assert len(turn.ids) > 3


def test_a_text_that_changes_in_later_turns_alone_is_refused(copy: Path) -> None:
    add_tokens(copy)
    later = "(c.text if m in messages[:2] else c.text | replace('123', '321')) | trim"
    (copy / "chat_template.jinja").write_text(CHAT.replace("c.text | trim", later))
    wanted = r"the chat template makes of the conversation .* then '1234567890 .* another one: "
    with pytest.raises(InputError, match=wanted):
        read_prompt(read_checkpoint(copy), IMAGE)
