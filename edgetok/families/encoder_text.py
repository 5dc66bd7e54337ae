"""The text side of an image-text model: its tokenizer, how long texts are and how padded."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from edgetok import limits
from edgetok.bundle.golden_inputs import GoldenPrompt
from edgetok.errors import InputError
from edgetok.families.checkpoint import read_json_object, require_tokenizer
from edgetok.families.encoder_heads import unit
from edgetok.families.encoder_parts import TextEncoder
from edgetok.families.prompt_check import BATTERY

if TYPE_CHECKING:
    from edgetok.bundle.encoders import Similarity
    from edgetok.families.checkpoint import Checkpoint

_OLD_END = 2
PROBES = ("a photo of a cat", "Two DOGS, one café!")


def find_text_encoder(checkpoint: Checkpoint, model: Any, similarity: Similarity) -> TextEncoder:
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
    asked = (*PROBES, *BATTERY)
    texts = tuple(_compare(checkpoint, own, theirs, text, length) for text in asked)

    def whole(ids: Tensor) -> Tensor:
        return unit(model.get_text_features(input_ids=ids).pooler_output)

    return TextEncoder(TextTower(model, length), whole, length, own.to_str(), similarity, texts)


def _compare(checkpoint: Checkpoint, own: Any, theirs: Any, text: str, length: int) -> GoldenPrompt:
    """A text and its ids, which both tokenizers make alike; longer texts have more than `length`.

    Raises:
        InputError: if they differ.
    """
    wanted = theirs(text, padding="max_length", max_length=length).input_ids
    if own.encode(text).ids != wanted:
        raise InputError(
            f"{checkpoint.path}: tokenizer.json makes other tokens of {text!r} than the model's "
            f"own {type(theirs).__name__}; save the tokenizer with transformers 5 first"
        )
    return GoldenPrompt(text=text, system=None, ids=list(wanted))


class TextTower(nn.Module):
    """token ids [1, T] -> the embedding of a text [1, E], of length 1.

    Hugging Face's embeddings, layers and head; masks and the pooled row are spelled with constant
    shapes. CLIP reads its first end token and no row sees later ones, SigLIP reads the last row.
    """

    def __init__(self, model: Any, length: int) -> None:
        super().__init__()
        self.tower = model.text_model
        self.is_clip = hasattr(model, "text_projection")
        self.head = model.text_projection if self.is_clip else model.text_model.head
        self.mask = torch.full((1, 1, length, length), torch.finfo().min).triu(1)
        self.end_id = getattr(model.text_model, "eos_token_id", None)

    def forward(self, ids: Tensor) -> Tensor:
        mask = self.mask if self.is_clip else None
        rows = self.tower.embeddings(input_ids=ids)
        rows = self.tower.encoder(inputs_embeds=rows, attention_mask=mask).last_hidden_state
        rows = self.tower.final_layer_norm(rows)
        pooled = self._first_end(ids) @ rows[0] if self.is_clip else rows[:, -1]
        return unit(self.head(pooled))

    def _first_end(self, ids: Tensor) -> Tensor:
        """1 at the first end token [1, T]; older checkpoints name a wrong one, and mean the last
        of the vocabulary that the text has."""
        end = ids.amax(1) if self.end_id == _OLD_END else torch.tensor(self.end_id)
        ends = torch.eq(ids, end).float()
        return ends * (ends.cumsum(1) == 1).float()


def _load(checkpoint: Checkpoint) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(checkpoint.path), local_files_only=True)
    except Exception as error:  # transformers raises whatever its dependencies do
        raise InputError(
            f"{checkpoint.path}: its tokenizer cannot be loaded: {str(error)[:300]}"
        ) from error


def _read(checkpoint: Checkpoint) -> str:
    path = checkpoint.path / "tokenizer.json"
    return json.dumps(read_json_object(path, limits.TOKENIZER_BYTES))
