"""Devices of the C library: what is refused, and engines over a TensorRT that is none."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

import edgetok
from edgetok.cli.app import execute
from edgetok.runtimes.backends.providers import DEVICES, ENGINE_DEVICES, import_onnxruntime
from edgetok.user_cache import cache_directory

HERE = Path(__file__).parent
BUDGETS = (8, 4, 16, 4)
TEXT = "What is it?"
FULL = ("--target", "tensorrt", "--precision", "fp32")


@pytest.fixture(scope="module")
def opened(library, capi, portable_bundle):
    return capi.Bundle(library, portable_bundle)


@pytest.mark.parametrize(
    "device", ["AzureExecutionProvider", "azure", "xnnpack", "CPU", "", "gpu\n"]
)
def test_a_device_that_there_is_none_of(opened, capi, device):
    with pytest.raises(capi.Failure, match="is unknown; use one of") as caught:
        capi.Model(opened, device=device)
    assert caught.value.status == 2
    names = str(caught.value).partition("use one of ")[2]
    assert names.split(", ") == [*DEVICES, *ENGINE_DEVICES]


@pytest.mark.parametrize("device", DEVICES)
def test_a_device_needs_its_provider(opened, capi, device):
    """What the library has is what Python's has: it is the same file."""
    available = import_onnxruntime().get_available_providers()
    if DEVICES[device] in available:
        capi.Model(opened, device=device)
        return
    with pytest.raises(capi.Failure) as caught:
        capi.Model(opened, device=device)
    assert caught.value.status == 4
    assert f"needs {DEVICES[device]}" in str(caught.value)
    assert f"has {', '.join(available)}; link" in str(caught.value)


@pytest.mark.parametrize("device", ENGINE_DEVICES)
def test_engines_need_a_library_with_tensorrt_and_a_cache_with_engines(opened, capi, device):
    with pytest.raises(capi.Failure, match=r"TensorRT|tensorrt") as caught:
        capi.Model(opened, device=device)
    assert caught.value.status == 4


def test_weights_are_packed_for_the_cpu_alone(opened, capi):
    with pytest.raises(capi.Failure, match="packed weights are those of device cpu") as caught:
        capi.Model(opened, device="rtx", packed=True)
    assert caught.value.status == 2


def test_the_devices_flavour_is_read_unless_another_is_asked_for(opened, capi, bundle, library):
    named = capi.Model(opened, device="cpu", flavour="portable", budgets=[4])
    assert named.memory["cache_bytes"] > 0
    other = capi.Bundle(library, bundle)  # has graphs of ONNX Runtime only
    capi.Model(other, device="cpu", budgets=[4])
    with pytest.raises(capi.Failure, match="has no portable graph"):
        capi.Model(other, device="ort-rtx")


