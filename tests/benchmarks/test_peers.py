"""benchmarks/peers.py and docs/performance.md: what is counted, what is said; nothing is timed."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def page() -> ModuleType:
    path = ROOT / "benchmarks/peers_page.py"
    spec = importlib.util.spec_from_file_location("peers_page", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(page: ModuleType) -> None:
    written = page.PAGE.read_text(encoding="utf-8")
    assert written == page.render(*page.read_inputs()), "out of date: run `make docs`"


def row(who: str, tokens: int, *rounds: float, do: str = "answer", **rest: Any) -> dict[str, Any]:
    costs = [{"first_cpu_ms": value, "prefill_cpu_ms": value, "load": 1.0} for value in rounds]
    return {"contestant": who, "tokens": tokens, "do": do, "threads": 1, "rounds": costs} | rest


def test_ratios_are_of_medians_and_what_is_missing_is_said(page: ModuleType) -> None:
    answers = [
        row("edgetok int4", 64, 100, 300, 200),
        row("edgetok int4", 576, 900),
        row("openvino.genai int4", 576, 390, 400, 5000),
        row("llama.cpp Q4_0", 128, 500, do="text"),
        row("llama.cpp Q4_0, head Q8_0, no flash attention", 128, 400, do="text"),
    ]
    models = {"llava135": {"answers": answers, "starts": [], "made": {}}}
    report = page.Report({"models": models, "bounds": []})
    lines = {line.what: line for line in page.ratios.list_lines(report, 2000.0)}
    head = "first token with a picture, int4: "
    few = lines[f"{head}64 tokens / openvino.genai with all 576"]
    assert few.value == 200 / 400 and few.missed and not few.is_behind  # 0.4 was aimed at
    assert lines[f"{head}576 tokens / openvino.genai"].value == 900 / 400
    assert lines[f"{head}576 tokens / openvino.genai"].is_behind
    assert lines[f"{head}576 tokens / llama.cpp with mtmd"].value is None
    assert lines["prefill of 64 + 64 rows / llama.cpp Q4_0"].value == 200 / 400  # of the faster
    assert "not measured" in page._line(lines[f"{head}576 tokens / llama.cpp with mtmd"])
    assert "**0.50**" in page._line(few)


def test_a_bound_is_products_at_their_peak_and_attention_at_that_of_floats(
    page: ModuleType,
) -> None:
    work = {"tower": {"products": 50.0, "attention": 10.0}}
    peaks = {"threads": 1, "int8_gop_s": 500.0, "float_gop_s": 100.0}
    report = page.Report({"models": {"m": {"operations": {"640": work}}}, "bounds": [peaks]})
    assert report.bound_ms("m", 640, "tower") == pytest.approx(200.0)
    without = page.Report(report.found | {"bounds": [peaks | {"int8_gop_s": None}]})
    assert without.bound_ms("m", 640, "tower") is None


def write_config(folder: Path, config: Any, side_px: int) -> None:
    config.save_pretrained(folder)
    (folder / "question.json").write_text(json.dumps({"side_px": side_px}))


TEXT = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "vocab_size": 200}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
EAGER = {"attn_implementation": "eager"}  # torch does not count its fused attention on CPUs


def count_flops(run: Any) -> float:
    """Billions, of all products, as torch counts them."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        run()
    return counter.get_total_flops() / 1e9


def test_operations_of_llava_are_those_that_torch_counts(page: ModuleType, tmp_path: Path) -> None:
    from peers.bounds import count_operations

    def configure(blocks: int, taken: int) -> Any:
        vision = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}
        vision |= {"num_hidden_layers": blocks, "image_size": 56, "patch_size": 14}
        return transformers.LlavaConfig(
            vision_config=transformers.CLIPVisionConfig(**vision),
            text_config=transformers.LlamaConfig(**TEXT, **HEADS),
            vision_feature_layer=taken,
        )

    write_config(tmp_path, configure(4, -2), 56)
    counted = count_operations(tmp_path, 24)
    # The same features: transformers runs the last block of four, too.
    model = transformers.LlavaForConditionalGeneration._from_config(configure(3, -1), **EAGER)
    tower = count_flops(lambda: model.get_image_features(torch.zeros(1, 3, 56, 56)))
    assert sum(counted["tower"].values()) == pytest.approx(tower, rel=1e-6)
    check_prefill(counted["prefill"], model.model.language_model, model.lm_head)


def check_prefill(counted: dict[str, float], decoder: Any, head: Any) -> None:
    """torch counts all of attention's square, and a row sees half of it."""
    embeds = torch.zeros(1, 24, 64)
    found = count_flops(lambda: head(decoder(inputs_embeds=embeds).last_hidden_state[:, -1:]))
    assert counted["products"] + 2 * counted["attention"] == pytest.approx(found, rel=1e-6)


def test_operations_of_qwen_are_those_that_torch_counts(page: ModuleType, tmp_path: Path) -> None:
    from peers.bounds import count_operations

    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    text = transformers.Qwen2VLTextConfig(**TEXT, **HEADS, rope_parameters=rope)
    vision = {"depth": 3, "embed_dim": 32, "num_heads": 2, "hidden_size": 64}
    config = transformers.Qwen2VLConfig(text_config=text.to_dict(), vision_config=vision)
    write_config(tmp_path, config, 56)
    model = transformers.Qwen2VLForConditionalGeneration._from_config(config, **EAGER).eval()
    counted = count_operations(tmp_path, 24)
    patches, grid = torch.zeros(16, 3 * 2 * 14 * 14), torch.tensor([[1, 4, 4]])
    tower = count_flops(lambda: model.model.visual(patches, grid))
    assert sum(counted["tower"].values()) == pytest.approx(tower, rel=1e-6)
    check_prefill(counted["prefill"], model.model.language_model, model.lm_head)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--only", "llava7b"], "llava7b"),
        (["--contestants", "vllm"], "vllm"),
        (["--rounds", "0"], "0 is no number from 1 to 64"),
        (["--threads", "two"], "two is no number from 1 to 64"),
        (["--contestants", "edgetok", "--json", "x.json"], "leave --contestants out"),
    ],
)
def test_wrong_options_get_a_sentence(words: list[str], said: str) -> None:
    command = [sys.executable, ROOT / "benchmarks/peers.py", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert said in done.stderr and "Traceback" not in done.stderr
