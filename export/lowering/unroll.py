"""Greedy loops in a trace: one round is traced by itself, and the graph repeats its nodes.

PyTorch takes milliseconds for every operator that it traces, so that 192 equal rounds would take
a quarter of a minute. While a stage is traced, a loop is one placeholder; afterwards the round
stands in the graph k - 1 times, which is the graph that tracing all of them would have made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir
import onnx_ir.passes.common as passes
import torch
from torch import Tensor, nn

from edgetok.tokens.greedy import Round, Tensors

DOMAIN, PLACEHOLDER = "edgetok", "Rounds"  # in no graph that leaves the exporter
Trace = Callable[[nn.Module, dict[str, Tensor], Sequence[str]], ir.Model]
Values = dict[ir.Value | None, ir.Value | None]


class TracedRound(nn.Module):
    """The token taken [1], what stays, the state -> the next token [1] and the state then."""

    def __init__(self, take: Round, known: int) -> None:
        super().__init__()
        self.take = take
        self.known = known

    def forward(self, pick: Tensor, *given: Tensor) -> Tensors:
        state, pick = self.take(given[: self.known], given[self.known :], pick)
        return pick, *state


@dataclass(frozen=True)
class Loop:
    """A loop that was met: its round, the shapes and types of what it starts from, and k - 1."""

    stage: TracedRound
    start: list[tuple[tuple[int, ...], torch.dtype]]
    rounds: int

    def trace(self, trace: Trace) -> ir.Graph:
        """One round as a graph: the second, before which nothing that grows has one row."""
        first = [torch.zeros(shape, dtype=dtype) for shape, dtype in self.start]
        with torch.no_grad():
            pick, *state = self.stage(*first)
        given = (pick, *first[1 : 1 + self.stage.known], *state)
        inputs = {f"given_{i}": part for i, part in enumerate(given)}
        return trace(self.stage, inputs, [f"made_{i}" for i in range(1 + len(state))]).graph


@dataclass
class Unroller:
    """Notes the loops of a trace, and puts their rounds into its graph."""

    loops: list[Loop] = field(default_factory=list)

    def note(self, first: Tensor, known: Tensors, state: Tensors, take: Round, k: int) -> Tensor:
        """Stands in for a loop while a stage is traced, see `greedy.repeating`: -> [k] int64."""
        if k == 1:
            return first
        parts = (first, *known, *state)
        shapes = [(tuple(part.shape), part.dtype) for part in parts]
        self.loops.append(Loop(TracedRound(take, len(known)), shapes, k - 1))
        return torch.onnx.ops.symbolic(
            f"{DOMAIN}::{PLACEHOLDER}",
            parts,
            attrs={"loop": len(self.loops) - 1},
            dtype=torch.int64,
            shape=(k,),
            version=1,
        )

    def unroll(self, model: ir.Model, trace: Trace) -> None:
        """Replace the placeholders in `model` by their rounds, which `trace` makes graphs of."""
        found = [node for node in model.graph if node.domain == DOMAIN]
        for node in found:
            loop = self.loops[node.attributes.get_int("loop", 0)]
            _replace(model.graph, node, loop, loop.trace(trace))
        if found:
            del model.graph.opset_imports[DOMAIN]
            passes.RemoveUnusedNodesPass()(model)  # what the last round leaves for another
            passes.DeduplicateInitializersPass()(model)


def _replace(graph: ir.Graph, node: ir.Node, loop: Loop, body: ir.Graph) -> None:
    pick, *rest = node.inputs
    known, state = rest[: loop.stage.known], rest[loop.stage.known :]
    name, picks = str(node.outputs[0].name), [pick]
    constants = _adopt(graph, body, name)
    for number in range(loop.rounds):
        given = dict(zip(body.inputs, [pick, *known, *state], strict=True))
        pick, *state = _copy(graph, node, body, constants | given, f"{name}_{number}")
        picks.append(pick)
    joined = ir.node("Concat", picks, {"axis": 0})
    taken = joined.outputs[0]
    taken.shape, taken.type = node.outputs[0].shape, node.outputs[0].type
    graph.insert_before(node, joined)
    node.outputs[0].replace_all_uses_with(taken)
    graph.remove(node, safe=True)
    taken.name = name


def _adopt(graph: ir.Graph, body: ir.Graph, prefix: str) -> Values:
    """The constants of a round, once for all of them."""
    adopted: Values = {}
    for value in body.initializers.values():
        name = f"{prefix}_{value.name}"
        own = ir.Value(name=name, shape=value.shape, type=value.type, const_value=value.const_value)
        graph.register_initializer(own)
        adopted[value] = own
    return adopted


def _copy(
    graph: ir.Graph, before: ir.Node, body: ir.Graph, values: Values, prefix: str
) -> list[ir.Value | None]:
    """One round before a node; returns what it makes. Shapes are left to be inferred."""
    for node in body:
        inputs = [None if value is None else values[value] for value in node.inputs]
        own = ir.node(
            node.op_type, inputs, node.attributes, domain=node.domain, num_outputs=len(node.outputs)
        )
        for old, new in zip(node.outputs, own.outputs, strict=True):
            new.name, new.type = f"{prefix}_{old.name}", old.type
            values[old] = new
        graph.insert_before(before, own)
    return [values[value] for value in body.outputs]