@dataclass
class Fake:
    """The library over the fake, with the engines that Python put into a cache."""

    process: subprocess.Popen[str]
    bundle: Path
    python: Any
    photo: Any
    cache: Path
    tokens: int = 6
    _want: dict[int, Any] = field(default_factory=dict)

    def ask(
        self,
        asked=BUDGETS,
        *,
        cache: Path | None = None,
        places: dict[str, str | None] | None = None,
        version: str = "10.3.0",
        faults: dict[str, int] | None = None,
        later: dict[str, int] | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Answers on these rungs; faults from the start, and those of `later` once it is loaded."""
        prompt = self.python.processor.encode(TEXT)
        ask = {
            "before": list(prompt.before),
            "after": list(prompt.after),
            "max_new_tokens": self.tokens,
        }
        request = {
            "bundle": str(self.bundle),
            "environment": places or {"EDGETOK_CACHE_DIR": str(cache or self.cache)},
            "version": version,
            "faults": faults or {},
            "later": later or {},
            "options": {"device": "tensorrt", "precision": "fp32"} | options,
            "asks": [ask | {"budget": budget} for budget in asked],
        }
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the process ended"
        return json.loads(line)

    def want(self, budget: int) -> list[Any]:
        """What Python's sessions answer."""
        if budget not in self._want:
            self.python.forget()
            made = self.python.generate(self.photo, TEXT, budget=budget, max_new_tokens=self.tokens)
            self._want[budget] = [list(made.token_ids), list(made.kept), made.stop_reason]
        return self._want[budget]

    def require_answers(self, found: dict[str, Any], budgets=BUDGETS) -> None:
        assert "message" not in found, found["message"]
        assert found["answers"] == [self.want(budget) for budget in budgets]
        assert found["left"] == 0


def _build(load_helper, bundle: Path, cache: Path, version: str, *options: str) -> Path:
    """What `edgetok build` puts into a cache, with the Python fake of TensorRT."""
    module, cuda, faults, _ = load_helper("runtimes/fake_tensorrt").make()
    faults.version = version
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGETOK_CACHE_DIR", str(cache))
        for name in ("tensorrt", "tensorrt_rtx"):
            patch.setitem(sys.modules, name, module)
        patch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
        assert execute(["build", str(bundle), *options]) == 0
    return cache


@pytest.fixture(scope="module")
def fake(build, portable_bundle, load_helper, tmp_path_factory):
    if not (build / "libedgetok_fake.so").exists():
        pytest.skip("the build that EDGETOK_CPP_BUILD names has no EDGETOK_TESTS")
    folder = tmp_path_factory.mktemp("engines")
    cache = _build(load_helper, portable_bundle, folder, "10.3.0", *FULL)
    capi = HERE.parents[2] / "benchmarks" / "cpp_library.py"
    command = [sys.executable, HERE / "fake_engines.py", build / "libedgetok_fake.so", capi]
    python = edgetok.load(portable_bundle, flavour="portable", threads=1)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        photo = load_helper("runtimes/cpp/fake_engines").photo()
        yield Fake(process, portable_bundle, python, photo, cache)
        process.stdin.close()
    assert process.returncode == 0


def test_engines_answer_as_sessions_do(fake):
    found = fake.ask()
    fake.require_answers(found)
    assert len(fake.want(16)[0]) > 2
    assert found["counts"]["profiles"] == 3  # a context of prefill per rung
    assert found["loaded"]["allocated"] == found["counts"]["allocated"]  # nothing after loading
    assert found["counts"]["recorded"] == 1
    assert found["counts"]["launched"] > 10


def test_rungs_share_one_cache(fake):
    """Held once, though graphs of four stages and three rungs read and write it."""
    kv = fake.python.runtime.manifest.kv
    rows = kv.layers * 2 * kv.kv_heads * kv.head_dim * kv.slots[0]
    assert fake.ask([])["memory"]["cache_bytes"] == 4 * rows


def test_one_rung_is_loaded_alone(fake):
    found = fake.ask([8], budgets=[8])
    fake.require_answers(found, [8])
    assert found["counts"]["profiles"] == 1
    assert found["counts"]["contexts"] < fake.ask([])["counts"]["contexts"]


@pytest.mark.slow
def test_half_precision_decides_alike_and_holds_half_the_cache(fake, load_helper, tmp_path):
    cache = _build(load_helper, fake.bundle, tmp_path / "cache", "10.3.0", *FULL[:2])
    found = fake.ask([16], precision="fp16", cache=cache)
    assert "message" not in found
    assert found["answers"][0][1] == fake.want(16)[1]  # tokens are chosen in float32
    assert len(found["answers"][0][0]) > 2
    assert found["memory"]["cache_bytes"] * 2 == fake.ask([])["memory"]["cache_bytes"]


def test_engines_of_rtx_serve_gpus_that_they_were_built_for(fake, load_helper, tmp_path):
    options = ("--target", "rtx:sm86,sm120", "--precision", "fp32")
    cache = _build(load_helper, fake.bundle, tmp_path / "cache", "1.7.1", *options)
    for kernels in (0, 1):  # what is compiled here is kept for the next start
        found = fake.ask(device="rtx", cache=cache, version="1.7.1", faults={"capability": 86})
        fake.require_answers(found)
        assert found["counts"]["profiles"] == 0  # one range of shapes serves all rungs
        assert found["counts"]["kernels"] == kernels
    kept = list((cache / "engines").glob("*.kernels"))
    assert [path.stat().st_mode & 0o777 for path in kept] == [0o600]


def test_steps_that_may_not_be_recorded_are_run_one_by_one(fake):
    found = fake.ask(faults={"no_recording": 1})
    fake.require_answers(found)
    assert found["counts"]["recorded"] == 0


def test_rows_take_turns_where_an_engine_cannot_write_in_place(
    fake, load_helper, tmp_path, monkeypatch
):
    """As in graphs of opset 20, whose ScatterND no engine does in place."""
    import onnx_ir as ir

    from edgetok.engines import plan
    from edgetok.export.lowering.opset20 import lower

    load = plan._Planner._load
    lowered = lambda self, stage: ir.to_proto(lower(ir.from_proto(load(self, stage))))  # noqa: E731
    monkeypatch.setattr(plan._Planner, "_load", lowered)
    cache = _build(load_helper, fake.bundle, tmp_path / "cache", "10.3.0", *FULL)
    found = fake.ask((4, 16), cache=cache)
    fake.require_answers(found, (4, 16))
    assert found["counts"]["recorded"] == 2  # one for each place that rows may lie in


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["streaming", "h2o"])
def test_a_full_cache_is_emptied_on_the_device(fake, load_helper, model_dir, tmp_path, policy):
    """By a graph of an engine of its own, whose rows the host copies."""
    from edgetok.export.pipeline import export_model

    out = tmp_path / "kept.bundle"
    sizes = {"prompt_tokens": 32, "new_tokens": 8, "parity_images": 1, "kv_slots": 40}
    export_model(model_dir, out, budgets="4,full", flavour="portable", kv_policy=policy, **sizes)
    cache = _build(load_helper, out, tmp_path / "cache", "10.3.0", *FULL)
    python = edgetok.load(out, flavour="portable", threads=1)
    kept = replace(fake, bundle=out, python=python, cache=cache, tokens=40, _want={})
    found = kept.ask((16, 4))
    kept.require_answers(found, (16, 4))
    assert len(found["answers"][0][0]) == 40  # more than the cache has slots for


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"version": "10.9.0"}, r"no engine of it in .* for tensorrt 10\.9\.0, fp32"),
        ({"precision": "bf16"}, r"engines of: tensorrt 10\.3\.0, fp32, edgetok"),
        ({"faults": {"capability": 110}}, "on Fake GPU, sm110, driver for CUDA 12.6"),
        ({"version": "1.7.1", "device": "rtx"}, "edgetok build BUNDLE .* --target rtx:sm87"),
        ({"device": "rtx"}, "needs another TensorRT"),
        ({"faults": {"no_device": 1}}, "CUDA could not use the first GPU: fakeError 100"),
        ({"faults": {"refuses": 1}}, "does not open it .the fake refuses it.*--again"),
        ({"faults": {"name": 1}}, "its engine has no tensor"),
        ({"faults": {"dtype": 1}}, "its engine has as .*: int"),
        ({"faults": {"shape": 1}}, r"its engine has as .*, 2\]"),
        ({"faults": {"side": 1}}, "its engine has as .*, an output"),
        ({"faults": {"on_host": 1}}, "its engine has as .* on the host"),
        ({"faults": {"further": 1}}, r"its engine has \d+ tensors instead of \d+"),
        ({"faults": {"no_profile": 1}}, "TensorRT refused optimization profile"),
        ({"faults": {"no_shape": 1}}, "TensorRT refused the shape of"),
        ({"later": {"no_address": 1}}, "TensorRT refused a place of"),
        ({"later": {"enqueue": 1}}, "tower.*TensorRT refused the call"),
        ({"later": {"enqueue": 5}}, "TensorRT refused the call"),
        ({"later": {"enqueue": 7}}, "TensorRT refused the call"),
    ],
)
def test_what_does_not_fit_is_refused(fake, options, reason):
    found = fake.ask(**options)
    assert found["status"] == 4
    assert re.search(reason, found["message"], re.DOTALL), found["message"]
    assert found["left"] == 0
    fake.require_answers(fake.ask([4]), [4])  # and nothing of it is left


