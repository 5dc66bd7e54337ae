"""Several images in a prompt: one family's parts for one image, repeated.

The tower looks at one image after another. At the full budget the language model reads each as
the family lays it out, with the words between them that its chat template and processor write;
smaller budgets have the tokens alone, as they have no other separators either.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgetok.families.parts import Layout, Parts

if TYPE_CHECKING:
    from collections.abc import Sequence


def repeat_pictures(parts: Parts, gaps: Sequence[Sequence[int]]) -> Parts:
    """Parts for one image more than there are gaps, of which each holds ids of text."""
    import torch

    if not gaps:
        return parts
    n, pictures = parts.vision.full_tokens, len(gaps) + 1
    own = range(n) if parts.layout is None else parts.layout.order
    ids = [index for gap in gaps for index in gap]
    with torch.no_grad():
        words = parts.text.embed(torch.tensor(ids, dtype=torch.int64))
    kept = words[:0] if parts.layout is None else parts.layout.separators
    following = iter(range(n * pictures + len(kept), n * pictures + len(kept) + len(ids)))
    order: list[int] = []
    for picture in range(pictures):
        first = picture * n
        order += [first + row if row < n else n * (pictures - 1) + row for row in own]
        order += [next(following) for _ in (gaps[picture] if picture < len(gaps) else ())]
    return replace(
        parts,
        vision=replace(parts.vision, pictures=pictures),
        layout=Layout(tuple(order), torch.cat([kept, words])),
    )
