"""Hard negatives: spots of the same section that express something else."""

from __future__ import annotations

import torch


class HardNegatives:
    """Draw, for every spot, spots of other clusters of its own section, each of another cluster.

    Where a section has fewer other clusters than spots are asked for, clusters come again; where it has a single one,
    any of its spots are drawn.

    Parameters
    ----------
    section, cluster
        int64 (n,), numbers of every spot's section and, within it, cluster.
    n
        Spots to draw for each.
    """

    def __init__(self, section: torch.Tensor, cluster: torch.Tensor, n: int) -> None:
        self.n = n
        key = section * (int(cluster.max()) + 1) + cluster
        _, self.stratum = key.unique(return_inverse=True)
        self.rows = [torch.nonzero(self.stratum == s).ravel() for s in range(int(self.stratum.max()) + 1)]
        home = torch.stack([section[rows[0]] for rows in self.rows])
        self.others = []
        for s, own in enumerate(home):
            same = torch.nonzero(home == own).ravel()
            self.others.append(same[same != s] if len(same) > 1 else same)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """int64 (len(rows) · n,): the rows drawn."""
        drawn = []
        for stratum in self.stratum[rows].tolist():
            others = self.others[stratum]
            rounds = -(-self.n // len(others))
            chosen = torch.cat([others[torch.randperm(len(others))] for _ in range(rounds)])[: self.n]
            drawn += [self.rows[c][torch.randint(len(self.rows[c]), ())] for c in chosen.tolist()]
        return torch.stack(drawn)
