"""Published compressors, one file each, composed from `edgetok.tokens`.

The list and its facts load without torch; `compress` needs it.
"""

from __future__ import annotations

from edgetok.errors import UsageError
from edgetok.methods import (
    aim,
    catp,
    cdpruner,
    crossget,
    crossget_b,
    dart,
    divprune,
    evit,
    expedit,
    explainability,
    fastervlm,
    flowcut,
    flowcut_score,
    fopru,
    globalcom2,
    hiprune,
    hired,
    holitom,
    kffocus,
    llavolta,
    lvlm_csp,
    mctf,
    mmtok,
    mustdrop,
    mustdrop_windows,
    pitome,
    pool,
    prumerge,
    quota,
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
from edgetok.methods.method import MASKED_SINKS, Method

__all__ = ["FRAME_METHODS", "METHODS", "TOWER_METHODS", "Method", "find_method"]

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
        dart.METHOD,
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
        mmtok.METHOD,
        catp.METHOD,
        explainability.METHOD,
        lvlm_csp.METHOD,
        lvlm_csp.BY_ATTENTION,
        crossget.METHOD,
        hired.METHOD,
        globalcom2.METHOD,
        flowcut_score.METHOD,
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

# These share a budget among the pictures, or frames, of a prompt; the others take equal shares.
FRAME_METHODS: dict[str, Method] = {
    method.name: method for method in (quota.METHOD, quota.BY_TEXT, kffocus.METHOD, holitom.METHOD)
}


def find_method(name: str, seed: int = 0, *, mask_sinks: bool = False) -> Method:
    """The method of this name; `seed` is for those that draw and ignored by the others.

    A name that ends in "+masked-sinks" means the same as `mask_sinks`: attention sinks are taken
    only if nothing else is left.

    Raises:
        UsageError: if there is none; names those there are. Or if it has no sinks to mask.
    """
    if mask_sinks or name.endswith(MASKED_SINKS):
        return find_method(name.removesuffix(MASKED_SINKS), seed).masking_sinks()
    known = METHODS | TOWER_METHODS | FRAME_METHODS
    if name not in known:
        raise UsageError(f"no method {name!r}; edgetok has {', '.join(known)}")
    if seed < 0:
        raise UsageError(f"seed {seed} is negative; use 0 or more")
    method = known[name]
    return method.reseed(seed) if method.reseed else method
