"""Renders one chat template, read as JSON from standard input, with conversations of one turn and
more; run as a process of its own."""

from __future__ import annotations

import json
import resource
import sys
from typing import Any, NoReturn

_MEMORY_BYTES = 1 << 30  # Jinja itself needs 50 MB; a template that wants more is hostile


def render(template: str, variables: dict[str, Any]) -> str:
    """Render with the settings of `transformers`, in Jinja's immutable sandbox."""
    from jinja2.exceptions import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> NoReturn:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.globals["raise_exception"] = raise_exception
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string(template).render(**variables)


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    request = json.loads(sys.stdin.buffer.read())
    template, variables = request["template"], request["variables"]
    first, *longer = ({**variables, "messages": turns} for turns in request["conversations"])
    rendered = [render(template, first), *(_try(template, turns) for turns in longer)]
    sys.stdout.buffer.write(json.dumps(rendered).encode())


def _try(template: str, variables: dict[str, Any]) -> str | None:
    """A conversation of several turns, which a template may well refuse."""
    try:
        return render(template, variables)
    except Exception:  # whatever a template raises, it does not know such conversations
        return None


if __name__ == "__main__":
    main()
