"""`edgetok clean`: remove what killed exports left, and measurements on request."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgetok.cli.options import Json
from edgetok.cli.output import emit
from edgetok.errors import UsageError


def clean_command(
    directory: Annotated[
        Path, typer.Argument(help="Where bundles were being written; not searched deeper.")
    ] = Path(),
    tables: Annotated[
        bool, typer.Option("--tables", help="Also forget what `edgetok bench` measured.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Remove temporary directories of exports that were killed; running ones stay."""
    from edgetok.bundle.target import clean_stale

    if not directory.is_dir():
        raise UsageError(f"{directory} is no directory; give the one that holds your bundles")
    removed = clean_stale(directory)
    if tables:
        removed += _remove_tables()
    lines = [f"removed {path}" for path in removed] or ["nothing to remove"]
    emit({"removed": removed}, as_json, "\n".join(lines))


def _remove_tables() -> list[Path]:
    from edgetok.user_cache import cache_directory

    found = sorted((cache_directory() / "bench").glob("*.json"))
    for path in found:
        path.unlink(missing_ok=True)
    return found
