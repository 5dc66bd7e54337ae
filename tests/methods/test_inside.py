"""Methods inside the tower, step by step: against plain loops, frozen, and by their properties."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from edgetok import tokens
from edgetok.errors import UsageError
from edgetok.export.lowering import portable
from edgetok.export.lowering.trace import OPSET, quiet, trace
from edgetok.methods import TOWER_METHODS, Method, find_method
from edgetok.tokens import Look, Plan
from edgetok.tokens.schedules import Encoder

HEADS, HEAD, WIDTH = 2, 8, 16
DYNAMIC_OPS = {"NonZero", "Unique", "If", "Loop", "Scan", "Compress", "ScatterElements"}
CLIP, SIGLIP = Encoder(36, (6, 6), 1, 4), Encoder(42, (7, 6), 0, 4)  # no power of two
DEIT, REGISTERS = Encoder(36, (6, 6), 2, 4), Encoder(42, (7, 6), 5, 4)  # 2 and 5 prefix rows
TOWERS = {"clip": CLIP, "siglip": SIGLIP, "deit": DEIT, "registers": REGISTERS}
towers = pytest.mark.parametrize("encoder", TOWERS.values(), ids=TOWERS)
every_method = pytest.mark.parametrize("name", TOWER_METHODS)


def leave(parts: dict[str, Tensor], prefix: int) -> None:
    """Random rows as they are."""


def duplicate(parts: dict[str, Tensor], prefix: int) -> None:
    """Four different patches, repeated."""
    for name, part in parts.items():
        rows = torch.arange(part.shape[-2] - prefix) % 4 + prefix
        whole = torch.cat([torch.arange(prefix), rows])
        parts[name] = part.index_select(-2, whole)


def make_constant(parts: dict[str, Tensor], prefix: int) -> None:
    for name, part in parts.items():
        parts[name] = torch.full_like(part, 0.3)


def make_zero(parts: dict[str, Tensor], prefix: int) -> None:
    for name, part in parts.items():
        parts[name] = torch.zeros_like(part)


def zero_some_rows(parts: dict[str, Tensor], prefix: int) -> None:
    for part in parts.values():
        part[..., prefix::3, :] = 0


def tie_pairs(parts: dict[str, Tensor], prefix: int) -> None:
    """Every patch equals the next but one, so that many similarities tie."""
    for part in parts.values():
        part[..., prefix + 2 :: 4, :] = part[..., prefix : part.shape[-2] - 2 : 4, :]


def add_outlier(parts: dict[str, Tensor], prefix: int) -> None:
    for part in parts.values():
        part[..., part.shape[-2] // 2, :] *= 30


CASES = {
    "random": leave,
    "duplicates": duplicate,
    "constant": make_constant,
    "zeros": make_zero,
    "zero rows": zero_some_rows,
    "ties": tie_pairs,
    "outlier": add_outlier,
}


def build_look(case: str, encoder: Encoder, block: int, method: Method) -> Look:
    """What a block shows of a case, sizes uneven where attention knows them."""
    n = encoder.prefix + encoder.n_tokens
    generator = torch.Generator().manual_seed(n + block)
    shapes = {"x": (n, WIDTH)} | dict.fromkeys(("query", "key", "value"), (HEADS, n, HEAD))
    parts = {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}
    CASES[case](parts, encoder.prefix)
    sizes = torch.ones(n)
    assert method.inside is not None
    if block and method.inside.place != "after block":
        sizes[encoder.prefix :: 3] = 2.0
    bias = sizes.log() if method.inside.proportional else None
    look = Look(**parts, sizes=sizes, encoder=encoder, block=block, bias=bias)
    if method.inside.observe is not None:
        look = replace(look, running=method.inside.observe(look))
    return look


def possible(method: Method, encoder: Encoder) -> list[int]:
    """Three budgets that one step can meet: few merges, some, and as many as it can."""
    single = replace(encoder, blocks=1)
    assert method.inside is not None
    found = [b for b in method.inside.budgets(single) if b < encoder.n_tokens]
    return sorted({found[0], found[len(found) // 2], found[-1]})


def require_equal(plan: Plan, look: Look, want: Any, label: str) -> None:
    weights, centres, sizes = want
    assert plan.indices.tolist() == centres, label
    np.testing.assert_allclose(plan.sizes, sizes, rtol=1e-4, err_msg=label)
    rows = weights @ np.asarray(look.x, np.float64)
    scale = max(1.0, float(np.abs(rows).max()))
    np.testing.assert_allclose(plan.apply(look.x), rows, rtol=0, atol=1e-5 * scale, err_msg=label)


@towers
@every_method
def test_steps_equal_the_loops(name: str, encoder: Encoder, tower_loops: Any) -> None:
    method = find_method(name)
    assert method.inside is not None
    for case in CASES:
        for block in (0, 3):
            look = build_look(case, encoder, block, method)
            for keep in possible(method, encoder):
                plan = method.inside.reduce(look, keep)
                want = tower_loops.STEPS[name](look, keep)
                require_equal(plan, look, want, f"{case}, block {block}, {keep}")


@towers
def test_the_running_score_equals_the_loop(encoder: Encoder, tower_loops: Any) -> None:
    method = find_method("flowcut")
    assert method.inside is not None and method.inside.observe is not None
    for case in CASES:
        look = build_look(case, encoder, 1, method)
        found = method.inside.observe(look)
        np.testing.assert_allclose(found, tower_loops.flowcut_score(look), rtol=1e-4, err_msg=case)


class Step(nn.Module):
    """One step of a method as a graph: what is seen of a block in, rows out."""

    def __init__(self, look: Look, method: Method, keep: int) -> None:
        super().__init__()
        self.look, self.method, self.keep = look, method, keep

    def forward(
        self, x: Tensor, query: Tensor, key: Tensor, value: Tensor, sizes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        inside = self.method.inside
        assert inside is not None
        bias = sizes.log() if inside.proportional else None
        parts = {"x": x, "query": query, "key": key, "value": value, "sizes": sizes}
        look = replace(self.look, **parts, bias=bias, running=None)
        if inside.observe is not None:
            look = replace(look, running=inside.observe(look))
        plan = inside.reduce(look, self.keep)
        return plan.apply(x), plan.indices + 0, plan.sizes + 0


def inputs_of(look: Look) -> dict[str, Tensor]:
    return {name: getattr(look, name) for name in ("x", "query", "key", "value", "sizes")}


def freeze(step: Step, look: Look, opset: int) -> onnx.ModelProto:
    with quiet():
        model = trace(step.eval(), inputs_of(look), ["rows", "kept", "step_sizes"], "step", opset)
    if opset == portable.OPSET:
        model = portable.lower(model, "tower", {})
    return ir.to_proto(model)


def require_static(model: onnx.ModelProto) -> None:
    assert not {node.op_type for node in model.graph.node} & DYNAMIC_OPS
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    for value in [*inferred.input, *inferred.output, *inferred.value_info]:
        dims = value.type.tensor_type.shape.dim
        assert all(dim.HasField("dim_value") for dim in dims), value.name


@every_method
def test_onnx_runtime_returns_what_torch_does(name: str) -> None:
    compare_frozen(name, CLIP, (1,), OPSET)


@pytest.mark.slow
@pytest.mark.parametrize("opset", [OPSET, portable.OPSET], ids=["ort", "portable"])
@towers
@every_method
def test_onnx_runtime_returns_what_torch_does_at_three_budgets(
    name: str, encoder: Encoder, opset: int
) -> None:
    compare_frozen(name, encoder, (0, 1, 2), opset)


def compare_frozen(name: str, encoder: Encoder, which: tuple[int, ...], opset: int) -> None:
    method, block = find_method(name), 3
    budgets = possible(method, encoder)
    for keep in {budgets[min(i, len(budgets) - 1)] for i in which}:
        step = Step(build_look("random", encoder, block, method), method, keep)
        model = freeze(step, step.look, opset)
        require_static(model)
        session = ort.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        wanted = {value.name for value in session.get_inputs()}
        for case in CASES:
            look = build_look(case, encoder, block, method)
            with torch.no_grad():
                rows, kept, sizes = (t.numpy() for t in step(*inputs_of(look).values()))
            feeds = {n: t.numpy() for n, t in inputs_of(look).items() if n in wanted}
            frozen = session.run(None, feeds)
            np.testing.assert_array_equal(frozen[1], kept, err_msg=case)
            np.testing.assert_allclose(frozen[2], sizes, rtol=1e-5, err_msg=case)
            scale = max(1.0, float(np.abs(rows).max()))
            np.testing.assert_allclose(frozen[0], rows, rtol=0, atol=1e-5 * scale, err_msg=case)


# --- properties -----------------------------------------------------------------------------------

PRUNERS = {"topk", "flowcut"}
SOFT = {"token-transforming", "expedit"}


@towers
@every_method
def test_sizes_sum_to_all_patches_and_the_prefix_stays(name: str, encoder: Encoder) -> None:
    method, prefix = find_method(name), encoder.prefix
    assert method.inside is not None
    for case in CASES:
        look = build_look(case, encoder, 3, method)
        for keep in possible(method, encoder):
            plan = method.inside.reduce(look, keep)
            assert plan.indices.shape == (prefix + keep,)
            assert plan.indices[:prefix].tolist() == list(range(prefix))
            assert torch.equal(plan.apply(look.x)[:prefix], look.x[:prefix])
            total = float(prefix + keep) if name in PRUNERS else float(look.sizes.sum())
            assert plan.sizes.sum().item() == pytest.approx(total, rel=1e-5), case
            assert bool(plan.apply(look.x).isfinite().all()), case


@towers
@pytest.mark.parametrize("name", sorted(TOWER_METHODS.keys() - SOFT - {"crossget-b", "evit"}))
def test_rows_of_a_group_get_the_same_back(name: str, encoder: Encoder) -> None:
    method = find_method(name)
    assert method.inside is not None
    look = build_look("random", encoder, 3, method)
    for keep in possible(method, encoder):
        plan = method.inside.reduce(look, keep)
        made = plan.apply(look.x)
        back = plan.unmerge(made)
        for row, column in enumerate(plan.matrix().T):
            owners = column.nonzero()[:, 0].tolist()
            assert len(owners) <= 1
            want = made[owners[0]] if owners else torch.zeros(WIDTH)
            torch.testing.assert_close(back[row], want)


# The others look at even places, at the grid, or at which of two equally near rows comes first.
@towers
@pytest.mark.parametrize("name", ["evit", "topk", "token-transforming", "flowcut"])
def test_patches_may_come_in_any_arrangement(name: str, encoder: Encoder) -> None:
    compare_arrangements(find_method(name), encoder)


@towers
def test_pitome_behind_the_first_half_takes_any_arrangement(encoder: Encoder) -> None:
    compare_arrangements(find_method("pitome"), encoder)


def compare_arrangements(method: Method, encoder: Encoder) -> None:
    assert method.inside is not None
    look, prefix = build_look("random", encoder, 3, method), encoder.prefix
    shuffled = torch.randperm(encoder.n_tokens, generator=torch.Generator().manual_seed(1))
    order = torch.cat([torch.arange(prefix), shuffled + prefix])
    parts = {n: p.index_select(-2, order) for n, p in inputs_of(look).items() if n != "sizes"}
    sizes = look.sizes[order]
    moved = replace(look, **parts, sizes=sizes, bias=None if look.bias is None else sizes.log())
    if look.running is not None:
        moved = replace(moved, running=look.running[shuffled])
    keep = possible(method, encoder)[1]
    first, second = (method.inside.reduce(one, keep) for one in (look, moved))
    same = sorted(map(tuple, first.apply(look.x).round(decimals=3).tolist()))
    again = sorted(map(tuple, second.apply(moved.x).round(decimals=3).tolist()))
    np.testing.assert_allclose(np.array(again), np.array(same), atol=2e-3)


def test_attention_with_sizes_is_attention_over_duplicates() -> None:
    generator = torch.Generator().manual_seed(4)
    query, key, value = torch.randn(3, HEADS, 9, HEAD, generator=generator)
    sizes = torch.tensor([1.0, 3, 1, 2, 1, 1, 4, 1, 1])
    copies = sizes.long()
    look = Look(torch.zeros(9, 4), query, key, value, sizes, CLIP, 0, bias=sizes.log())
    repeated = (part.repeat_interleave(copies, dim=1) for part in (key, value))
    keys, values = repeated
    whole = torch.softmax(query @ keys.transpose(1, 2), -1) @ values
    torch.testing.assert_close(look.attention() @ value, whole)


def test_merged_attention_of_equal_rows_is_their_attention() -> None:
    """Rows that are equal: merging the map beforehand changes nothing for those that stay."""
    generator = torch.Generator().manual_seed(5)
    query, key = torch.randn(2, HEADS, 6, HEAD, generator=generator)
    twice = torch.tensor([0, 1, 1, 2, 3, 4, 4, 4, 5])
    maps = torch.softmax(query[:, twice] @ key[:, twice].transpose(1, 2), -1)
    groups = (twice.unsqueeze(0) == torch.arange(6).unsqueeze(1)).float()
    plan = tokens.merge_groups(groups, torch.tensor([0, 1, 3, 4, 5, 8]), torch.ones(9))
    counts = groups.sum(1)
    want = torch.softmax(query @ key.transpose(1, 2) + counts.log(), -1)
    torch.testing.assert_close(tokens.merge_attention(maps, plan), want)


@every_method
def test_budgets_that_cannot_be_met_name_the_nearest(name: str) -> None:
    method = find_method(name).for_tower(1, blocks=2)
    reached = set(method.budgets(576, (24, 24)))
    missing = sorted(set(range(1, 577)) - reached)
    assert 576 in reached
    for budget in missing[:1] + missing[-1:]:
        below = [b for b in sorted(reached) if b < budget][-1:]
        nearest = [*below, *[b for b in sorted(reached) if b > budget][:1]]
        text = f"cannot make {budget} of 576.* {re.escape(' or '.join(map(str, nearest)))}$"
        with pytest.raises(UsageError, match=text):
            method.check_budget(576, (24, 24), budget)


def test_bipartite_merging_halves_at_most_in_each_block() -> None:
    tome = find_method("tome")
    assert min(tome.for_tower(1, blocks=2).budgets(576, (24, 24))) == 144
    assert min(tome.for_tower(0, blocks=1).budgets(729, (27, 27))) == 365


@every_method
def test_schedules_fall_to_the_budget(name: str) -> None:
    inside = find_method(name).inside
    assert inside is not None
    for encoder in (CLIP, SIGLIP, Encoder(576, (24, 24), 1, 23)):
        for budget in inside.budgets(encoder):
            steps = inside.steps(encoder, budget)
            assert len(steps) == encoder.blocks and steps[-1] == budget
            assert list(steps) == sorted(steps, reverse=True)


def test_the_form_for_a_tower_without_cls_says_so() -> None:
    assert find_method("evit").for_tower(0, 4).verdict == "own formulation"
    assert find_method("evit").for_tower(1, 4).verdict == "exact"
    assert find_method("tome").for_tower(0, 4).verdict == "exact"


def test_methods_inside_do_not_compress_features() -> None:
    features = tokens.Features(torch.ones(16, 4), (4, 4))
    with pytest.raises(TypeError, match="inside the tower"):
        find_method("tome").compress(features, 8)
