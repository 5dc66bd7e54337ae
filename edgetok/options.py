"""Options as fields of a frozen dataclass: name, default, help and limits stand once.

Python's functions are filled by `fill`, and the command line reads the same fields
(`edgetok.cli.options.with_options`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from difflib import get_close_matches
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from edgetok.errors import UsageError

_Options = TypeVar("_Options")


@dataclass(frozen=True)
class Shown:
    """What is known of an option besides its name, type and default.

    Args:
        help: a sentence or two for the command line.
        flag: on the command line; the name with hyphens if empty.
        shell: the type that the command line reads, where it is another than the field's.
        read: makes a value of what the command line read, given the flag too.
        noun: what a value is called that is none of those of a `Literal`, or beyond the limits.
        least, most: limits of a number.
        encoder: whether models without a language model have a use for it, or for which values
            besides the default.
        answers: whether models with one do.
        typer: what `typer.Option` takes besides.
    """

    help: str
    flag: str = ""
    shell: Any = None
    read: Callable[[Any, str], Any] | None = None
    noun: str = ""
    least: int | None = None
    most: int | None = None
    encoder: bool | tuple[object, ...] = False
    answers: bool = True
    typer: Mapping[str, Any] = field(default_factory=dict)


def option(default: Any, help: str, **shown: Any) -> Any:
    """A field of options; `shown` as of `Shown`."""
    return field(default=default, metadata={"shown": Shown(help, **shown)})


def shown_of(field: Field[Any]) -> Shown:
    """What `option` was told of a field."""
    shown: Shown = field.metadata["shown"]
    return shown


def flag_of(field: Field[Any]) -> str:
    """An option as users of the command line write it."""
    return shown_of(field).flag or f"--{field.name.replace('_', '-')}"


def fill(kind: type[_Options], given: Mapping[str, object], of: str) -> _Options:
    """Options by name.

    Raises:
        UsageError: for a name that is not known, listing near ones; or as the options themselves.
    """
    known = {found.name: found for found in fields(kind)}  # type: ignore[arg-type]
    for name in given:
        if name not in known:
            flags = {flag_of(found)[2:].replace("-", "_"): one for one, found in known.items()}
            near = get_close_matches(name, [*flags, *known], 4, 0.5)
            names = list(dict.fromkeys(flags.get(one, one) for one in near)) or list(known)
            raise UsageError(f"{of} has no option {name!r}; near ones are {', '.join(names)}")
    return kind(**given)


def changed(options: object) -> list[Field[Any]]:
    """The fields whose values are not their defaults."""
    every = fields(options)  # type: ignore[arg-type]
    return [found for found in every if getattr(options, found.name) != found.default]


def require_known(options: object) -> None:
    """Refuse names that are none of a `Literal`, and numbers beyond the limits.

    Raises:
        UsageError: naming the value, what is possible and the option.
    """
    hints = get_type_hints(type(options))
    for found in fields(options):  # type: ignore[arg-type]
        shown, value, known = shown_of(found), getattr(options, found.name), ()
        if get_origin(hints[found.name]) is Literal:
            known = get_args(hints[found.name])
        if known and value not in known:
            raise UsageError(f"{shown.noun} {value!r} is unknown; choose {', '.join(known)}")
        if shown.least is not None and value is not None and value < shown.least:
            way_out = f"give {flag_of(found)} {shown.least} or more"
            raise UsageError(f"{value} {shown.noun} are none; {way_out}")
        if shown.most is not None and value is not None and value > shown.most:
            way_out = f"give {flag_of(found)} {shown.most} or fewer"
            raise UsageError(f"{value} {shown.noun} are too many; {way_out}")
