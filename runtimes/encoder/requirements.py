"""What an encoder's runtime refuses before it works."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, get_args

from edgetok.bundle.encoders import EncoderManifest
from edgetok.bundle.manifest import Flavour
from edgetok.bundle.reader import EncoderBundle
from edgetok.errors import BundleError, ResourceError, UsageError
from edgetok.runtimes.device import machine
from edgetok.runtimes.runtime.requirements import WEIGHTS_PREFIX

_SCRATCH_BYTES = 64 << 20  # sessions and activations of the smallest encoder


def require_budgets(bundle: EncoderBundle, budgets: Iterable[int] | None) -> tuple[int, ...]:
    """The rungs to load, ascending; all of the bundle's if None."""
    wanted = bundle.budgets if budgets is None else tuple(sorted(set(budgets)))
    if unknown := [budget for budget in wanted if budget not in bundle.budgets]:
        raise UsageError(f"no rung of {unknown[0]} patches; this bundle has {bundle.budgets}")
    if not wanted:
        raise UsageError(f"no rungs to load; name some of {bundle.budgets}")
    return wanted


def require_flavour(manifest: EncoderManifest, flavour: str) -> None:
    """Refuse a flavour of which the bundle has no graphs."""
    known = get_args(Flavour)
    if flavour not in known:
        raise UsageError(f"flavour {flavour!r} is unknown; choose {', '.join(known)}")
    if flavour not in {stage.flavour for stage in manifest.stages}:
        raise UsageError(
            f"this bundle has no {flavour} graphs; export it again with --flavour {flavour}, "
            "or run its ort graphs"
        )


def require_memory(manifest: EncoderManifest) -> None:
    """Refuse what the machine has too little free memory for."""
    weights = sum(f.bytes for path, f in manifest.files.items() if path.startswith(WEIGHTS_PREFIX))
    needed, available = weights + _SCRATCH_BYTES, machine.available_bytes()
    if available is not None and needed > available:
        raise ResourceError(
            f"this bundle needs at least {needed >> 20} MiB and {available >> 20} MiB are free; "
            "end other programs, or export with int4 weights"
        )


def read_tokenizer(bundle: EncoderBundle) -> Any:
    """A tokenizer that pads by itself; None where there is no text."""
    if bundle.manifest.text is None:
        return None
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(bundle.tokenizer().decode())
    except BundleError:
        raise
    except Exception as error:  # the binding raises bare Exception
        raise BundleError(
            f"the tokenizer cannot be read ({error}); upgrade `tokenizers` or export again"
        ) from error
    tokenizer.no_truncation()
    return tokenizer