def test_a_precision_that_there_is_none_of(fake):
    found = fake.ask(precision="fp8")
    assert (found["status"], "use fp32, fp16 or bf16" in found["message"]) == (2, True)


def test_memory_that_runs_out_at_any_allocation(fake):
    whole = fake.ask([])["loaded"]["allocated"]
    assert whole > 20
    for nth in range(1, whole + 1, 5):
        found = fake.ask([], faults={"allocation": nth})
        assert (found["status"], found["left"]) == (6, 0)
        assert "the GPU's memory ran out (allocate" in found["message"]
    found = fake.ask([], faults={"no_context": 1})
    assert (found["status"], "execution context" in found["message"]) == (6, True)


def _damage_sidecar(engine: Path, change) -> None:
    path = engine.with_suffix(".json")
    told = json.loads(path.read_bytes())
    change(told)
    path.write_text(json.dumps(told))


def _flip_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _link(path: Path) -> None:
    path.rename(path.with_suffix(".other"))
    path.symlink_to(path.with_suffix(".other"))


DAMAGE = {
    "a byte": lambda e: _flip_byte(e),
    "cut": lambda e: e.write_bytes(e.read_bytes()[:-1]),
    "more": lambda e: e.write_bytes(e.read_bytes() + b"\0"),
    "a link": _link,
    "writable by others": lambda e: e.chmod(0o622),
    "no sidecar": lambda e: e.with_suffix(".json").unlink(),
    "sidecar writable by others": lambda e: e.with_suffix(".json").chmod(0o666),
    "sidecar not JSON": lambda e: e.with_suffix(".json").write_text("{"),
    "sidecar of much": lambda e: e.with_suffix(".json").write_text("[" * 2_000_000),
    "an unknown field": lambda e: _damage_sidecar(e, lambda t: t.update(more=1)),
    "another hash": lambda e: _damage_sidecar(e, lambda t: t.update(sha256="0" * 64)),
    "another size": lambda e: _damage_sidecar(e, lambda t: t.update(bytes=t["bytes"] + 1)),
    "another bundle": lambda e: _damage_sidecar(e, lambda t: t["recipe"].update(bundle="0" * 64)),
    "another edgetok": lambda e: _damage_sidecar(e, lambda t: t["recipe"].update(edgetok="0.0.9")),
    "no files": lambda e: _damage_sidecar(e, lambda t: t.update(files=[], constants=[])),
    "no constants": lambda e: e.with_suffix(".constants").unlink(),
    "other constants": lambda e: _flip_byte(e.with_suffix(".constants")),
    "constants outside": lambda e: _damage_sidecar(
        e, lambda t: t["constants"][0][0].update(offset=t["constants_bytes"])
    ),
    "constants of another shape": lambda e: _damage_sidecar(
        e, lambda t: t["constants"][0][0].update(shape=[1 << 28] * 8)
    ),
    "constants of no rung": lambda e: _damage_sidecar(e, lambda t: t["constants"].pop()),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_an_engine_that_was_touched_is_refused(fake, tmp_path, damage):
    cache = tmp_path / "cache"
    shutil.copytree(fake.cache, cache)
    (engine,) = cache.glob("engines/*/prefill-*.engine")
    assert json.loads(engine.with_suffix(".json").read_bytes())["constants"][0]
    DAMAGE[damage](engine)
    found = fake.ask([], cache=cache)
    assert found["status"] == 4, found
    assert "prefill" in found["message"]
    assert "edgetok build BUNDLE --precision fp32 --target tensorrt" in found["message"]


def test_engines_of_different_graphs_are_not_chosen_between(fake, tmp_path):
    cache = tmp_path / "cache"
    shutil.copytree(fake.cache, cache)
    (engine,) = cache.glob("engines/*/decode-*.engine")
    twin = engine.with_name("decode-0000000000000000.engine")
    for suffix in (".engine", ".json", ".constants"):
        shutil.copy(engine.with_suffix(suffix), twin.with_suffix(suffix))
    fake.require_answers(fake.ask([4], cache=cache), [4])  # they are alike
    _damage_sidecar(twin, lambda told: told["recipe"].update(graph="0" * 64))
    assert "were made of different graphs of" in fake.ask([], cache=cache)["message"]


@pytest.mark.slow
def test_engines_of_single_rungs_serve_where_there_are_no_others(fake, load_helper, tmp_path):
    limit = ("--max-build-memory", "350MiB")
    cache = _build(load_helper, fake.bundle, tmp_path / "cache", "10.3.0", *FULL, *limit)
    assert list(cache.glob("engines/*/prefill_4-*.engine"))
    fake.require_answers(fake.ask(cache=cache))


@pytest.mark.parametrize("variable", ["EDGETOK_CACHE_DIR", "XDG_CACHE_HOME", "HOME"])
def test_engines_are_looked_for_where_python_keeps_them(fake, tmp_path, monkeypatch, variable):
    for name in ("EDGETOK_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    places = {
        name: os.environ.get(name) for name in ("EDGETOK_CACHE_DIR", "XDG_CACHE_HOME", "HOME")
    }
    found = fake.ask([], places=places)
    assert f" in {cache_directory()}/engines/" in found["message"]
