"""Renders a chat template with conversations, as JSON from standard input to standard output.

Run as a process of its own, since a template is a program that came with a checkpoint.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from functools import partial
from typing import Any

_MEMORY_BYTES = 1 << 30  # transformers and Jinja need 200 MB; a template that wants more is hostile


def main() -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    request = json.loads(sys.stdin.buffer.read())
    signal.alarm(request["seconds"])  # ends the process, whatever the template is doing
    render = partial(
        render_jinja_template,
        chat_template=request["template"],
        add_generation_prompt=True,
        **request["variables"],
    )
    answers = [_try(render, conversation) for conversation in request["conversations"]]
    sys.stdout.buffer.write(json.dumps(answers).encode())


def _try(render: Any, conversation: Any) -> dict[str, str]:
    """The text, or why there is none: a template may well refuse a conversation."""
    try:
        return {"text": render(conversations=[conversation])[0][0]}
    except Exception as error:  # whatever a template raises
        return {"error": f"{type(error).__name__}: {error}"[:300]}


if __name__ == "__main__":
    main()
