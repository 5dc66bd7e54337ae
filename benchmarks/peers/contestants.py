"""Who takes part: the files each one runs, how those are made, and what it is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DEMO = HERE.parents[1] / "examples/demo_vlm"
Request = dict[str, Any]


@dataclass(frozen=True)
class File:
    """A file or folder below that of its model, and how it is made.

    Args:
        environment: whose Python is {python} of the command; edgetok's own when None.
        command: without the target, which is its last word; {checkpoint} and {here} are filled in.
        needs: other files of the same model, {of} being the first.
    """

    environment: str | None
    command: str
    needs: tuple[str, ...] = ()


_EXPORT = "{python} -m edgetok.cli export {checkpoint} --method visionzip"
_SCALES = "--kv int8 --samples {samples}"
_OPENVINO = "{python} -m optimum.commands.optimum_cli export openvino -m {checkpoint}"
_GGUF = "{python} {here}/gguf_files.py {checkpoint}"
_GENAI = "{python} -m onnxruntime_genai.models.builder -m {of} -p int4 -e cpu -c {of}/cache -o"

FILES = {
    ("llava135", "edgetok-int4.bundle"): File(
        None, f"{_EXPORT} --budgets 64,128,192,full --weights int4 {_SCALES} -o"
    ),
    ("llava135", "edgetok-int8.bundle"): File(
        None, f"{_EXPORT} --budgets 64,full --weights int8 {_SCALES} --parity-images 1 -o"
    ),
    ("llava135", "edgetok-fp32.bundle"): File(
        None, f"{_EXPORT} --budgets 64,full --parity-images 1 -o"
    ),
    ("llava135", "decoder-Q4_0-Q8_0.gguf"): File("llama.cpp", f"{_GGUF} Q4_0 Q8_0"),
    ("llava135", "decoder-Q4_0.gguf"): File("llama.cpp", f"{_GGUF} Q4_0 Q4_0"),
    ("llava135", "decoder-Q8_0.gguf"): File("llama.cpp", f"{_GGUF} Q8_0 Q8_0"),
    ("llava135", "tower-Q8_0.gguf"): File("llama.cpp", f"{_GGUF} Q8_0"),
    ("llava135", "openvino-int4"): File(  # 576 channels are no multiple of its groups of 128
        "optimum", f"{_OPENVINO} --weight-format int4 --group-size 64 --task image-text-to-text"
    ),
    ("llava135", "decoder"): File(None, "{python} {here}/checkpoints.py decoder {checkpoint}"),
    ("llava135", "onnxruntime-int4"): File("onnxruntime", _GENAI, ("decoder",)),
    ("qwen297", "edgetok-int4.bundle"): File(
        None,
        f"{_EXPORT} --budgets 26,64,128,256 --image-size 448x448 --weights int4 {_SCALES} -o",
    ),
    ("qwen297", "openvino-int4"): File(
        "optimum", f"{_OPENVINO} --weight-format int4 --task image-text-to-text"
    ),
    ("demo", "edgetok-int8.bundle"): File(
        None, f"{_EXPORT} --budgets 64,128,192,full --weights int8 {_SCALES} -o"
    ),
}


@dataclass(frozen=True)
class Start:
    """A way to start: options beside the contestant's own, and what is asked then, once each."""

    options: Mapping[str, Any]
    requests: Sequence[Request]


@dataclass(frozen=True)
class Contestant:
    """One program on one model.

    Args:
        family: by which it is chosen on the command line, and its module `run_FAMILY`.
        files: its options that are names in `FILES`.
        requests: what it is asked in every round.
        starts: how its start is measured, by name.
    """

    name: str
    model: str
    family: str
    files: Mapping[str, str]
    requests: Sequence[Request]
    options: Mapping[str, Any] = field(default_factory=dict)
    starts: Mapping[str, Start] = field(default_factory=dict)


