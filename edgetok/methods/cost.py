"""What choosing and mixing costs: a formula that people read and that can be reckoned with."""

from __future__ import annotations

import math

POWERS = {"²": 2, "³": 3}


def reckon_flops(formula: str, **sizes: int) -> float:
    """The value of a sum of products, such as `2 N² D + 9 N`, for sizes by their letters.

    Raises:
        ValueError: if it names a letter that has no size.

    >>> reckon_flops("2 N² D + 9 N", N=10, D=4)
    890.0
    """
    return sum(math.prod(_value(f, sizes) for f in t.split()) for t in formula.split("+"))


def _value(factor: str, sizes: dict[str, int]) -> float:
    letter, power = factor[0], POWERS.get(factor[1:], 1)
    if not letter.isalpha():
        return float(factor)
    if letter not in sizes:
        raise ValueError(f"{factor!r} stands for no size; known are {', '.join(sizes)}")
    return float(sizes[letter] ** power)
