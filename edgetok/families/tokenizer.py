"""The tokenizer of a checkpoint, as transformers opens it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from edgetok.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

# What a bundle does not use: a prompt is never cut, and the prompt plan holds what is added to it.
_UNUSED = ("truncation", "padding", "post_processor")


def open_tokenizer(path: Path) -> Any:
    """The tokenizer that `AutoTokenizer` makes of a model directory.

    Raises:
        InputError: if transformers cannot open it.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        tokenizer.backend_tokenizer.no_padding()
        tokenizer.backend_tokenizer.no_truncation()
    except Exception as error:  # whatever a stranger's files make transformers raise
        raise InputError(
            f"transformers cannot open the tokenizer of {path}: {error}; save it anew with "
            "`AutoTokenizer.from_pretrained(...).save_pretrained(DIR)`"
        ) from error
    return tokenizer


def write_tokenizer(path: Path) -> bytes:
    """`tokenizer.json` of a bundle: the checkpoint's own, if transformers makes the same of it.

    Tokens may be named in `tokenizer_config.json` or `special_tokens_map.json` alone, and
    transformers builds some tokenizers anew; then it is what transformers made.
    """
    own = (path / "tokenizer.json").read_bytes()
    made = open_tokenizer(path).backend_tokenizer.to_str()
    given, opened = json.loads(own), json.loads(made)
    same = all(given.get(key) == opened[key] for key in opened if key not in _UNUSED)
    return own if same else made.encode()
