"""The text side of an image-text model: its tokenizer, how long texts are and how padded."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from edgetok.errors import InputError
from edgetok.families.checkpoint import require_tokenizer
from edgetok.families.encoder_parts import TextEncoder

if TYPE_CHECKING:
    from torch import nn

    from edgetok.bundle.encoders import Similarity
    from edgetok.families.checkpoint import Checkpoint

PROBES = ("a photo of a cat", "Two DOGS, one café!", "")


def find_text_encoder(
    checkpoint: Checkpoint, module: nn.Module, model: Any, similarity: Similarity
) -> TextEncoder:
    """Read the tokenizer as Hugging Face sets it up, and hold it against Hugging Face's ids.

    Raises:
        InputError: if there is no tokenizer, or `tokenizer.json` alone makes other ids.
    """
    from tokenizers import Tokenizer

    require_tokenizer(checkpoint.path)
    theirs = _load(checkpoint)
    backend = getattr(theirs, "backend_tokenizer", None)
    data = backend.to_str() if isinstance(backend, Tokenizer) else _read(checkpoint)
    length = model.config.text_config.max_position_embeddings
    pad_id = theirs.pad_token_id
    if pad_id is None:
        raise InputError(f"{checkpoint.path}: the tokenizer names no pad_token; add one")
    side = theirs.padding_side
    own = Tokenizer.from_str(data)
    own.no_truncation()
    own.enable_padding(direction=side, length=length, pad_id=pad_id, pad_token=theirs.pad_token)
    for text in PROBES:
        wanted = theirs(text, padding="max_length", max_length=length).input_ids
        if own.encode(text).ids != wanted:
            raise InputError(
                f"{checkpoint.path}: tokenizer.json makes other tokens of {text!r} than the "
                f"model's own {type(theirs).__name__}; save the tokenizer with transformers 5 first"
            )
    return TextEncoder(module, length, own.to_str(), similarity)


def _load(checkpoint: Checkpoint) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(checkpoint.path), local_files_only=True)
    except Exception as error:  # transformers raises whatever its dependencies do
        raise InputError(
            f"{checkpoint.path}: its tokenizer cannot be loaded: {str(error)[:300]}"
        ) from error


def _read(checkpoint: Checkpoint) -> str:
    return json.dumps(checkpoint.read_json("tokenizer.json"))
