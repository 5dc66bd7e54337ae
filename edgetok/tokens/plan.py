"""The plan: what a method decides for one image, and how it acts on rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SMALLEST_SUM = 1e-12  # clamps denominators (R13); attention as a weight lies far above it


def one_hot(indices: Tensor, n: int) -> Tensor:
    """Row k is 1 at `indices[k]`, else 0: [K] int64 in 0..n-1 -> [K, n] float32."""
    return (indices.unsqueeze(1) == torch.arange(n, device=indices.device)).float()


@dataclass(frozen=True, eq=False)
class Plan:
    """How K tokens are made of source rows.

    A gather plan has no `weights`: token k is the patch `indices[k]`. A mixing plan has
    `weights`: token k is the sum of the source rows, weighted by `weights[k]`.

    The source rows are the N patches in raster order, followed by the CLS row where a plan uses
    it (`Features.rows`). So a patch has the same number with and without a CLS row, and -1 is
    the CLS row, which is the last one. A plan that leaves the CLS row out ignores it.

    Args:
        indices: [K] int64, the source row that each token is, or is centred on; -1 for the CLS
            row. A mixture without a centre has -1 too. None is negative in a gather plan.
        sizes: [K] float32, how many source rows each token stands for. They sum to K after
            pruning, and after a merge to the rows that took part: N, or N + 1 with a CLS row.
        source_rows: N, or N + 1 for a plan that uses the CLS row.
        weights: [K, source_rows] float32, or None for a gather.
        is_identity: all rows in their order, so that `apply` and `unmerge` do nothing.
    """

    indices: Tensor
    sizes: Tensor
    source_rows: int
    weights: Tensor | None = None
    is_identity: bool = False

    # --- ways to make one ----------------------------------------------------------------------

    @classmethod
    def identity(cls, n: int) -> Plan:
        """All `n` rows as they are."""
        return cls(torch.arange(n), torch.ones(n), n, is_identity=True)

    @classmethod
    def gather(cls, indices: Tensor, source_rows: int) -> Plan:
        """Keep the patches `indices` [K] and drop the other rows."""
        sizes = torch.ones(indices.shape[0], device=indices.device)
        return cls(indices, sizes, source_rows)

    @classmethod
    def mix(cls, weights: Tensor, indices: Tensor | None = None) -> Plan:
        """Mix rows by `weights` [K, source_rows], around the centres `indices` [K] if any."""
        if indices is None:
            indices = torch.full((weights.shape[0],), -1, device=weights.device)
        return cls(indices, _shares(weights).sum(1), weights.shape[1], weights)

    @classmethod
    def cls_row(cls, n: int) -> Plan:
        """The CLS row behind `n` patches, as it is."""
        weights = torch.zeros(1, n + 1)
        weights[0, n] = 1.0
        return cls(torch.tensor([-1]), torch.ones(1), n + 1, weights)

    # --- what it does --------------------------------------------------------------------------

    def apply(self, x: Tensor) -> Tensor:
        """[source_rows or more, D] -> [K, D]; rows behind `source_rows` are not looked at."""
        x = self._source(x)
        if self.is_identity:
            return x
        return x.index_select(0, self.indices) if self.weights is None else self.weights @ x

    def unmerge(self, y: Tensor) -> Tensor:
        """Give tokens back to the rows they stand for: [K, D] -> [source_rows, D].

        A row receives its token, a copy for each row of a group. A row in several tokens receives
        their mean by its weight in each, and a row that was pruned receives zeros.
        """
        return y if self.is_identity else self.shares().T @ y

    def shares(self) -> Tensor:
        """How each source row is divided among the tokens: [K, source_rows], columns of sum 1.

        The column of a row that was pruned is 0.
        """
        return _shares(self.matrix())

    def matrix(self) -> Tensor:
        """The plan as a mixing matrix [K, source_rows]."""
        if self.weights is not None:
            return self.weights
        return one_hot(self.indices, self.source_rows)

    def compose(self, later: Plan) -> Plan:
        """This plan, then `later` on its K tokens: one plan from source rows to later tokens."""
        if later.source_rows != self.indices.shape[0]:
            raise ValueError(
                f"a plan for {later.source_rows} rows cannot follow one that makes "
                f"{self.indices.shape[0]} tokens"
            )
        if later.is_identity or self.is_identity:
            return self if later.is_identity else later
        sizes = _shares(later.matrix()) @ self.sizes
        indices = self._indices_after(later)
        if later.weights is not None:
            return Plan(indices, sizes, self.source_rows, later.weights @ self.matrix())
        weights = None if self.weights is None else self.weights.index_select(0, later.indices)
        return Plan(indices, sizes, self.source_rows, weights)

    def concat(self, other: Plan) -> Plan:
        """The tokens of this plan, then those of `other`, from the same source rows."""
        rows = max(self.source_rows, other.source_rows)
        matrices = [_widen(plan.matrix(), rows) for plan in (self, other)]
        indices = torch.cat([self.indices, other.indices])
        return Plan(indices, torch.cat([self.sizes, other.sizes]), rows, torch.cat(matrices))

    def follow_by(self, other: Plan) -> Plan:
        """Like `concat`, of two gather plans of the same rows: a gather plan."""
        indices = torch.cat([self.indices, other.indices])
        return Plan(indices, torch.cat([self.sizes, other.sizes]), self.source_rows)

    def _source(self, x: Tensor) -> Tensor:
        if x.shape[0] < self.source_rows:
            raise ValueError(f"the plan reads {self.source_rows} rows, but got {x.shape[0]}")
        return x if x.shape[0] == self.source_rows else x[: self.source_rows]

    def _indices_after(self, later: Plan) -> Tensor:
        """[M] source row of each token of `later`; a mixture without a centre stays one."""
        if later.weights is None:
            return self.indices.index_select(0, later.indices)
        centres = self.indices.index_select(0, later.indices.clamp(min=0))
        return torch.where(later.indices < 0, -1, centres)


def _shares(weights: Tensor) -> Tensor:
    """Columns scaled to sum 1 (or 0 for a dropped row): how a row is divided among tokens."""
    return weights / weights.sum(0).clamp(min=SMALLEST_SUM)


def _widen(weights: Tensor, columns: int) -> Tensor:
    missing = columns - weights.shape[1]
    return torch.nn.functional.pad(weights, (0, missing)) if missing else weights
