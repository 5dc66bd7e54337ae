"""Gemma 3 (arXiv 2503.19786) and PaliGemma 1 and 2 (arXiv 2407.07726, 2412.03555).

Hugging Face: `Gemma3ForConditionalGeneration`, `PaliGemmaForConditionalGeneration`. A SigLIP tower
up to its last norm. Gemma 3 averages cells of patches to `mm_tokens_per_image` tokens, and the
tokens of an image see each other; in PaliGemma every row of the prompt sees every other.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from edgetok.families.decoder import find_text
from edgetok.families.image_plan import read_image_plan
from edgetok.families.loading import load_checkpoint
from edgetok.families.parts import Framing, Parts, VisionParts
from edgetok.families.prompt_plan import read_prompt

if TYPE_CHECKING:
    from torch import Tensor, nn

    from edgetok.families.checkpoint import Checkpoint

_BEGIN, _IMAGE, _END = "<start_of_image>", "<image_soft_token>", "<end_of_image>"
# PaliGemma comes without a chat template: its processor writes this.
_PREFIX = (
    "{% if messages | length > 1 %}{{ raise_exception('one question only') }}{% endif %}"
    "<image>{{ bos_token }}{{ messages[0]['content'][1]['text'] }}{{ '\\n' }}"
)


def open_gemma3(checkpoint: Checkpoint, framing: Framing) -> Parts:
    """Load a Gemma 3 with a vision tower and point at its parts; without pan and scan.

    Raises:
        InputError: if its image processor does not fit its tower.
    """
    from transformers import Gemma3ForConditionalGeneration

    model = load_checkpoint(Gemma3ForConditionalGeneration, checkpoint)
    config, projector = model.config, model.model.multi_modal_projector
    return Parts(
        family="gemma3",
        path=checkpoint.path,
        model=model,
        vision=_find_vision(model, projector.kernel_size),
        projector=_norm_and_project(projector),
        text=find_text(model.model.language_model, model.lm_head, model, bidirectional="image"),
        image=read_image_plan(checkpoint, config.vision_config.image_size),
        prompt=read_prompt(checkpoint, config.image_token_id, spell=_surround),
        process=_process,
        fixed={"do_pan_and_scan": False},
    )


def open_paligemma(checkpoint: Checkpoint, framing: Framing) -> Parts:
    """Load a PaliGemma and point at its parts.

    Raises:
        InputError: if its image processor does not fit its tower.
    """
    from transformers import PaliGemmaForConditionalGeneration

    model = load_checkpoint(PaliGemmaForConditionalGeneration, checkpoint)
    config, decoder = model.config, model.model.language_model
    head = _cap(model.lm_head, getattr(config.text_config, "final_logit_softcapping", None))
    return Parts(
        family="paligemma",
        path=checkpoint.path,
        model=model,
        vision=_find_vision(model, 1),
        projector=model.model.multi_modal_projector,
        text=find_text(decoder, head, model, bidirectional="prompt"),
        image=read_image_plan(checkpoint, config.vision_config.image_size),
        prompt=read_prompt(checkpoint, config.image_token_id, template=_PREFIX, prefixed=False),
    )


def _surround(text: str) -> str:
    return text.replace(_BEGIN, f"\n\n{_BEGIN}{_IMAGE}{_END}\n\n", 1)


def _find_vision(model: Any, cell: int) -> VisionParts:
    tower, config = model.model.vision_tower, model.config.vision_config
    tower = getattr(tower, "vision_model", tower)
    side = config.image_size // config.patch_size // cell
    return VisionParts(
        model=tower,
        embed=lambda pixels: tower.embeddings(pixels),
        blocks=tuple(tower.encoder.layers),
        prefix_tokens=0,
        grid=(side, side),
        image_px=(config.image_size, config.image_size),
        width=config.hidden_size,
        heads=config.num_attention_heads,
        cell=cell,
        finish=partial(_average, tower.post_layernorm, side, cell),
    )


def _average(norm: Any, side: int, cell: int, patches: Tensor) -> Tensor:
    """Patches [P, n, V] -> means over cells [P, N, V] of what the norm makes of them."""
    parts, _, width = patches.shape
    rows: Tensor = norm(patches)
    if cell == 1:
        return rows
    cells = rows.reshape(parts, side, cell, side, cell, width).mean((2, 4))
    return cells.reshape(parts, side * side, width)


def _norm_and_project(projector: Any) -> nn.Module:
    """What of Gemma 3's projector comes after its pooling."""
    from torch import nn

    weight = projector.mm_input_projection_weight
    linear = nn.Linear(weight.shape[0], weight.shape[1], bias=False)
    linear.weight = nn.Parameter(weight.detach().T.contiguous(), requires_grad=False)
    return nn.Sequential(projector.mm_soft_emb_norm, linear).eval()


def _cap(head: nn.Module, cap: float | None) -> nn.Module:
    """The head with its logits capped, as PaliGemma 2 has it."""
    from torch import nn

    if cap is None:
        return head
    scale = nn.Tanh()

    class CappedHead(nn.Module):
        """Rows [..., D] -> logits [..., W] between -cap and cap."""

        def __init__(self) -> None:
            super().__init__()
            self.head = head

        def forward(self, rows: Tensor) -> Tensor:
            logits: Tensor = scale(self.head(rows) / cap) * cap
            return logits

    return CappedHead().eval()


def _process(processor: Any, picture: Any) -> Tensor:
    out = processor(images=picture, do_pan_and_scan=False, return_tensors="pt")
    pixels: Tensor = out["pixel_values"]
    return pixels.float()
