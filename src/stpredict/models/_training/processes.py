"""Several processes that train one network: each embeds its share of every step, and all know the losses of the whole."""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed

if TYPE_CHECKING:
    from torch import Tensor, nn


def started() -> tuple[int, int]:
    """How many processes ``torchrun`` started on each machine, and on how many machines; (1, 1) without it.

    Workers that such a process started, for cross-validation in parallel say, train alone.
    """
    launched = distributed.is_available() and distributed.is_torchelastic_launched()
    if not launched or multiprocessing.current_process().name != "MainProcess":
        return 1, 1
    here = int(os.environ["LOCAL_WORLD_SIZE"])
    return here, int(os.environ["WORLD_SIZE"]) // here


def is_first() -> bool:
    """Whether this process is the one that writes: the first, or the only one."""
    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0


def agreed(values: Tensor, device: torch.device) -> Tensor:
    """What the first process has for `values`, told by way of `device`; every process must ask."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return values
    told = values.to(device)
    distributed.broadcast(told, 0)
    return told.to(values.device)


def share_buffers(network: nn.Module) -> None:
    """Give every process the first one's running statistics of batches."""
    if distributed.is_available() and distributed.is_initialized():
        for buffer in network.buffers():
            distributed.broadcast(buffer, 0)


@dataclass(frozen=True)
class Share:
    """The rows of a batch, spots or genes, that this process embeds: every `of`-th, from row `rank` on.

    Attributes
    ----------
    n
        Rows of the whole batch.
    rank, of
        Number of this process, and how many there are.
    """

    n: int = 0
    rank: int = 0
    of: int = 1

    def rows(self, values: Tensor) -> Tensor:
        """Own rows of `values` of the whole batch."""
        return values[self.rank :: self.of]

    def over(self, n: int) -> Share:
        """The share of this process in other `n` rows."""
        return replace(self, n=n)

    def first(self, n: int | None) -> slice:
        """Which of the own rows are among the first `n` of the batch (None: all).

        Raises ValueError if some process has none of them.
        """
        if n is not None and n < self.of:
            msg = f"{n} spots of a batch cannot be shared by {self.of} processes; start fewer."
            raise ValueError(msg)
        return slice(None) if n is None else slice(len(range(self.rank, n, self.of)))

    def whole(self, own: Tensor, n: int | None = None) -> Tensor:
        """Rows of all processes, in the order of the batch, from the `own`; `n` where only the first have been taken.

        Where all processes end with the same loss and their gradients are averaged, these are the gradients of one
        process that has all rows.
        """
        return own if self.of == 1 else _Whole.apply(own, self, self.n if n is None else min(n, self.n))

    def mean(self, own: Tensor, n: int | None = None) -> Tensor:
        """Mean over the whole batch, or its first `n` rows, of what is `own` as a mean over own rows."""
        rows = len(range(self.rank, self.n if n is None else min(n, self.n), self.of))
        return own if self.of == 1 else self.whole(own.expand(rows), n).mean()


ALONE = Share()


class _Whole(torch.autograd.Function):
    """Puts rows of all processes together."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, share: Share, n: int) -> Tensor:
        ctx.share = share
        whole = own.new_zeros((n, *own.shape[1:]))
        whole[share.rank :: share.of] = own
        distributed.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        slope = slope.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(slope)
        return ctx.share.rows(slope), None, None
