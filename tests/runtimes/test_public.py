"""The public face: what it offers, and what it does not load."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import edgetok
from edgetok.errors import BundleError

HEAVY = ("torch", "transformers", "onnxruntime", "onnx", "PIL", "tokenizers")


def modules_after(code: str, *arguments: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*sys.modules)"
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_importing_loads_nothing_heavy() -> None:
    assert not modules_after("import edgetok; edgetok.EdgetokError").intersection(HEAVY)


def test_answering_loads_neither_torch_nor_transformers(bundle_dir: Path, tmp_path: Path) -> None:
    code = (
        "import edgetok, numpy\n"
        "model = edgetok.load(sys.argv[1])\n"
        "answer = model.generate(numpy.zeros((9, 9, 3), 'uint8'), 'what?')\n"
        "assert isinstance(answer, edgetok.Answer) and isinstance(model, edgetok.Model)\n"
        "from edgetok.runtimes import bench, verify\n"
    )
    loaded = modules_after(code, str(bundle_dir))
    assert "onnxruntime" in loaded
    assert not loaded.intersection({"torch", "transformers", "onnxscript", "jinja2"})


def test_a_second_start_reads_no_graph_with_onnx_and_draws_no_table(bundle_dir: Path) -> None:
    """Graphs are admitted once on a device; importing what that needs takes 50 ms."""
    code = (
        "import edgetok, edgetok.cli.app, edgetok.cli.run, numpy\n"
        "model = edgetok.load(sys.argv[1])\n"
        "model.generate(numpy.zeros((9, 9, 3), 'uint8'), 'what?')\n"
    )
    modules_after(code, str(bundle_dir))
    unused = {"onnx", "rich", "pydantic", "importlib.metadata"}
    assert not modules_after(code, str(bundle_dir)).intersection(unused)


def test_every_public_name_is_there() -> None:
    for name in edgetok.__all__:
        assert getattr(edgetok, name) is not None
    assert set(edgetok.__all__) == set(dir(edgetok))
    with pytest.raises(AttributeError, match="no attribute 'quantize'"):
        edgetok.quantize  # noqa: B018


def test_the_version_is_that_of_the_distribution() -> None:
    from importlib.metadata import version

    assert edgetok.__version__ == version("edgetok")


def test_load_opens_paths_of_all_kinds(bundle_dir: Path) -> None:
    assert edgetok.load(str(bundle_dir)).ladder.budgets == (4, 8, 16)
    assert edgetok.load(bundle_dir, budgets=[8]).ladder.budgets == (8,)
    with pytest.raises(BundleError):
        edgetok.load(bundle_dir / "none")


def test_export_can_be_called_before_and_after_its_folder_is_imported() -> None:
    """Importing a sub-package binds its name in the parent, where the function is."""
    code = (
        "import edgetok, types\n"
        "pipeline = types.ModuleType('edgetok.export.pipeline')\n"
        "pipeline.export_model = lambda *given, **options: (given, options)\n"
        "sys.modules['edgetok.export.pipeline'] = pipeline\n"
        "before = edgetok.export('model', 'out', budgets=(4,))\n"
        "import edgetok.export as folder\n"
        "assert isinstance(folder, types.ModuleType) and edgetok.export is folder\n"
        "assert before == edgetok.export('model', 'out', budgets=(4,))\n"
        "assert before[1] == {'budgets': (4,)}\n"
    )
    assert "edgetok.export" in modules_after(code)
