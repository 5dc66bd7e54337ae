"""Published reductions inside the decoder at prefill, one file each.

The list and its facts load without torch; a cut needs it.
"""

from __future__ import annotations

from pathlib import Path

from edgetok.errors import UsageError
from edgetok.prefill import (
    adatoken_3d,
    aim,
    atp_llava,
    catp,
    corematching,
    dart,
    dyvte,
    dyvte_signal,
    fastv,
    ima,
    mustdrop,
    pyramiddrop,
    random,
    sparsevlm,
    stride,
    todre,
    vasparse,
    visiondrop,
    yopo,
)
from edgetok.prefill.method import Prefill, PrefillMethod
from edgetok.prefill.plan import read_plan

__all__ = ["PREFILL_METHODS", "Prefill", "PrefillMethod", "find_prefill"]

PREFILL_METHODS: dict[str, PrefillMethod] = {
    method.name: method
    for method in (
        fastv.METHOD,
        pyramiddrop.METHOD,
        sparsevlm.METHOD,
        sparsevlm.V2,
        dart.METHOD,
        visiondrop.METHOD,
        mustdrop.METHOD,
        aim.METHOD,
        corematching.METHOD,
        todre.METHOD,
        dyvte.METHOD,
        dyvte_signal.METHOD,
        catp.METHOD,
        atp_llava.METHOD,
        adatoken_3d.METHOD,
        vasparse.METHOD,
        yopo.METHOD,
        ima.METHOD,
        random.METHOD,
        stride.METHOD,
    )
}
NONE = "none"


def find_prefill(text: str | Prefill | None) -> Prefill | None:
    """What a user typed: NAME, NAME:RATIO or a plan file (*.json); None for "none".

    One that is given is itself.

    Raises:
        UsageError: for an unknown name, or a ratio that is none in 0..1 without 0.
        InputError: for a plan file that is none.

    >>> find_prefill("fastv:0.25").ratio
    0.25
    """
    if text is None or isinstance(text, Prefill):
        return text
    if text.strip().endswith(".json"):
        return read_plan(Path(text.strip()), PREFILL_METHODS)
    name, colon, given = text.strip().partition(":")
    if name == NONE and not colon:
        return None
    if name not in PREFILL_METHODS:
        raise UsageError(
            f"no prefill method {name!r}; edgetok has {', '.join(PREFILL_METHODS)}, or {NONE}"
        )
    method = PREFILL_METHODS[name]
    return Prefill(method, _parse_ratio(name, given) if colon else method.ratio)


def _parse_ratio(name: str, text: str) -> float:
    try:
        ratio = float(text)
    except ValueError:
        ratio = -1.0
    if not 0.0 < ratio <= 1.0:  # NaN is not either
        raise UsageError(
            f"the ratio of {name} is {text!r}; it must be above 0 and at most 1, "
            f"such as {name}:{PREFILL_METHODS[name].ratio}"
        )
    return ratio
