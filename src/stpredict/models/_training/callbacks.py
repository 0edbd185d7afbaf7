"""What happens around the steps of a run: checkpoints, a progress bar, and quiet."""

from __future__ import annotations

import logging
import signal
import time
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from lightning.pytorch.callbacks import Checkpoint

from stpredict._core.progress import progress_bar
from stpredict.models._training.processes import agreed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import lightning as L

SHOWN = ("train_total", "val_pcc")
"""Values that the progress bar tells."""

SECONDS = 300
"""Time after which a checkpoint is written in the middle of an epoch."""


class Saves(Checkpoint):
    """Writes a checkpoint after each epoch, and within a long one every few minutes.

    Parameters
    ----------
    path
        Where the latest is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last = time.monotonic()

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: object) -> None:
        """Save if it is time; what follows the last step of an epoch is saved with it."""
        if trainer.fit_loop.epoch_loop.batch_idx + 1 == trainer.num_training_batches:
            return
        waited = time.monotonic() - self.last
        if agreed(torch.tensor(waited), module.device) >= SECONDS:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Save; Lightning calls this after the module has looked at the epoch."""
        self._save(trainer)

    def _save(self, trainer: L.Trainer) -> None:
        trainer.save_checkpoint(self.path)
        self.last = time.monotonic()


class Progress(Checkpoint):
    """One bar over epochs; a `Checkpoint`, since Lightning calls these after the module has looked at the epoch."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Draw the bar where training starts or goes on."""
        hidden = not trainer.is_global_zero
        self.bar = progress_bar(
            total=self.epochs, initial=module.current_epoch, desc="train", unit="epoch", disable=hidden
        )

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """One epoch further, with its values."""
        self.bar.set_postfix({name: f"{values[-1]:.3f}" for name, values in module.values.items() if name in SHOWN})
        self.bar.update()

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Close it."""
        self.bar.close()


@contextmanager
def quiet() -> Iterator[None]:
    """Lightning without its remarks on loggers, workers and hardware."""
    loggers = [
        logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            warnings.filterwarnings("ignore", message=".*(does not have many workers|isn't supported|treespec).*")
            warnings.filterwarnings("ignore", message=".*dataloader is not resumable.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let a KeyboardInterrupt out; Lightning makes it a SystemExit and ignores all further ones."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as end:
        if not isinstance(end.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from end
