"""TidalDecode (arXiv 2410.05076): a few layers look at all rows and say which ones others read.

The released code lets layer 2 choose, and in its evaluations layer 9 of 32 choose again (its
example's entry point, `enable_tidal`, says 13); of other depths the second is the layer that lies
as deep, if any lies between it and the first.
"""

from __future__ import annotations

from edgetok.kv.reading import Reading

FIRST = 2
SECOND, OF = 9, 32


def list_selects(layers: int) -> tuple[int, ...]:
    """Layers that choose; none where no layer is left to read what they chose.

    >>> list_selects(32), list_selects(6), list_selects(3)
    ((2, 9), (2,), ())
    """
    second = (2 * SECOND * layers + OF) // (2 * OF)  # rounded
    if layers <= FIRST + 1:
        return ()
    return (FIRST, second) if second > FIRST + 1 else (FIRST,)


READING = Reading(
    name="tidaldecode",
    paper="arXiv 2410.05076",
    summary="every row; behind layers that choose, a step reads the chosen ones alone",
    differs="rows are chosen for a key/value head, not each query head (67.4 % of rows at two "
    "heads a group, all of them at one); chosen again at layer 9 of 32, as in the program's "
    "evaluations, where its example says 13",
    selects=list_selects,
)
