"""Scores of classifiers beside those of transformers' pipeline."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil, pipeline

from edgetok.families.encoder_parts import find_scores
from edgetok.runtimes.encoder.model import share_out

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 16,
    "patch_size": 8,
}
NAMES = {index: f"class {index}" for index in range(5)}


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize(
    "problem",
    [None, "single_label_classification", "multi_label_classification", "regression"],
)
def test_scores_are_those_of_the_pipeline(problem: str | None, count: int) -> None:
    if problem == "single_label_classification" and count == 1:
        pytest.skip("transformers refuses this")
    torch.manual_seed(0)
    labels = {index: NAMES[index] for index in range(count)}
    config = ViTConfig(**SIZES, id2label=labels, problem_type=problem)
    model = ViTForImageClassification(config).eval()
    torch.nn.init.normal_(model.classifier.weight, std=2.0)
    processor = ViTImageProcessorPil(size={"height": 16, "width": 16})
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    ask = pipeline("image-classification", model=model, image_processor=processor)
    wanted = {each["label"]: each["score"] for each in ask(picture, top_k=count)}
    with torch.no_grad():
        logits = model(**processor(picture, return_tensors="pt")).logits[0].double().numpy()
    made = share_out(logits, find_scores(config))
    for label, got in zip(labels.values(), made, strict=True):
        assert got == pytest.approx(wanted[label], abs=1e-6)
