"""Where computation runs, and in which precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stpredict._checks import one_of
from stpredict._settings import settings

if TYPE_CHECKING:
    import torch


def resolve_device(device: str | None = None) -> torch.device:
    """Torch device for `device` or, where it is None, the setting; ``"auto"`` takes CUDA, then MPS, then the CPU.

    Raises
    ------
    ValueError
        If there is no such device here.
    """
    import torch

    wanted = device or settings.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        found = torch.device(wanted)
    except RuntimeError as error:
        msg = f"There is no device {wanted!r}; use 'auto', 'cpu', 'cuda' or 'cuda:<n>'."
        raise ValueError(msg) from error
    if found.type == "cuda" and not torch.cuda.is_available():
        msg = f"Device {wanted!r} was asked for but no CUDA GPU is visible; use device='cpu' or 'auto'."
        raise ValueError(msg)
    return found


def resolve_devices(device: str | None = None) -> list[torch.device]:
    """Devices that share work on which none depends on another: every visible GPU for ``"cuda"``, else the one."""
    import torch

    found = resolve_device(device)
    if found.type == "cuda" and found.index is None:
        return [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    return [found]


def resolve_precision(precision: str | None, device: torch.device) -> str:
    """``"float32"`` or ``"bfloat16"``; ``"auto"`` is bfloat16 on CUDA and float32 elsewhere."""
    wanted = precision or settings.precision
    one_of(wanted, ("auto", "float32", "bfloat16"), "precision")
    return ("bfloat16" if device.type == "cuda" else "float32") if wanted == "auto" else wanted
