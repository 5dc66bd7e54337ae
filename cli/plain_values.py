"""Plain values of the command line, read without pydantic.

typer hands every value to pydantic, whose import and adapters take a tenth of the time in which
`edgetok run` answers. What is not plain, and all that is wrong, is left to typer and its messages.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

_READERS: dict[type, tuple[type, re.Pattern[str]]] = {
    int: (int, re.compile(r"-?[0-9]{1,18}")),
    float: (float, re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,18})?")),
}


def read_plain_values(command: Any) -> None:
    """Have the parameters of a typer command, and its --help, read what is plain by themselves."""
    list_parameters = command.get_params

    def list_readers(context: Any) -> Any:
        parameters = list_parameters(context)
        for parameter in parameters:
            if getattr(parameter, "_runtime_param", "") is None:  # as typer 0.29 keeps its reader
                parameter._runtime_param = _PlainFirst()
        return parameters

    command.get_params = list_readers


class _PlainFirst:
    """In the place of typer's own reader, until there is something for that."""

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        kind, several = param.type_descriptor.annotation, param.multiple or param.nargs == -1
        info = param.type_descriptor.parameter_info
        try:
            if value is None:
                return () if several else None
            if several:
                return [_read(each, get_args(kind)[0], info) for each in value]
            return _read(value, kind, info)
        except ValueError:
            param._runtime_param = None
            return param.get_runtime_param().coerce(value, param=param, ctx=ctx)


def _read(value: Any, kind: Any, info: Any) -> Any:
    """A value of this type.

    Raises:
        ValueError: if it is not plain.
    """
    if kind in _READERS:
        return _read_number(value, *_READERS[kind], info)
    if kind is str and isinstance(value, str):
        return value
    if kind is Path and isinstance(value, str | Path) and _is_free(value, info):
        return Path(value)
    if get_origin(kind) is Literal and value in get_args(kind):
        return value
    raise ValueError(value)


def _read_number(value: Any, kind: type, pattern: re.Pattern[str], info: Any) -> Any:
    if not isinstance(value, kind):
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise ValueError(value)
        value = kind(value)
    below, above = (
        info.min is not None and value < info.min,
        info.max is not None and value > info.max,
    )
    if below or above:
        raise ValueError(value)
    return value


def _is_free(path: str | Path, info: Any) -> bool:
    """Whether nothing is asked of a path but that it can be read if it is there, and that holds."""
    asked = info.exists, info.writable, info.resolve_path, info.allow_dash, info.path_type
    if any(asked) or not (info.file_okay and info.dir_okay and info.readable):
        return False
    return os.access(path, os.R_OK) or not os.path.lexists(path)
