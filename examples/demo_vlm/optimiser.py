"""Muon for the matrices of the blocks and AdamW for the rest, in one object with one schedule."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from workers import Workers

Parameter = nn.Parameter
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration that pushes all singular values towards 1."""
CHUNK = 7
"""Matrices that one worker orthogonalises at a time."""


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """The nearest half-orthogonal matrices, roughly [count, rows, columns], rows <= columns.

    Equal shapes share one batched product, unlike in torch.optim.Muon.
    """
    a, b, c = NEWTON_SCHULZ
    x: Tensor = matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


class Optimiser:
    """Muon with Nesterov momentum over block matrices, AdamW over everything else."""

    def __init__(
        self,
        named: Iterable[tuple[str, Parameter]],
        rates: tuple[float, float],
        workers: Workers,
        bf16: bool,
    ) -> None:
        self.muon_lr, self.adam_lr = rates
        self.workers, self.dtype = workers, torch.bfloat16 if bf16 else torch.float32
        self.groups: dict[tuple[int, int], list[Parameter]] = defaultdict(list)
        rest: list[Parameter] = []
        for name, parameter in named:
            if parameter.ndim == 2 and "layers." in name:
                rows, columns = sorted(parameter.shape)
                self.groups[rows, columns].append(parameter)
            else:
                rest.append(parameter)
        self.momentum = {
            shape: [torch.zeros_like(p) for p in group] for shape, group in self.groups.items()
        }
        self.adam = torch.optim.AdamW(rest, lr=self.adam_lr, betas=(0.9, 0.98), weight_decay=0.01)

    def step(self, factor: float) -> None:
        """One update with both learning rates multiplied by the factor; clears gradients."""
        for group in self.adam.param_groups:
            group["lr"] = self.adam_lr * factor
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        with torch.no_grad():
            for shape, matrices in self.groups.items():
                self._step_muon(matrices, self.momentum[shape], self.muon_lr * factor)

    def _step_muon(self, group: list[Parameter], momentum: list[Tensor], lr: float) -> None:
        live = [place for place, p in enumerate(group) if p.grad is not None]
        wide = []
        for place in live:
            gradient = group[place].grad
            assert gradient is not None  # noqa: S101 - filtered just above
            momentum[place].lerp_(gradient, 0.05)
            update = gradient.lerp(momentum[place], 0.95)
            wide.append(update if update.shape[0] <= update.shape[1] else update.mT)
        chunks = [torch.stack(wide[start : start + CHUNK]) for start in range(0, len(wide), CHUNK)]
        steps = self.workers.map(lambda chunk: orthogonalise(chunk.to(self.dtype)).float(), chunks)
        for place, update in zip(live, (each for chunk in steps for each in chunk), strict=True):
            p = group[place]
            rows, columns = p.shape
            scale = max(1.0, rows / columns) ** 0.5
            p.mul_(1 - lr * 0.01)
            p.add_(update if rows <= columns else update.mT, alpha=-lr * scale)
            p.grad = None

    def state_dict(self) -> dict[str, Any]:
        """State to resume from."""
        return {"adam": self.adam.state_dict(), "momentum": dict(self.momentum)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up a saved state."""
        self.adam.load_state_dict(state["adam"])
        for shape, saved in state["momentum"].items():
            for mine, theirs in zip(self.momentum[shape], saved, strict=True):
                mine.copy_(theirs)
