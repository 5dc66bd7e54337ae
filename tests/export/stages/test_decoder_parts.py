"""The parts of a decoder put together in PyTorch, at odd shapes, against Hugging Face's own pass.

What the exporter tells the attention operators (tables of angles, windows, caps, scales) goes to an
attention that is written out row by row here, so no graph is built and every shape is quick.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import cycle
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlavaConfig, LlavaForConditionalGeneration

from edgetok import names
from edgetok.export.attention import CacheBuffer, DecoderLowering, attention_extras
from edgetok.export.stages.decoder import Decode, DecoderContext, Extend, Prefill
from edgetok.families.decoder import find_text
from edgetok.families.parts import TextParts

SLOTS, PADDED, PROMPT, CHUNK, STEPS = 40, 24, 19, 5, 4
SHAPES: dict[str, dict[str, int]] = {
    "groups of 3, head 64": {"hidden_size": 96, "heads": 3, "head_dim": 64},
    "groups of 7, head 80": {"hidden_size": 112, "heads": 7, "head_dim": 80},
    "groups of 3, head 96": {"hidden_size": 96, "heads": 6, "groups": 2, "head_dim": 96},
    "groups of 7, head 128": {"hidden_size": 112, "heads": 7, "head_dim": 128},
    "head 256": {"hidden_size": 64, "heads": 2, "head_dim": 256},
}
DECODERS = (
    *("llama", "mistral", "qwen2", "qwen2-window", "qwen3", "gemma", "gemma2", "gemma3"),
    *("smollm3", "phi3", "phi3-partial", "longrope", "yarn", "llama3", "dynamic", "biased", "lfm2"),
)


@dataclass
class PlainAttention:
    """What an attention operator does with what it is told, one query row at a time."""

    past: list[tuple[Tensor, ...]]
    lengths: Tensor
    positions: Tensor | None
    rotary: list[tuple[Tensor, Tensor]]
    scales: None
    present: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def __call__(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float
    ) -> Tensor:
        layer, count = len(self.present), query.shape[2]
        last = int(self.lengths[layer])
        first = 0 if self.positions is None else last - count + 1
        places = range(count) if self.positions is None else self.positions[layer].tolist()
        keys, values = (buffer.clone() for buffer in self.past[layer])
        for row, place in enumerate(places):
            keys[0, :, first + row] = self.rotate(key[0, :, row], place, layer)
            values[0, :, first + row] = value[0, :, row]
        self.present.append((keys, values))
        asked = [self.rotate(query[0, :, row], place, layer) for row, place in enumerate(places)]
        told, group = attention_extras(module), query.shape[1] // key.shape[1]
        rows = []
        for row, asking in enumerate(asked):
            at = first + row
            begin = max(0, at + 1 - told.get("local_window_size", SLOTS))
            heads = []
            for head, vector in enumerate(asking):
                scores = keys[0, head // group, begin : at + 1] @ vector * scaling
                if cap := told.get("softcap"):
                    scores = torch.tanh(scores / cap) * cap
                heads.append(scores.softmax(0) @ values[0, head // group, begin : at + 1])
            rows.append(torch.cat(heads))
        return torch.stack(rows)[None]

    def rotate(self, vectors: Tensor, place: int, layer: int) -> Tensor:
        """Pairs (i, i + n) of the first 2 n channels of [heads, H], as complex numbers."""
        cos, sin = (table[place] for table in self.rotary[layer])
        n = len(cos)
        pairs = torch.complex(vectors[:, :n], vectors[:, n : 2 * n]) * torch.complex(cos, sin)
        return torch.cat([pairs.real, pairs.imag, vectors[:, 2 * n :]], dim=1)


def lowering() -> DecoderLowering:
    buffers = tuple(
        CacheBuffer(name, torch.float32, int) for name in (names.past_key, names.past_value)
    )
    unused: Any = None
    return DecoderLowering(
        PlainAttention, lambda _: nullcontext(), buffers, unused, unused, unused, unused
    )


def make_text(tiny_llava: ModuleType, decoder: str, shape: str) -> TextParts:
    """A decoder of seeded weights inside a LLaVA, as a family finds it."""
    sizes = SHAPES[shape]
    told = {
        "hidden_size": sizes["hidden_size"],
        "num_attention_heads": sizes["heads"],
        "num_key_value_heads": sizes.get("groups", 1),
        "head_dim": sizes["head_dim"],
    }
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=tiny_llava._vision("clip", 32, 1),
        text_config=tiny_llava._text(decoder, 50, told),
        image_token_id=3,
    )
    config._attn_implementation = "eager"
    model = LlavaForConditionalGeneration(config).eval().requires_grad_(False)
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=1.5 / weight.shape[-1] ** 0.5)
        else:
            weight += 0.1 * torch.randn_like(weight)
    return find_text(model.model.language_model, model.lm_head, model)


def begin(text: TextParts) -> tuple[Tensor, ...]:
    """Buffers full of what must never be read."""
    shape = (1, text.kv_heads, SLOTS, text.head_dim)
    return tuple(torch.full(shape, 1e4) for _ in range(2 * len(text.attending)))


def run_parts(text: TextParts, embeds: Tensor, ids: list[int]) -> list[Tensor]:
    """Logits of a padded prompt, a chunk behind it, and steps that are told their tokens."""
    layers = len(text.attending)
    context = DecoderContext(text, SLOTS, (SLOTS,) * layers, lowering())
    padded = torch.full((1, PADDED, text.hidden), 7.0)
    padded[:, :PROMPT] = embeds[:, :PROMPT]
    last = torch.tensor([PROMPT - 1])
    logits, *past = Prefill(context, PADDED)(padded, last, last.repeat(layers), *begin(text))
    found = [logits]

    def places(first: int, count: int) -> tuple[Tensor, Tensor]:
        rows = torch.arange(first, first + count).repeat(layers, 1)
        return torch.full((layers,), first + count - 1), rows

    logits, *past = Extend(context, CHUNK)(embeds[:, PROMPT:], *places(PROMPT, CHUNK), *past)
    found.append(logits)
    for step, token in enumerate(ids):
        at = places(PROMPT + CHUNK + step, 1)
        logits, *past = Decode(context)(torch.tensor([[token]]), *at, *past)
        found.append(logits)
    return found


@pytest.mark.parametrize(("decoder", "shape"), list(zip(DECODERS, cycle(SHAPES), strict=False)))
def test_decoder_equals_hugging_face(tiny_llava: ModuleType, decoder: str, shape: str) -> None:
    compare(tiny_llava, decoder, shape)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("decoder", DECODERS)
def test_decoder_at_every_shape(tiny_llava: ModuleType, decoder: str, shape: str) -> None:
    compare(tiny_llava, decoder, shape)


@torch.no_grad()
def compare(tiny_llava: ModuleType, decoder: str, shape: str) -> None:
    text = make_text(tiny_llava, decoder, shape)
    generator = torch.Generator().manual_seed(1)
    embeds = torch.randn(1, PROMPT + CHUNK, text.hidden, generator=generator)
    ids = torch.randint(0, 50, (STEPS,), generator=generator).tolist()
    got = run_parts(text, embeds, ids)
    rows = torch.cat([embeds, text.embed(torch.tensor([ids]))], dim=1)
    hidden = text.model(inputs_embeds=rows, use_cache=False).last_hidden_state[0]
    ends = [PROMPT - 1, PROMPT + CHUNK - 1, *range(PROMPT + CHUNK, PROMPT + CHUNK + STEPS)]
    want = text.head(hidden[ends])
    torch.testing.assert_close(torch.cat(got), want, atol=2e-4, rtol=1e-4)
