"""What a torch module says about itself: its input, its identity; and how it goes back to its owner as it came."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import nn

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of the colours, for networks that do not state their own."""

USUAL_SIZE = 224

NO_FEATURES = {"training", "fused_attn", "grad_checkpointing", "checkpoint"}
"""Attributes of modules that change how features are computed, and not what they are."""


class Input(NamedTuple):
    """What a network is given."""

    size: int
    """Height and width of a tile, pixels."""
    mean: tuple[float, ...]
    std: tuple[float, ...]


def inner_module(module: Any) -> nn.Module:
    """The network in wrappers that compute the same: ``torch.compile``, ``DataParallel`` and its distributed kin."""
    from torch import nn

    while True:
        if hasattr(module, "_orig_mod"):
            module = module._orig_mod
        elif isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            module = module.module
        else:
            return module


def input_of(module: nn.Module, input_size: int | None = None) -> Input:
    """Input size and normalisation that travel with a timm model, or the only one in a wrapper; ImageNet's for others.

    Raises ValueError if the network takes tiles that are not square only, or states such, and the user gives no
    `input_size`; if it has layers without weights.
    """
    from torch.nn.modules.lazy import LazyModuleMixin

    if any(isinstance(part, LazyModuleMixin) and part.has_uninitialized_params() for part in module.modules()):
        msg = f"{type(module).__name__} has lazy layers, which get random weights when they first see a tile. Load its weights first."
        raise ValueError(msg)
    network = next(_stating(inner_module(module)), None)
    if network is None:
        return Input(USUAL_SIZE, *IMAGENET)
    from timm.data import resolve_data_config

    stated: Any = getattr(network, "pretrained_cfg", None) or network.default_cfg
    config = resolve_data_config(pretrained_cfg=dict(stated))
    patches = getattr(network, "patch_embed", None)
    only = getattr(patches, "img_size", None) if getattr(patches, "strict_img_size", True) else None
    size = tuple(only or config["input_size"][-2:])
    if size[0] != size[1] and (only or input_size is None):
        mend = (
            "This network takes no others: make it for square ones, with img_size= of timm.create_model."
            if only
            else "Pass input_size=, the width and height that square tiles are to have."
        )
        msg = (
            f"{type(network).__name__} is made for tiles of {size[0]} × {size[1]} px, and tiles here are square. {mend}"
        )
        raise ValueError(msg)
    return Input(int(size[0]), tuple(config["mean"]), tuple(config["std"]))


def _stating(module: nn.Module) -> Iterator[nn.Module]:
    """The module or the modules in it that state their input as timm's do, outermost first."""
    return (part for part in module.modules() if _config(part))


def _config(module: nn.Module) -> Any:
    own = vars(module)
    return own.get("pretrained_cfg") or own.get("default_cfg")


def with_overrides(
    given: Input, input_size: int | None, mean: Sequence[float] | None, std: Sequence[float] | None
) -> Input:
    """Input as the network states it, but for what the user says.

    Raises ValueError if size or normalisation cannot be.
    """
    if input_size is not None and (int(input_size) != input_size or not 8 <= input_size <= 4096):
        msg = f"input_size={input_size} is no size of a tile; give whole pixels, 8–4,096."
        raise ValueError(msg)
    for name, values in (("mean", mean), ("std", std)):
        if values is not None and (len(values) != 3 or not all(0 <= v <= 1 for v in values)):
            msg = f"{name}={tuple(values)} should be three numbers, for red, green and blue between 0 and 1."
            raise ValueError(msg)
    if std is not None and not min(std):
        msg = f"std={tuple(std)} must not be 0."
        raise ValueError(msg)
    return Input(
        given.size if input_size is None else int(input_size),
        given.mean if mean is None else tuple(map(float, mean)),
        given.std if std is None else tuple(map(float, std)),
    )


def identity_of(module: nn.Module, given: Input) -> str:
    """Hash of all that decides about features: weights and their types, structure, settings, input."""
    module = inner_module(module)
    digest = hashlib.sha256(repr((type(module).__name__, *given)).encode())
    for name, part in module.named_modules():
        settings = {key: value for key, value in vars(part).items() if _is_setting(key, value)}
        digest.update(repr((name, type(part).__name__, part.extra_repr(), sorted(settings.items()))).encode())
    for key, value in sorted(module.state_dict().items()):
        digest.update(repr((key, str(value.dtype), tuple(value.shape))).encode())
        digest.update(_bytes_of(value))
    return digest.hexdigest()[:16]


def _is_setting(name: str, value: Any) -> bool:
    plain = isinstance(value, bool | int | float | str | None)
    if isinstance(value, tuple):
        plain = all(isinstance(part, bool | int | float | str) for part in value)
    return plain and not name.startswith("_") and name not in NO_FEATURES


def _bytes_of(tensor: Any) -> bytes:
    import torch

    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def floating_type(module: nn.Module) -> Any:
    """Type of the numbers that the network computes with: that of its first parameter."""
    import torch

    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)


@contextmanager
def lent(module: object) -> Iterator[None]:
    """Use a module, and leave it as it was: modes, device and layout of its parameters and buffers."""
    from torch import nn

    if not isinstance(module, nn.Module):
        yield
        return
    modes = [(part, part.training) for part in module.modules()]
    data = [(parameter, parameter.data) for parameter in module.parameters()]
    buffers = [(part, dict(part._buffers)) for part in module.modules()]
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
        for parameter, values in data:
            parameter.data = values
        for part, kept in buffers:
            part._buffers.update(kept)