STEPS = 32
PROGRAMS = {  # by family: the module, and the environment that it runs in
    "edgetok": ("run_edgetok.py", None),
    "edgetok-cpp": ("run_edgetok.cpp", None),
    "llama.cpp": ("run_llama_cpp.py", "llama.cpp"),
    "openvino.genai": ("run_openvino.py", "openvino"),
    "onnxruntime-genai": ("run_onnxruntime.py", "onnxruntime"),
}


def _answer(tokens: int, steps: int = STEPS) -> Request:
    return {"do": "answer", "tokens": tokens, "steps": steps}


def _text(rows: int, steps: int = STEPS) -> Request:
    return {"do": "text", "tokens": rows, "steps": steps}


_RUNGS = {
    "one rung": Start({"budgets": [64]}, [_answer(64, 0), _answer(64, 1)]),
    "four rungs": Start({}, [_answer(64, 0), *(_answer(k, 1) for k in (64, 128, 192, 576))]),
}
_PICTURES = [_answer(64), _answer(576)]
_TEXTS = [_text(128), _text(640)]
_ONE_PICTURE = {"": Start({}, [_answer(576, 0), _answer(576, 1)])}
_QWEN = [_answer(tokens, 16) for tokens in (256, 128, 64, 26)]


def _edgetok(
    name: str, model: str, file: str, requests: Sequence[Request], **rest: Any
) -> Contestant:
    return Contestant(name, model, "edgetok", {"model": file}, requests, **rest)


def _llama(name: str, file: str, requests: Sequence[Request], **rest: Any) -> Contestant:
    files = {"model": file} | ({"tower": "tower-Q8_0.gguf"} if rest.get("starts") else {})
    return Contestant(name, "llava135", "llama.cpp", files, requests, **rest)


CONTESTANTS = [
    _edgetok(
        "edgetok int4",
        "llava135",
        "edgetok-int4.bundle",
        [*_PICTURES, {"do": "second", "tokens": 64}],
        starts=_RUNGS,
    ),
    _edgetok("edgetok int8", "llava135", "edgetok-int8.bundle", _PICTURES),
    _edgetok(
        "edgetok float32", "llava135", "edgetok-fp32.bundle", [_answer(64, 0), _answer(576, 0)]
    ),
    Contestant(
        "edgetok int4, C++",
        "llava135",
        "edgetok-cpp",
        {"model": "edgetok-int4.bundle"},
        _PICTURES,
        starts=_RUNGS,
    ),
    _llama(
        "llama.cpp Q4_0, head Q8_0",
        "decoder-Q4_0-Q8_0.gguf",
        [_answer(576), *_TEXTS],
        starts=_ONE_PICTURE,
    ),
    _llama("llama.cpp Q4_0", "decoder-Q4_0.gguf", _TEXTS),
    _llama("llama.cpp Q8_0", "decoder-Q8_0.gguf", _TEXTS),
    # Which is quicker depends on the processor, and differs between prompts and steps.
    _llama(
        "llama.cpp Q4_0, head Q8_0, no flash attention",
        "decoder-Q4_0-Q8_0.gguf",
        _TEXTS,
        options={"flash": False},
    ),
    _llama(
        "llama.cpp Q8_0, no flash attention", "decoder-Q8_0.gguf", _TEXTS, options={"flash": False}
    ),
    Contestant(
        "openvino.genai int4",
        "llava135",
        "openvino.genai",
        {"model": "openvino-int4"},
        [_answer(576)],
        starts=_ONE_PICTURE,
    ),
    Contestant(
        "onnxruntime-genai int4",
        "llava135",
        "onnxruntime-genai",
        {"model": "onnxruntime-int4"},
        _TEXTS,
        starts={"": Start({}, [_text(640, 0), _text(640, 1)])},
    ),
    _edgetok("edgetok int4", "qwen297", "edgetok-int4.bundle", _QWEN),
    Contestant(
        "openvino.genai int4",
        "qwen297",
        "openvino.genai",
        {"model": "openvino-int4"},
        _QWEN,
    ),
]
MODELS = ("llava135", "qwen297", "demo")
