"""Moving large values from activations into weights, channel by channel, before both are rounded.

In trained language models some channels hold values hundreds of times those of the rest. A row of
activations that is rounded with one scale (`lowering.integer_products`) would lose all others. So
channel k of what a product reads is divided by, and row k of its weight multiplied by

    s[k] = sqrt(max |x[:, k]| / max |w[k, :]|)

after which both have the same range (SmoothQuant, arXiv 2211.10438, equation 4 with its 0.5). The
division costs nothing: it is done to the weight of the norm before, to the rows of `v_proj` before
`o_proj`, to those of `up_proj` before `down_proj`. The model computes the same as before, which is
checked; what could not be done so is left as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from edgetok import names
from edgetok.errors import InputError
from edgetok.export.cases import Case
from edgetok.export.reference.model import Reference
from edgetok.families.parts import Parts
from edgetok.scratch import Scratch

CASES = 4  # images that ranges are measured on
NEAR = 1e-3  # largest difference, of the largest value, that float32's rounding may make
# Products of whom what the second reads is made, channel by channel, by the first.
CHAINS = (("v_proj", ("o_proj", "out_proj")), ("up_proj", ("down_proj",)))


@dataclass
class Ranges:
    """What blocks were seen to read.

    Attributes:
        largest: of each Linear, the largest magnitude [K] of each channel that it read.
        norms: of each norm, the Linears that read what it made.
    """

    largest: dict[nn.Linear, Tensor] = field(default_factory=dict)
    norms: dict[nn.Module, dict[nn.Linear, None]] = field(default_factory=dict)
    _made: dict[int, tuple[nn.Module, Tensor]] = field(default_factory=dict)

    @contextmanager
    def watch(self, blocks: Sequence[nn.Module]) -> Iterator[None]:
        """Record every forward pass of these blocks."""
        with ExitStack() as stack:
            for block in blocks:
                for module in block.modules():
                    if isinstance(module, nn.Linear):
                        stack.callback(module.register_forward_hook(self._read).remove)
                    elif is_norm(module):
                        stack.callback(module.register_forward_hook(self._make).remove)
            yield
        self._made.clear()

    def _make(self, norm: nn.Module, _: Any, made: Tensor) -> None:
        self._made[id(made)] = norm, made  # held, so that no other tensor takes its id

    def _read(self, linear: nn.Linear, given: tuple[Tensor, ...], _: Any) -> None:
        rows = given[0].detach().reshape(-1, given[0].shape[-1]).abs().amax(0)
        before = self.largest.get(linear)
        self.largest[linear] = rows if before is None else torch.maximum(before, rows)
        if id(given[0]) in self._made:
            norm, _ = self._made[id(given[0])]
            self.norms.setdefault(norm, {})[linear] = None


@torch.no_grad()
def smooth(reference: Reference, cases: Sequence[Case]) -> None:
    """Even out the ranges of a model's decoder and tower in place, on what it sees in `cases`.

    Raises:
        InputError: if the model makes of these images what is not a number.
    """
    parts, ranges = reference.parts, Ranges()
    blocks = [*parts.vision.blocks, *parts.text.layers]
    given = cases[:CASES]
    with ranges.watch(blocks):
        for case in given:
            before = look_and_read(reference, case)
    if not torch.isfinite(before).all():
        raise InputError("the model makes NaN of the samples; look at them, or at the checkpoint")
    for step in (smooth_chains, smooth_norms):  # chains change the columns that norms look at
        changed = step(ranges, parts)
        after = look_and_read(reference, given[-1])
        if not torch.allclose(after, before, rtol=0, atol=NEAR * float(before.abs().max())):
            for (module, name), parameter in changed.items():
                setattr(module, name, parameter)


def is_norm(module: nn.Module) -> bool:
    """Whether a module scales what it makes by a weight of its own."""
    return "Norm" in type(module).__name__ and getattr(module, "weight", None) is not None


def look_and_read(reference: Reference, case: Case) -> Tensor:
    """Features of the image, and logits of the prompt's last row, in one vector."""
    full = reference.parts.full_tokens
    seen = reference.look(case, full)
    made = reference.compress(seen, full)
    embeds = reference.embed(case.before, made[names.VISUAL_TOKENS], case.after)
    visual = range(len(case.before), len(case.before) + full)
    logits = reference.answer(embeds, 1, visual, made=made).logits[0]
    return torch.cat([seen[names.FEATURES].reshape(-1), torch.as_tensor(logits).reshape(-1)])


