"""From a stage module to an ONNX graph: trace, name, and clean."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence

import onnx_ir as ir
import onnx_ir.passes.common as passes
import torch
from onnxscript import optimizer
from torch import Tensor, nn

from edgetok.errors import IncompatibleError

FOLDED_ELEMENTS = 16_384  # larger constants stay computed: a rung should not add weights
OPSET = 20  # of the `ort` flavour; ONNX Runtime 1.20 knows it too


def trace(
    stage: nn.Module,
    inputs: dict[str, Tensor],
    outputs: Sequence[str],
    name: str,
    opset: int = OPSET,
) -> ir.Model:
    """Trace `stage` with example inputs of its static shapes.

    Raises:
        IncompatibleError: if PyTorch cannot export it.
    """
    with torch.no_grad():
        try:
            program = torch.onnx.export(
                stage,
                tuple(inputs.values()),
                dynamo=True,
                opset_version=opset,
                input_names=list(inputs),
                output_names=list(outputs),
                optimize=False,
                verbose=False,
            )
        except Exception as error:
            raise IncompatibleError(
                f"PyTorch {torch.__version__} cannot export the {name} stage: "
                f"{str(error).strip().splitlines()[0][:300]}"
            ) from error
    model: ir.Model = program.model  # type: ignore[union-attr]
    return clean(model, name)


def clean(model: ir.Model, name: str) -> ir.Model:
    """Fold constants and drop everything that says where and when the graph was made."""
    # One of the optimizer's rules looks at all nodes for every node, so those that only compute
    # constants, three of four in an unrolled loop, are folded and dropped before it runs.
    optimizer.fold_constants_ir(model, output_size_limit=FOLDED_ELEMENTS, should_fold=_is_transpose)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    passes.RemoveUnusedNodesPass()(model)
    optimizer.optimize_ir(
        model,
        onnx_shape_inference=False,
        output_size_limit=FOLDED_ELEMENTS,
        should_fold=_is_transpose,
    )
    # Constants leave the graph's nodes: only initializers can be shared between graphs.
    passes.LiftConstantsToInitializersPass(lift_all_constants=False, size_limit=16)(model)
    passes.RemoveUnusedNodesPass()(model)
    passes.RemoveUnusedOpsetsPass()(model)
    passes.ClearMetadataAndDocStringPass()(model)
    model.graph.name = name
    model.producer_name, model.producer_version = "edgetok", None
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    return model


def _is_transpose(node: ir.Node) -> bool | None:
    """Transposed weights are folded whatever their size."""
    return True if node.op_type == "Transpose" else None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporter and the graph passes report on standard output, through warnings and logs.

    What matters of it is raised as an error, so none of it reaches the user.
    """
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
