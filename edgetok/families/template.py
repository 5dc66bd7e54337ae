"""Rendering the chat template of a checkpoint, in transformers' own Jinja environment.

Each call renders all its conversations in a process of its own, in Jinja's immutable sandbox, that
is ended after `limits.CHAT_TEMPLATE_SECONDS`.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from edgetok import limits
from edgetok.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgetok.families.checkpoint import Checkpoint

Conversation = list[dict[str, Any]]
_START_SECONDS = 120  # importing transformers, on a slow disk


def render(
    path: object,
    template: str,
    variables: Mapping[str, str],
    conversations: Sequence[Conversation],
) -> list[str | None]:
    """What the template makes of each conversation; None where it refuses one.

    Args:
        path: names the checkpoint in errors.
        variables: what templates may read beside messages, such as `bos_token`.

    Raises:
        InputError: if it takes too long or too much memory, or refuses the first conversation.
    """
    seconds = limits.CHAT_TEMPLATE_SECONDS
    request = {
        "template": template,
        "variables": dict(variables),
        "conversations": conversations,
        "seconds": seconds,
    }
    try:
        answers = _run(seconds, json.dumps(request))
    except ValueError as error:
        raise InputError(f"the chat template of {path} {error}") from error
    if "error" in answers[0]:
        raise InputError(f"the chat template of {path} failed: {answers[0]['error']}")
    return [answer.get("text") for answer in answers]


@lru_cache(maxsize=64)  # several parts of an export ask the same
def _run(seconds: int, request: str) -> list[dict[str, str]]:
    command = [sys.executable, "-I", "-m", "edgetok.families.render_template"]
    done = subprocess.run(
        command,
        input=request.encode(),
        capture_output=True,
        timeout=seconds + _START_SECONDS,
        check=False,
    )
    if done.returncode == -signal.SIGALRM:
        raise ValueError(f"ran longer than {seconds} s")
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        reason = lines[-1][:300] if lines else "killed"
        raise ValueError(f"failed: {reason}")
    return [dict(answer) for answer in json.loads(done.stdout)]


def read_template(checkpoint: Checkpoint) -> str:
    """The checkpoint's default chat template, from the first place where transformers looks.

    Raises:
        InputError: if there is none, or it is too long.
    """
    named = checkpoint.path / "additional_chat_templates" / "default.jinja"
    jinja = named if named.is_file() else checkpoint.path / "chat_template.jinja"
    if jinja.is_file():
        template: Any = jinja.read_text(encoding="utf-8", errors="strict")
    else:
        places = ("chat_template.json", "processor_config.json", "tokenizer_config.json")
        found = (checkpoint.read_json(name).get("chat_template") for name in places)
        template = _choose(next(filter(None, found), None))
    if not isinstance(template, str):
        raise InputError(
            f"{checkpoint.path} has no chat template; add chat_template.jinja, the prompt format "
            "that the model was trained with"
        )
    if len(template.encode()) > limits.CHAT_TEMPLATE_BYTES:
        raise InputError(f"the chat template is longer than {limits.CHAT_TEMPLATE_BYTES} bytes")
    return template


def _choose(template: Any) -> Any:
    """Of several named templates, the default one."""
    if isinstance(template, list):  # as transformers wrote them before 4.52
        entries = (each for each in template if isinstance(each, dict))
        template = {each.get("name"): each.get("template") for each in entries}
    return template.get("default") if isinstance(template, dict) else template
