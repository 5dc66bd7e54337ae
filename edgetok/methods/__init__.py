"""Published compressors, one file each, composed from `edgetok.tokens`.

The list and its facts load without torch; `compress` needs it.
"""

from __future__ import annotations

from edgetok.errors import UsageError
from edgetok.methods import (
    aim,
    cdpruner,
    divprune,
    fastervlm,
    fopru,
    hiprune,
    llavolta,
    mustdrop,
    pool,
    prumerge,
    random,
    recoverable,
    sparsity_similarity,
    todre,
    tokencorr,
    turbo,
    vflowopt,
    visiondrop,
    visionzip,
    vispruner,
    vmtc,
    vtc_cls,
)
from edgetok.methods.method import Method

__all__ = ["METHODS", "Method", "find_method"]

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        fastervlm.METHOD,
        visionzip.METHOD,
        vtc_cls.METHOD,
        fopru.METHOD,
        fopru.ROWS,
        hiprune.METHOD,
        sparsity_similarity.METHOD,
        divprune.METHOD,
        todre.METHOD,
        vispruner.METHOD,
        prumerge.METHOD,
        prumerge.PLUS,
        llavolta.METHOD,
        vflowopt.METHOD,
        aim.METHOD,
        turbo.METHOD,
        vmtc.METHOD,
        tokencorr.METHOD,
        visiondrop.METHOD,
        mustdrop.METHOD,
        recoverable.METHOD,
        cdpruner.METHOD,
        random.METHOD,
        pool.METHOD,
    )
}


def find_method(name: str, seed: int = 0) -> Method:
    """The method of this name; `seed` is for those that draw and ignored by the others.

    Raises:
        UsageError: if there is none; names those there are.
    """
    if name not in METHODS:
        raise UsageError(f"no method {name!r}; edgetok has {', '.join(METHODS)}")
    if seed < 0:
        raise UsageError(f"seed {seed} is negative; use 0 or more")
    method = METHODS[name]
    return method.reseed(seed) if method.reseed else method