Changed = dict[tuple[nn.Module, str], nn.Parameter]  # parameters as they were


def smooth_norms(ranges: Ranges, parts: Parts) -> Changed:
    """Divide what norms make, and multiply what reads it."""
    changed: Changed = {}
    change = partial(_change, changed, parts.scratch)
    for norm, linears in ranges.norms.items():
        widest = torch.stack([linear.weight.abs().amax(0) for linear in linears]).amax(0)
        largest = torch.stack([ranges.largest[linear] for linear in linears]).amax(0)
        factor = factors(largest, widest)
        offset = float(type(norm).__name__.startswith("Gemma"))  # its weight is stored less one
        change(norm, "weight", partial(_divide, by=factor, offset=offset))
        change(norm, "bias", partial(_divide, by=factor))
        for linear in linears:
            change(linear, "weight", factor.mul)
    return changed


def smooth_chains(ranges: Ranges, parts: Parts) -> Changed:
    """Divide rows of one matrix, and multiply columns of the one that reads what they make."""
    changed: Changed = {}
    for block in (*parts.vision.blocks, *parts.text.layers):
        found = {name.rpartition(".")[2]: module for name, module in block.named_modules()}
        for first, seconds in CHAINS:
            maker = found.get(first)
            reader = next((found[name] for name in seconds if name in found), None)
            if isinstance(maker, nn.Linear) and reader in ranges.largest:
                _smooth_chain(changed, ranges, maker, reader, parts)
    return changed


def _smooth_chain(
    changed: Changed, ranges: Ranges, maker: nn.Linear, reader: nn.Linear, parts: Parts
) -> None:
    """Heads that share values share factors: of [heads * H] channels, [G * H] are made."""
    made, read = maker.out_features, reader.in_features
    width = made if made == read else parts.text.head_dim
    if read % made or made % width:
        return
    shape = (made // width, read // made, width)
    parts_of = (ranges.largest[reader], reader.weight.abs().amax(0))
    largest, widest = (each.reshape(shape).amax(1) for each in parts_of)
    factor = factors(largest, widest)
    spread = factor[:, None].expand(shape).reshape(-1)
    change, factor = partial(_change, changed, parts.scratch), factor.reshape(-1)
    change(maker, "weight", lambda w: w / factor[:, None])
    change(maker, "bias", lambda b: b / factor)
    change(reader, "weight", lambda w: w * spread)


def _divide(weight: Tensor, by: Tensor, offset: float = 0.0) -> Tensor:
    return (weight + offset) / by - offset


def _change(
    changed: Changed,
    scratch: Scratch,
    module: nn.Module,
    name: str,
    compute: Callable[[Tensor], Tensor],
) -> None:
    """Give a module another parameter, if it has one of this name."""
    before = getattr(module, name, None)
    if before is not None:
        changed.setdefault((module, name), before)
        value = torch.from_numpy(scratch.hold(compute(before.detach()).numpy()))
        setattr(module, name, nn.Parameter(value, requires_grad=False))


def factors(largest: Tensor, widest: Tensor) -> Tensor:
    """s of the module's formula, [K]; 1 where a channel was never used."""
    used = (largest > 0) & (widest > 0)
    return torch.where(used, (largest / widest).sqrt(), torch.ones_like(largest))
