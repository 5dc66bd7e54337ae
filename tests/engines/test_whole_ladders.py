"""Engines of whole ladders: the demo model's, and those of a tiny model of every family."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgetok.bundle.reader import Bundle
from edgetok.engines.build import build_engine
from edgetok.engines.plan import plan_engines
from edgetok.engines.toolkit import Target, find_toolkit
from edgetok.errors import IncompatibleError
from edgetok.export.pipeline import export_model

pytest.importorskip(
    "tensorrt_rtx", reason="pip install 'edgetok[rtx]'; engines build without a GPU"
)
CHECKPOINT = Path(__file__).parents[2] / "examples/demo_vlm/checkpoint"
TWO = Target("rtx", ("sm75", "sm86"))


def build_all(bundle: Path, **options: Any) -> dict[str, int]:
    """Bytes of every engine, by name."""
    opened, toolkit = Bundle.open(bundle), find_toolkit("rtx")
    jobs = plan_engines(opened, flavour="portable", **options)
    return {job.name: len(build_engine(job, opened.root, toolkit, TWO).data) for job in jobs}


@pytest.mark.slow
def test_four_rungs_of_the_demo_cost_little_more_than_one(tmp_path: Path) -> None:
    out, options = tmp_path / "demo.bundle", {"parity_images": 1, "flavour": "portable"}
    export_model(CHECKPOINT, out, budgets="64,128,192,full", **options)
    four, one = build_all(out), build_all(out, budgets=[576])
    assert {"prefill", "tower", "embed", "extend", "decode"} < four.keys()
    assert sum(four.values()) <= 1.2 * sum(one.values())
    assert four["prefill"] <= 1.2 * one["prefill_576"]


# One of each family whose decoder the portable flavour spells, and those whose it does not.
BUILT = (
    *("llava_next 1x2", "llava_onevision", "internvl", "smolvlm 2x1", "idefics3 1x2"),
    *("paligemma", "qwen2_vl", "qwen2_5_vl", "qwen3_vl"),
)
REFUSED = ("gemma3", "paligemma 2")


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILT)
def test_a_tiny_model_of_every_family_builds(name: str, load_helper: Any, tmp_path: Path) -> None:
    tiny: ModuleType = load_helper("families/tiny_families")
    out = export_tiny(tiny, name, tmp_path)
    built = build_all(out)
    stages = Bundle.open(out).manifest.stages
    wanted = {stage.stage for stage in stages if stage.flavour == "portable"}
    assert {engine.partition("_")[0] for engine in built} == wanted


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_a_decoder_without_portable_graphs_is_refused(
    name: str, load_helper: Any, tmp_path: Path
) -> None:
    tiny: ModuleType = load_helper("families/tiny_families")
    with pytest.raises(IncompatibleError, match="the portable flavour knows plain attention only"):
        export_tiny(tiny, name, tmp_path)


def export_tiny(tiny: ModuleType, name: str, folder: Path) -> Path:
    family = tiny.FAMILIES[name]
    tiny.write_tiny(folder / "model", name)
    options = {"method": family.methods[0], "prompt_tokens": 48, "new_tokens": 16}
    options |= {"budgets": "3,full", "parity_images": 1, "flavour": "portable"}
    options |= {"tiles": family.tiles, "size_px": family.size_px}
    export_model(folder / "model", folder / "out.bundle", **options)
    return folder / "out.bundle"
