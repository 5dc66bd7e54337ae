"""Certifying a controller of a bundle, on the device and the graphs that will use it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict, Unpack

from edgetok.bundle.amend import put_controller
from edgetok.bundle.manifest import Flavour, digest_content
from edgetok.bundle.reader import Bundle
from edgetok.calibration.certify import Aim, Found, certify, require_samples
from edgetok.calibration.records import ask_rungs
from edgetok.calibration.samples import Sample
from edgetok.errors import UsageError
from edgetok.runtimes.load import load
from edgetok.user_cache import cache_directory

Report = Callable[[str, float], None]


class Loading(TypedDict, total=False):
    """What runs the bundle while it is asked."""

    device: str
    threads: int | None
    flavour: Flavour


def calibrate(
    bundle: str | Path,
    samples: Sequence[Sample],
    aim: Aim,
    *,
    records: Path | None = None,
    write: bool = True,
    progress: Report = lambda doing, share: None,
    **loading: Unpack[Loading],
) -> Found:
    """Ask every rung every sample, certify a policy and write it into the bundle.

    Args:
        records: file of the answers so far, which an interrupted run goes on from; one per bundle
            in the user's cache when None.
        write: put the controller into the bundle, if one is certified.
        loading: as of `load`.

    Raises:
        BundleError: if the bundle is damaged.
        InputError: if the samples cannot tell what is lost.
        UsageError: if the bundle has one rung only, or for limits out of range.
        ResourceError: if a file cannot be written.
    """
    require_samples(samples, aim)
    opened = Bundle.open(bundle)
    budgets = opened.ladder.budgets
    if len(budgets) < 2:
        raise UsageError(
            f"this bundle has one rung, of {budgets[0]} visual tokens, so there is nothing to "
            "choose; export with more --budgets"
        )
    content, flavour = digest_content(opened.manifest), loading.get("flavour", "ort")
    path = records or cache_directory() / "calibrate" / f"{content}-{flavour}.jsonl"
    model = load(opened, **loading)
    asked = ask_rungs(model, samples, budgets, path, progress, time.perf_counter)
    progress("certifying", 0.0)
    found = certify(asked, budgets, aim, content, flavour)
    if found.controller is not None and write:
        put_controller(opened, found.controller)
    return found
