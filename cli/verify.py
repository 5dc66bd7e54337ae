"""`edgetok verify`: check on this device that a bundle answers as it did when exported."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.table import Table

from edgetok.cli.options import BundleDir, Device, Json
from edgetok.cli.output import emit, table, working
from edgetok.errors import UsageError, VerificationError

if TYPE_CHECKING:
    from edgetok.runtimes.checks import Report

_DIGEST = re.compile(r"(?:sha256:)?([0-9a-f]{64})")


def verify_command(
    bundle: BundleDir,
    expect_digest: Annotated[
        str | None,
        typer.Option(
            metavar="sha256:…",
            help="Digest that `inspect` or `export` showed, kept through a channel you trust.",
        ),
    ] = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Check every file's hash, then run the golden samples on this device.

    Hashes find damage. Only --expect-digest checks where a bundle comes from.
    """
    expected = None if expect_digest is None else _parse_digest(expect_digest)
    with working(as_json) as progress:
        from edgetok.bundle.reader import EncoderBundle, open_bundle

        progress("checking files", 0.0)
        opened = open_bundle(bundle)
        if expected is not None and opened.digest != expected:
            raise VerificationError(
                f"{bundle} has digest sha256:{opened.digest}, and sha256:{expected} was expected; "
                f"it is whole, but it is another bundle"
            )
        progress("running golden samples", 0.2)
        if isinstance(opened, EncoderBundle):
            from edgetok.runtimes.encoder.model import load_encoder
            from edgetok.runtimes.encoder.verify import verify_encoder

            with load_encoder(opened, device=device) as encoder:
                report = verify_encoder(opened, encoder)
        else:
            from edgetok.runtimes.load import load
            from edgetok.runtimes.verify import verify

            with load(opened, device=device) as model:
                report = verify(opened, model)
        report.require_passed()
    digest = f"sha256:{opened.digest}"
    checks = msgspec.to_builtins(report.checks)
    emit({"digest": digest, "checks": checks}, as_json, _show(report), f"digest {digest}")


def _show(report: Report) -> Table:
    """The worst value of each kind of comparison."""
    shown = table("All checks passed", "what agrees", ">checks", ">worst", ">allowed")
    for what in dict.fromkeys(check.what for check in report.checks):
        alike = [check for check in report.checks if check.what == what]
        worst = max(alike, key=lambda check: check.value)
        shown.add_row(what, str(len(alike)), f"{worst.value:.2g}", f"{worst.tolerance:.2g}")
    return shown


def _parse_digest(text: str) -> str:
    match = _DIGEST.fullmatch(text.strip().lower())
    if match is None:
        raise UsageError(f"--expect-digest {text!r} is not sha256: and 64 hexadecimal digits")
    return match[1]
