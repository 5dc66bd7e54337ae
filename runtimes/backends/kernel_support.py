"""What an execution provider really does, found out with graphs of one node."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from edgetok.errors import IncompatibleError
from edgetok.runtimes.backends.providers import import_onnxruntime

CPU = "CPUExecutionProvider"
KV_BITS = (8, 4)
_CACHE_TYPES = {8: (TensorProto.INT8, np.int8), 4: (TensorProto.UINT8, np.uint8)}
_HEAD, _SLOTS = 64, 8  # a head size that every kernel knows


def try_provider(name: str) -> str:
    """`runs`, or why a provider did not add two vectors: its presence in a list says nothing."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "probe", [x], [y])
    value = np.arange(4, dtype=np.float32)
    try:
        (got,) = _run(graph, {"x": value}, name)
    except Exception as error:  # a provider may raise anything; its words are the finding
        return f"fails: {_brief(error)}"
    return "runs" if np.array_equal(got, value + value) else f"fails: {value} + {value} gave {got}"


@cache
def try_kv_bits(name: str, bits: int) -> str:
    """`runs`, or why the provider's GroupQueryAttention takes no cache of so many bits.

    Which widths a build has depends on how it was compiled, not on its version.
    """
    try:
        _run(_attention(name, bits), _attention_feeds(name, bits), name)
    except Exception as error:
        return f"fails: {_brief(error)}"
    return "runs"


def require_kv_bits(name: str, bits: int) -> None:
    """Refuse a bundle whose cache the provider cannot read.

    Raises:
        IncompatibleError: with the provider's own words.
    """
    if (found := try_kv_bits(name, bits)) != "runs":
        raise IncompatibleError(
            f"{name} takes no KV cache of {bits} bits here ({found}); run on another device, or "
            "export with --kv fp32"
        )


def _run(graph: Any, feeds: dict[str, Any], name: str) -> list[Any]:
    """One run on this provider alone."""
    onnxruntime = import_onnxruntime()
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if name != CPU:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    data = model.SerializeToString()
    with warnings.catch_warnings(action="ignore"):  # what it warns of is in our result
        session = onnxruntime.InferenceSession(data, options, providers=[name])
    if session.get_providers()[0] != name:
        raise RuntimeError("ONNX Runtime fell back to another provider")
    return list(session.run(None, feeds))


def _attention(name: str, bits: int) -> Any:
    """One GroupQueryAttention of one head over a cache of few bits."""
    kind, width = _CACHE_TYPES[bits][0], _HEAD * bits // 8
    number = TensorProto.FLOAT if name == CPU else TensorProto.FLOAT16
    rows, cache_shape = [1, 1, _HEAD], [1, 1, _SLOTS, width]
    inputs = [helper.make_tensor_value_info(each, number, rows) for each in ("q", "k", "v")]
    inputs += [helper.make_tensor_value_info(n, kind, cache_shape) for n in ("pk", "pv")]
    inputs += [helper.make_tensor_value_info("lengths", TensorProto.INT32, [1])]
    inputs += [helper.make_tensor_value_info("total", TensorProto.INT32, [])]
    scales = ("k_scale", "v_scale")
    inputs += [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in scales]
    names = [value.name for value in inputs]
    outputs = [helper.make_tensor_value_info("y", number, rows)]
    outputs += [helper.make_tensor_value_info(n, kind, cache_shape) for n in ("nk", "nv")]
    node = helper.make_node(
        "GroupQueryAttention",
        [*names[:7], "", "", "", "", "", *scales],
        ["y", "nk", "nv"],
        domain="com.microsoft",
        num_heads=1,
        kv_num_heads=1,
        kv_cache_bit_width=bits,
        k_quant_type="PER_TENSOR",
        v_quant_type="PER_TENSOR",
    )
    return helper.make_graph([node], "probe", inputs, outputs)


def _attention_feeds(name: str, bits: int) -> dict[str, Any]:
    number = np.float32 if name == CPU else np.float16
    past = np.zeros((1, 1, _SLOTS, _HEAD * bits // 8), _CACHE_TYPES[bits][1])
    row, scale = np.ones((1, 1, _HEAD), number), np.full(1, 0.05, np.float32)
    feeds = {"q": row, "k": row, "v": row, "pk": past, "pv": past.copy()}
    feeds |= {"lengths": np.array([2], np.int32), "total": np.array(3, np.int32)}
    return feeds | {"k_scale": scale, "v_scale": scale}


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
