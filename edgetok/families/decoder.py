"""The parts of the language model, which all families find in the same places."""

from __future__ import annotations

from typing import Any

from edgetok.errors import InputError
from edgetok.families.generation import read_generation
from edgetok.families.parts import UNROTATED, Bidirectional, TextParts

_TURNED_UNIT = 16  # GroupQueryAttention takes no other tables


def find_text(
    decoder: Any,
    head: Any,
    model: Any,
    *,
    bidirectional: Bidirectional = "nothing",
    mrope_axes: tuple[int, ...] = (),
) -> TextParts:
    """The parts of a Llama-like decoder: `layers`, `norm`, `embed_tokens`, `rotary_emb`.

    LFM2 has `embedding_norm` for `norm`, and short convolutions in some layers.

    Raises:
        InputError: if it is no such decoder, no layer has attention, or rotary embedding turns no
            multiple of 16 channels.
    """
    from optimum.utils import NormalizedTextConfig

    _require_parts(decoder)
    config = decoder.config
    common = NormalizedTextConfig(config)  # by names that all decoders share
    heads = common.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or common.hidden_size // heads
    stop = model.generation_config.eos_token_id
    stop = config.eos_token_id if stop is None else stop
    stop_ids = (
        tuple(stop) if isinstance(stop, list | tuple) else (stop,) if stop is not None else ()
    )
    pad = model.config.text_config.pad_token_id
    return TextParts(
        model=decoder,
        layers=tuple(decoder.layers),
        norm=decoder.norm if hasattr(decoder, "norm") else decoder.embedding_norm,
        embed=decoder.embed_tokens,
        head=head,
        rotary=decoder.rotary_emb,
        hidden=common.hidden_size,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=head_dim,
        vocabulary=common.vocab_size,
        max_positions=_max_positions(config),
        stop_ids=stop_ids,
        generation=read_generation(model, common.vocab_size),
        pad_id=pad if pad is not None else 0,
        rotary_dim=_rotary_dim(decoder.rotary_emb, head_dim),
        rotary_kinds=_rotary_kinds(decoder),
        bidirectional=bidirectional,
        mrope_axes=mrope_axes,
        convolutions=_find_convolutions(decoder),
        kernel=getattr(config, "conv_L_cache", 0),
    )


def _require_parts(decoder: Any) -> None:
    missing = [
        name for name in ("layers", "embed_tokens", "rotary_emb") if not hasattr(decoder, name)
    ]
    if missing:
        raise InputError(
            f"the language model, {type(decoder).__name__}, has no {', '.join(missing)}; decoders "
            "with rotary embedding that are laid out as Llama's are supported, see docs/families.md"
        )


def _find_convolutions(decoder: Any) -> tuple[int, ...]:
    layers = decoder.layers
    found = tuple(n for n, layer in enumerate(layers) if not hasattr(layer, "self_attn"))
    if len(found) == len(layers) or not all(hasattr(layers[n], "conv") for n in found):
        raise InputError(
            f"layers of the language model are {sorted({type(b).__name__ for b in layers})}; each "
            "must have `self_attn` or `conv`, and one at least attention"
        )
    return found


def _max_positions(config: Any) -> int:
    """Positions that one table of angles serves.

    LongRoPE (arXiv 2402.13753) has other angles for texts longer than the model first knew; a cache
    cannot change them on the way, so those it begins with are all.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    most: int = config.max_position_embeddings
    if rope.get("rope_type") != "longrope":
        return most
    short = rope.get("original_max_position_embeddings")
    return min(most, short or getattr(config, "original_max_position_embeddings", None) or most)


def _rotary_dim(rotary: Any, head_dim: int) -> int:
    """Channels that are turned: twice the angles, where all layers have the same."""
    angles = getattr(rotary, "inv_freq", None)
    turned = head_dim if angles is None else 2 * len(angles)
    if turned % _TURNED_UNIT:
        raise InputError(
            f"rotary embedding turns {turned} of {head_dim} channels of each head; multiples of "
            f"{_TURNED_UNIT} are supported"
        )
    return turned


def _rotary_kinds(decoder: Any) -> tuple[str, ...]:
    if getattr(decoder.rotary_emb, "layer_types", None):
        return tuple(decoder.config.layer_types)
    attentions = [b.self_attn for b in decoder.layers if hasattr(b, "self_attn")]
    turned = [bool(getattr(attention, "use_rope", True)) for attention in attentions]
    return () if all(turned) else tuple("" if turns else UNROTATED for turns in turned)
