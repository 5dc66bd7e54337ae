"""What a checkpoint asks of generation: the values that transformers' `generate` would read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from edgetok.bundle.manifest import Generation
from edgetok.errors import InputError

# What changes answers and no host computes, with the values that ask for nothing.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "penalty_alpha": (0,),
    "guidance_scale": (1,),
    "sequence_bias": ({}, []),
    "encoder_repetition_penalty": (1,),
    "encoder_no_repeat_ngram_size": (0,),
    "bad_words_ids": ([],),
    "force_words_ids": ([],),
    "constraints": ([],),
    "forced_eos_token_id": (),
    "exponential_decay_length_penalty": (),
    "stop_strings": ([],),
    "dola_layers": (),
    "token_healing": (False,),
    "watermarking_config": (),
}
_UNSUPPORTED_DRAWING: dict[str, tuple[Any, ...]] = {
    "min_p": (0,),
    "top_h": (1,),
    "typical_p": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
}


def read_generation(model: Any, vocabulary: int) -> Generation | None:
    """What the model's generation config asks for beside stop tokens; None where that is nothing.

    Raises:
        InputError: for what no host computes, and for values that transformers refuses.
    """
    config = model.generation_config
    _require_supported(config)
    found = Generation(
        repetition_penalty=float(_given(config, "repetition_penalty", 1.0)),
        no_repeat_ngram_size=int(_given(config, "no_repeat_ngram_size", 0)),
        min_length=int(_given(config, "min_length", 0)),
        min_new_tokens=int(_given(config, "min_new_tokens", 0)),
        suppress_ids=_ids(_given(config, "suppress_tokens", ()), vocabulary),
        begin_suppress_ids=_ids(_given(config, "begin_suppress_tokens", ()), vocabulary),
        top_k=int(_given(config, "top_k", 0)),
        top_p=float(_given(config, "top_p", 1.0)),
    )
    _require_in_range(found)
    if found == Generation():
        return None
    image_id = getattr(model.config, "image_token_id", None)
    in_vocabulary = image_id is not None and 0 <= image_id < vocabulary
    return Generation(**{**_fields(found), "image_id": image_id if in_vocabulary else None})


def _fields(found: Generation) -> dict[str, Any]:
    return {name: getattr(found, name) for name in found.__struct_fields__}


def _given(config: Any, name: str, nothing: Any) -> Any:
    value = getattr(config, name, None)
    return nothing if value is None else value


def _ids(values: Iterable[int], vocabulary: int) -> list[int]:
    """Ids as transformers takes them, which passes over those that are none, such as -1."""
    return sorted({int(value) for value in values if 0 <= value < vocabulary})


def _require_supported(config: Any) -> None:
    names = dict(_UNSUPPORTED)
    if getattr(config, "do_sample", False):
        names |= _UNSUPPORTED_DRAWING
    for name, nothing in names.items():
        value = getattr(config, name, None)
        if value is not None and value not in nothing:
            raise InputError(
                f"generation_config.json asks for {name} {value!r}, which edgetok does not "
                "compute, so answers would be others than transformers'; take it out of "
                "generation_config.json to export without it"
            )


def _require_in_range(found: Generation) -> None:
    checks = (
        ("repetition_penalty", found.repetition_penalty > 0, "above 0"),
        ("no_repeat_ngram_size", found.no_repeat_ngram_size >= 0, "0 or more"),
        ("min_length", found.min_length >= 0, "0 or more"),
        ("min_new_tokens", found.min_new_tokens >= 0, "0 or more"),
        ("top_k", found.top_k >= 0, "0 or more"),
        ("top_p", 0 < found.top_p <= 1, "above 0 and at most 1"),
    )
    for name, holds, limit in checks:
        if not holds:
            raise InputError(
                f"generation_config.json: {name} {getattr(found, name)} is not {limit}; correct it"
            )
