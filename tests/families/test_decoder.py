"""What of a language model is found, and what is refused in a sentence."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from transformers import GPT2Config, GPT2Model

from edgetok.errors import IncompatibleError, InputError
from edgetok.families import FAMILIES, Framing, open_model
from edgetok.families.decoder import find_text
from edgetok.families.parts import UNROTATED


def open_decoder(tiny_llava: ModuleType, path: Path, decoder: str, **shape: int) -> object:
    return open_model(tiny_llava.write_tiny_llava(path, decoder=decoder, shape=shape)).text


def test_a_layer_without_positions_is_known(tiny_llava: ModuleType, tmp_path: Path) -> None:
    text = open_decoder(tiny_llava, tmp_path, "smollm3")
    assert text.rotary_kinds == ("", UNROTATED, "", "")


def test_channels_that_are_turned_are_counted(tiny_llava: ModuleType, tmp_path: Path) -> None:
    text = open_decoder(tiny_llava, tmp_path, "phi3-partial")
    assert (text.head_dim, text.rotary_dim) == (64, 32)


def test_longrope_is_held_to_its_first_angles(tiny_llava: ModuleType, tmp_path: Path) -> None:
    """Hugging Face changes them behind 224 rows, in the middle of a text if need be."""
    text = open_decoder(tiny_llava, tmp_path, "longrope")
    assert text.max_positions == 224
    short, _ = text.rotary(torch.zeros(1, 1, 1), torch.arange(224)[None])
    long, _ = text.rotary(torch.zeros(1, 1, 1), torch.arange(225)[None])
    assert not torch.allclose(short, long[:, :224])


def test_odd_rotary_widths_are_refused(tiny_llava: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"turns 24 of 24 channels .* multiples of 16"):
        open_decoder(tiny_llava, tmp_path, "llama", head_dim=24)


def test_a_decoder_of_another_layout_is_refused() -> None:
    decoder = GPT2Model(GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=20))
    with pytest.raises(InputError, match="GPT2Model, has no layers, embed_tokens, rotary_emb"):
        find_text(decoder, torch.nn.Identity(), SimpleNamespace())


@pytest.mark.parametrize("family", ["fast_vlm", "perception_lm"])
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ModuleNotFoundError("no", name="timm"), r"there is no timm; .*edgetok\[timm\]"),
        (RuntimeError("operator torchvision::nms does not exist"), "built for this torch"),
    ],
)
def test_a_tower_of_timm_without_timm_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, error: Exception, message: str
) -> None:
    import builtins

    real = builtins.__import__

    def fail(name: str, *rest: object) -> object:
        if name == "timm":
            raise error
        return real(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", fail)
    checkpoint = SimpleNamespace(model_type=family, path=tmp_path)
    with pytest.raises(IncompatibleError, match=message):
        FAMILIES[family].open(checkpoint, Framing())
