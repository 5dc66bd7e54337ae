"""Chat templates: what they become, and that hostile ones do no harm."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from edgetok import limits
from edgetok.errors import InputError
from edgetok.export.cases import split_prompt
from edgetok.families.checkpoint import read_checkpoint
from edgetok.families.prompt_plan import read_prompt

IMAGE = 3


@pytest.fixture
def copy(model_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_dir, tmp_path / "model"))


def _plan(path: Path, template: str | None = None):  # type: ignore[no-untyped-def]
    if template is not None:
        (path / "chat_template.jinja").write_text(template)
    return read_prompt(read_checkpoint(path), IMAGE).plan


def test_segments_of_the_template(copy: Path) -> None:
    plan = _plan(copy)
    assert [s.slot for s in plan.segments if s.slot] == ["image", "user"]
    assert plan.segments[0].ids == [1]
    assert plan.segments[-1].text == " ASSISTANT:"
    assert plan.forbidden_ids == [0, 1, 2, 3]


def test_ids_equal_transformers(copy: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(copy)
    question = "What is  in the\npicture? Ünïcode 画"
    content = [{"type": "image"}, {"type": "text", "text": question}]
    template = (copy / "chat_template.jinja").read_text()
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}],
        chat_template=template,
        add_generation_prompt=True,
        tokenize=False,
    )
    wanted = tokenizer(text, add_special_tokens=False)["input_ids"]
    before, after = split_prompt(_plan(copy), tokenizer.backend_tokenizer, question)
    assert [*before, IMAGE, *after] == wanted


def test_the_turn_is_what_a_longer_conversation_adds(copy: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(copy)
    plan = _plan(copy)
    assert plan.turn is not None
    assert [s.ids or s.text or s.slot for s in plan.turn] == [[2], "USER: ", "user", " ASSISTANT:"]
    question = {"role": "user", "content": [{"type": "text", "text": "why?"}]}
    messages = [question, {"role": "assistant", "content": [{"type": "text", "text": "a"}]}]
    template = (copy / "chat_template.jinja").read_text()
    texts = [
        tokenizer.apply_chat_template(
            turns, chat_template=template, add_generation_prompt=True, tokenize=False
        )
        for turns in ([question], [*messages, question], [*messages, *messages, question])
    ]
    assert texts[1] == texts[0] + " a</s>USER: why? ASSISTANT:"
    assert texts[2] == texts[1] + " a</s>USER: why? ASSISTANT:"


_FIRST = "<image>{{ messages[0]['content'][1]['text'] }} A:"
REWRITING = {
    "only the last turn": "{{ messages | length }}" + _FIRST,
    "no roles": "{% for m in messages %}{% for p in m['content'] %}{% if p['type'] == 'image' %}"
    "<image>{% else %}{{ p['text'] }}{% endif %}{% endfor %}{% endfor %} A:",
    "refuses": _FIRST
    + "{% if messages | length > 1 %}{{ raise_exception('one turn') }}{% endif %}",
    "numbers its turns": _FIRST + "{% for m in messages[1:] %}{{ m['content'][0]['text'] }}"
    "{{ loop.index }}{% endfor %}",
    "shows the question twice": _FIRST + "{% for m in messages[1:] %}{{ m['content'][0]['text'] }}"
    "{% if m['role'] == 'user' %}{{ m['content'][0]['text'] }}{% endif %}{% endfor %}",
    "drops the answer": _FIRST + "{% for m in messages[1:] if m['role'] == 'user' %}"
    "{{ m['content'][0]['text'] }} A:{% endfor %}",
}


@pytest.mark.parametrize("template", REWRITING.values(), ids=REWRITING.keys())
def test_templates_that_write_turns_anew_have_no_later_ones(copy: Path, template: str) -> None:
    assert _plan(copy, template).turn is None


HOSTILE = {
    "attribute walk": "{{ ().__class__.__bases__[0].__subclasses__() }}",
    "import": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "mutation": "{% do messages.append(1) %}{{ messages }}",
    "memory": "{{ 'x' * 10**10 }}",
    "raises": "{{ raise_exception('no images here') }}",
    "syntax": "{% for %}",
    "no user text": "<image>",
    "two images": "<image><image>{{ messages[0]['content'][1]['text'] }}",
    "empty": "",
}


@pytest.mark.parametrize("template", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_template_is_refused(copy: Path, template: str) -> None:
    with pytest.raises(InputError):
        _plan(copy, template)


def test_endless_template_is_ended(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CHAT_TEMPLATE_SECONDS", 1)
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(InputError, match="longer than 1 s"):
        _plan(copy, loop)


def test_long_template_is_refused(copy: Path) -> None:
    with pytest.raises(InputError, match="longer than"):
        _plan(copy, "x" * (limits.CHAT_TEMPLATE_BYTES + 1))
