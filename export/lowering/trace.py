"""From a stage module to an ONNX graph: trace, name, and clean."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import warnings
from collections.abc import Iterator, Sequence

import onnx_ir as ir
import onnx_ir.passes.common as passes
import torch
from onnxscript import optimizer, rewriter
from onnxscript.rewriter.rules import common as rules
from torch import Tensor, nn

from edgetok.errors import IncompatibleError
from edgetok.export.lowering.registry import kept_registry
from edgetok.export.lowering.unroll import Unroller
from edgetok.tokens.greedy import repeating

FOLDED_ELEMENTS = 16_384  # larger constants stay computed: a rung should not add weights
REWRITES = 2  # rounds, as in onnxscript's own optimizer
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
    unroller = Unroller()

    def export(part: nn.Module, given: dict[str, Tensor], made: Sequence[str]) -> ir.Model:
        return clean(_export(part, given, made, opset), name)

    try:
        with torch.no_grad(), _uncollected():
            with repeating(unroller.note):
                model = export(stage, inputs, outputs)
            unroller.unroll(model, export)
    except Exception as error:
        raise IncompatibleError(
            f"PyTorch {torch.__version__} cannot export the {name} stage: "
            f"{str(error).strip().splitlines()[0][:300]}"
        ) from error
    return model


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collection: a trace keeps nearly all that it makes, and looking took an eighth."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _export(
    stage: nn.Module, inputs: dict[str, Tensor], outputs: Sequence[str], opset: int
) -> ir.Model:
    with kept_registry():
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
    model: ir.Model = program.model  # type: ignore[union-attr]
    return model


def clean(model: ir.Model, name: str) -> ir.Model:
    """Fold constants and drop everything that says where and when the graph was made."""
    passes.InlinePass()(model)
    _fold(model)
    for _ in range(REWRITES):
        if not rewriter.RewritePass(_RULES)(model).modified:
            break
        _fold(model)
    for done in (
        passes.RemoveUnusedOpsetsPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.OutputFixPass(),
        passes.NameFixPass(),
    ):
        done(model)
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


def _fold(model: ir.Model) -> None:
    """Compute what only depends on constants, and drop what was only needed for it."""
    optimizer.fold_constants_ir(
        model,
        onnx_shape_inference=False,
        output_size_limit=FOLDED_ELEMENTS,
        should_fold=_is_transpose,
    )
    passes.RemoveUnusedNodesPass()(model)


def _is_transpose(node: ir.Node) -> bool | None:
    """Transposed weights are folded whatever their size."""
    return True if node.op_type == "Transpose" else None


# Those of onnxscript's rules that find something in our stages. One of the others looks at all
# nodes for every node, which made half the time of an unrolled loop.
_RULES = rewriter.RewriteRuleSet(
    [
        *rules.mul_by_1_rule.commute(),
        *rules.add_0_rule.commute(),
        rules.sub_0_rule,
        rules.div_by_1_rule,
        rules.collapse_slice_rule,
        rules.collapse_slice2_rule,
        rules.max_min_rule,
        rules.min_max_rule,
        rules.cast_cast_rule,
        rules.no_op_cast_rule,
        rules.no_op_expand_rule,
        rules.reshape_reshape_rule,
        rules.no_op_transpose_rule,
        rules.transpose_transpose_rule,
        rules.unsqueeze_unsqueeze_rule,
        rules.squeeze_reshape_1d_rule,
        rules.remove_optional_bias_from_conv_rule,
    ]
)


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
