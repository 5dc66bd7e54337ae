"""Published compressors, one file each, composed from `edgetok.tokens`.

The list and its facts load without torch; `compress` needs it.
"""

from __future__ import annotations

from edgetok.errors import UsageError
from edgetok.methods import (
    aim,
    crossget_b,
    divprune,
    evit,
    expedit,
    fastervlm,
    flowcut,
    fopru,
    hiprune,
    llavolta,
    mctf,
    mustdrop,
    mustdrop_windows,
    pitome,
    pool,
    prumerge,
    random,
    recoverable,
    sparsity_similarity,
    todre,
    token_transforming,
    tokencorr,
    tome,
    turbo,
    vflowopt,
    visiondrop,
    visionzip,
    vispruner,
    vmtc,
    vtc_cls,
)
from edgetok.methods.method import Method

__all__ = ["METHODS", "TOWER_METHODS", "Method", "find_method"]

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
        random.METHOD,
        pool.METHOD,
    )
}

# These act inside the tower: they reduce its rows block by block.
TOWER_METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        tome.METHOD,
        pitome.METHOD,
        mctf.METHOD,
        evit.METHOD,
        evit.TOPK,
        token_transforming.METHOD,
        crossget_b.METHOD,
        flowcut.METHOD,
        mustdrop_windows.METHOD,
        expedit.METHOD,
    )
}


def find_method(name: str, seed: int = 0) -> Method:
    """The method of this name; `seed` is for those that draw and ignored by the others.

    Raises:
        UsageError: if there is none; names those there are.
    """
    known = METHODS | TOWER_METHODS
    if name not in known:
        raise UsageError(f"no method {name!r}; edgetok has {', '.join(known)}")
    if seed < 0:
        raise UsageError(f"seed {seed} is negative; use 0 or more")
    method = known[name]
    return method.reseed(seed) if method.reseed else method
