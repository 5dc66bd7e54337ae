"""Options of an export: one default for Python, the command line and encoders."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest
import typer

import edgetok
from edgetok.cli.app import build_command
from edgetok.cli.options import with_options
from edgetok.errors import UsageError
from edgetok.export.caches.choose import NAMES
from edgetok.export.encoder.pipeline import refuse_options
from edgetok.export.options import ExportOptions, Kv
from edgetok.export.pipeline import export_model
from edgetok.options import changed, flag_of, shown_of

ROOT = Path(__file__).parents[2]
VIT = SimpleNamespace(path="vit-dir", model_type="vit")
OWN = {"model", "output", "as_json", "help"}  # of the verb: where from, where to, how it is shown


def test_the_command_line_has_the_options_of_python_and_their_defaults() -> None:
    command = build_command().get_command(None, "export")
    shown = {one.name: one for one in command.params if one.name not in OWN}
    assert [*shown] == [found.name for found in fields(ExportOptions)]
    for found in fields(ExportOptions):
        assert shown[found.name].default == found.default
        assert shown[found.name].opts[0] == flag_of(found)
        assert shown[found.name].help == shown_of(found).help
    assert ExportOptions() == ExportOptions(**{name: one.default for name, one in shown.items()})


def test_pages_name_no_other_default() -> None:
    """Wherever a page says "`--option` … (V by default)", V is what the field says."""
    defaults = {flag_of(found): str(found.default) for found in fields(ExportOptions)}
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        text = page.read_text(encoding="utf-8")
        for flag, value in re.findall(r"`(--[a-z-]+)`[^.|`]{0,60}?(\d+) by default", text):
            assert defaults.get(flag, value) == value, (page.name, flag)


def test_an_encoder_that_is_asked_for_nothing_is_not_refused() -> None:
    refuse_options(VIT, ExportOptions())  # type: ignore[arg-type]
    refuse_options(VIT, ExportOptions(prefill=None, flavour="portable"))  # type: ignore[arg-type]


OTHER = {
    "mask_sinks": True,
    "kv": "think",
    "flavour": "portable-20",
    "tiles": (2, 2),
    "size_px": (64, 64),
    "prefill": "fastv",
}


@pytest.mark.parametrize(
    "name", [found.name for found in fields(ExportOptions) if shown_of(found).encoder is not True]
)
def test_an_encoder_refuses_any_option_of_answers(name: str) -> None:
    asked = ExportOptions(**{name: OTHER.get(name, 3)})
    with pytest.raises(UsageError, match="encoder of type 'vit', which has no use for --") as found:
        refuse_options(VIT, asked)  # type: ignore[arg-type]
    assert [flag_of(one) in str(found.value) for one in changed(asked)] == [True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kv_slot": 3}, r"export has no option 'kv_slot'; near ones are kv_slots"),
        ({"images": 2}, r"near ones are pictures"),
        ({"image_size": (2, 2)}, r"near ones are size_px"),
        ({"qqq": 2}, r"near ones are budgets, method, mask_sinks"),
        ({"weights": "fp8"}, "weights precision 'fp8' is unknown; choose fp32, int8, int4"),
        ({"kv": "int8"}, "--kv int8 measures its scales on your data; add --samples"),
        ({"parity_images": 0}, "0 parity images are none; give --parity-images 1 or more"),
        ({"parity_images": 10**6}, "are too many; give --parity-images 100000 or fewer"),
        ({"pictures": 0}, "0 images per prompt are none; give --images 1 or more"),
    ],
)
def test_odd_options_are_refused(tmp_path: Path, options: dict[str, object], message: str) -> None:
    for export in (export_model, edgetok.export):
        with pytest.raises(UsageError, match=message):
            export(tmp_path, tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_precisions_of_caches_are_those_that_there_are() -> None:
    assert get_args(Kv) == NAMES


def test_an_option_of_a_verb_is_one_field() -> None:
    """What the command line reads is in the dataclass that the command gets."""
    got: list[ExportOptions] = []

    @with_options
    def command(asked: ExportOptions, loud: bool = False) -> None:
        got.append(asked)

    verbs = typer.Typer()
    verbs.command()(command)
    typer.main.get_command(verbs).main(["--tiles", "2x3", "--images", "2"], standalone_mode=False)
    assert got == [ExportOptions(tiles=(2, 3), pictures=2)]
