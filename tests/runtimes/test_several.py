"""What is one image of a prompt and what is a list of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgetok.errors import UsageError
from edgetok.runtimes.images.several import list_pictures


def make_given(kind: str) -> Any:
    import torch

    return {
        "bytes": b"data",
        "bytearray": bytearray(b"data"),
        "memoryview": memoryview(b"data"),
        "array": np.zeros((4, 6, 3), np.uint8),
        "tensor": torch.zeros(4, 6, 3),
        "dict": {"image": b"data"},
        "path": "scene.png",
        "number": 3,
    }[kind]


@pytest.mark.parametrize(
    "kind", ["bytes", "bytearray", "memoryview", "array", "tensor", "dict", "path", "number"]
)
def test_one_image_is_no_list(kind: str) -> None:
    """Whether it can be read is seen when it is."""
    given = make_given(kind)
    (listed,) = list_pictures(given, 1)
    assert listed is given


def test_a_list_has_as_many_as_are_wanted() -> None:
    assert list(list_pictures(["a.png", "b.png"], 2)) == ["a.png", "b.png"]
    with pytest.raises(UsageError, match="3 pictures were given and prompts of this bundle have 2"):
        next(list_pictures(["a.png"] * 3, 2))
