"""What edgetok uses of the insides of transformers, which move from one release to the next.

Attention is registered and looked up, and caches are made, through this module alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers import DynamicCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

__all__ = [
    "DynamicCache",
    "find_attention",
    "name_cache_argument",
    "register_attention",
    "using_attention",
]


def register_attention(name: str, attend: Callable[..., Any]) -> None:
    """Let models whose configuration names it attend so."""
    ALL_ATTENTION_FUNCTIONS.register(name, attend)


def find_attention(config: Any, eager: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """How a model of this configuration attends; `eager` is its own function for `eager`."""
    name = config._attn_implementation
    registered = ALL_ATTENTION_FUNCTIONS
    found: Callable[..., Any] = (
        registered[name] if eager is None else registered.get_interface(name, eager)
    )
    return found


@contextmanager
def using_attention(config: Any, name: str) -> Iterator[None]:
    """Let a model attend by a registered name, or `eager`, for a time."""
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before


def name_cache_argument(layer: Any) -> str:
    """What a layer or model calls its cache: `past_key_values` up to transformers 5.23."""
    known = inspect.signature(layer.forward).parameters
    return "cache" if "cache" in known else "past_key_values"
