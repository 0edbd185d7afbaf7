"""Networks by name: timm models, model hubs, folders; what is known of the pathology encoders."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stpredict._core.device import resolve_device, resolve_devices, resolve_precision
from stpredict._core.hub import ON_HUB, brief, check_reachable
from stpredict._core.names import meant
from stpredict._core.settings import settings
from stpredict.pp._encoders import imagenet
from stpredict.pp._encoders.modules import IMAGENET, Input, inner_module, input_of, with_overrides
from stpredict.pp._encoders.morphology_encoder import MorphologyEncoder
from stpredict.pp._encoders.network_encoder import NetworkEncoder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from torch import nn

BIOPTIMUS = (0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class KnownEncoder:
    """A published pathology encoder: where it is, and the preprocessing it was trained with.

    Hub configurations of these models are often stale, so input size, scale and normalisation are pinned here.
    """

    hub_id: str
    licence: str
    gated: bool
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET
    size: int = 224
    mpp: float = 0.5
    pooling: str = "model"
    arguments: dict[str, Any] = field(default_factory=dict)


_VIT_GIANT = {
    "img_size": 224,
    "patch_size": 14,
    "depth": 24,
    "num_heads": 24,
    "init_values": 1e-5,
    "embed_dim": 1536,
    "mlp_ratio": 2.66667 * 2,
    "no_embed_class": True,
    "reg_tokens": 8,
    "dynamic_img_size": True,
}

KNOWN = {
    "uni": KnownEncoder(
        "MahmoodLab/uni", "CC-BY-NC-ND-4.0", True, arguments={"init_values": 1e-5, "dynamic_img_size": True}
    ),
    "uni2-h": KnownEncoder("MahmoodLab/UNI2-h", "CC-BY-NC-ND-4.0", True, arguments={**_VIT_GIANT, "swiglu": True}),
    "h-optimus-0": KnownEncoder(
        "bioptimus/H-optimus-0",
        "Apache-2.0",
        False,
        BIOPTIMUS,
        arguments={"init_values": 1e-5, "dynamic_img_size": False},
    ),
    "h-optimus-1": KnownEncoder(
        "bioptimus/H-optimus-1",
        "CC-BY-NC-ND-4.0",
        True,
        BIOPTIMUS,
        arguments={"init_values": 1e-5, "dynamic_img_size": False},
    ),
    "h0-mini": KnownEncoder(
        "bioptimus/H0-mini", "CC-BY-NC-ND-4.0", True, BIOPTIMUS, pooling="cls", arguments={"swiglu": True}
    ),
    "virchow2": KnownEncoder(
        "paige-ai/Virchow2", "CC-BY-NC-ND-4.0", True, pooling="cls+mean", arguments={"swiglu": True}
    ),
    "prov-gigapath": KnownEncoder("prov-gigapath/prov-gigapath", "Apache-2.0 with conditions", True),
    "phikon-v2": KnownEncoder("owkin/phikon-v2", "Owkin non-commercial", False, pooling="transformers"),
    "ctranspath": KnownEncoder(
        "1aurent/swin_tiny_patch4_window7_224.CTransPath",
        "GPL-3.0",
        False,
        arguments={"num_classes": 0, "conv_stem": True},
    ),
}


def licence_of(encoder: str) -> str:
    """Licence of the weights of an encoder, by the name that its features record; empty where it is not known."""
    name = encoder.removeprefix(ON_HUB).partition("@")[0].lower()
    if name == imagenet.NAME:
        return imagenet.LICENCE
    found = (spec for known, spec in KNOWN.items() if name in (known, *_names_on_hub(spec)))
    return next((spec.licence for spec in found), "")


def _names_on_hub(spec: KnownEncoder) -> tuple[str, str]:
    """Name of the repository, with the laboratory's and without."""
    whole = spec.hub_id.lower()
    return whole, whole.rpartition("/")[2]


def build_encoder(
    encoder: Any,
    *,
    device: Any,
    precision: Any,
    batch_size: Any,
    mpp: float | None,
    input_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    revision: str | None = None,
) -> Any:
    """The tool behind `encoder`: None and ``"morphology"`` are the weight-free descriptor, everything else a network.

    One that was built before is taken as it is.
    """
    if isinstance(encoder, MorphologyEncoder | NetworkEncoder):
        return encoder
    if encoder is None or (isinstance(encoder, str) and encoder == "morphology"):
        if not input_size is mean is std is revision is None:
            msg = "input_size=, mean=, std= and revision= are for networks; the morphology descriptor has none of them."
            raise ValueError(msg)
        return MorphologyEncoder(resolve_device(device), mpp=mpp)
    return network_encoder(
        encoder,
        devices=(where := resolve_devices(device)),
        precision=resolve_precision(precision, where[0], inference=True),
        batch_size=batch_size or settings.batch_size,
        mpp=mpp,
        input_size=input_size,
        mean=mean,
        std=std,
        revision=revision,
    )


def network_encoder(
    encoder: str | Path | nn.Module,
    *,
    devices: Sequence[torch.device],
    precision: str,
    batch_size: int | None,
    mpp: float | None,
    input_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    revision: str | None = None,
) -> NetworkEncoder:
    """Build the encoder that `encoder` names: a module, a known encoder, the ImageNet network, a hub id, a folder or a timm model.

    `revision` is a commit, branch or tag of the hub's repository, as ``@<revision>`` behind its name is.

    A module is used as it is and changed on the way: `stpredict.pp._encoders.modules.lent` gives it back as it came.
    Raises TypeError or ValueError if nothing is known by that name, or its weights cannot be had; the message says how
    to get access.
    """
    from torch import nn

    module: Any
    forward, trained_mpp, hub_id, weights = None, None, None, ""
    encoder, revision = _with_revision(encoder, revision)
    if isinstance(encoder, nn.Module):
        name, stated = type(inner_module(encoder)).__name__, input_of(encoder, input_size)
        module = encoder if hasattr(encoder, "_orig_mod") else inner_module(encoder)
    elif not isinstance(encoder, str | Path):
        msg = f"encoder must be a name, a path or a torch module, got {type(encoder).__name__}."
        raise TypeError(msg)
    elif known := _known(str(encoder)):
        module, forward = _load_known(*known, revision)
        name, spec = known
        hub_id = spec.hub_id
        stated, trained_mpp = Input(spec.size, *spec.normalisation), spec.mpp
    elif str(encoder) == imagenet.NAME:
        module, weights = imagenet.load_imagenet()
        name, stated = imagenet.NAME, input_of(module, input_size)
        hub_id = None if weights else imagenet.HUB_ID
    else:
        module, name = _load_timm(str(encoder), revision), str(encoder).removeprefix("hf-hub:")
        hub_id = name if name != str(encoder) else None
        stated = input_of(module, input_size)
    import torch

    given = with_overrides(stated, input_size, mean, std)
    module = module.eval().to(devices[0], memory_format=torch.channels_last)
    return NetworkEncoder(
        module=module,
        name=re.sub(r"[^A-Za-z0-9_.-]+", "_", Path(name).name),
        size=given.size,
        mean=given.mean,
        std=given.std,
        devices=devices,
        precision=precision,
        batch_size=batch_size,
        trained_mpp=trained_mpp,
        mpp=mpp,
        forward=forward,
        revision=_commit(hub_id, revision) if hub_id else weights,
    )


def _with_revision(encoder: Any, revision: str | None) -> tuple[Any, str | None]:
    """The encoder without ``@<revision>``, and the revision.

    Raises ValueError if one is asked for where there is no repository, or two.
    """
    if isinstance(encoder, str) and not Path(encoder).is_dir():
        name, at, own = encoder.partition("@")
        on_hub = name.startswith("hf-hub:") or _known(name) is not None
        if on_hub and at:
            if revision not in (None, own):
                msg = f"encoder={encoder!r} names a revision, and revision={revision!r} another; give one."
                raise ValueError(msg)
            return name, own
        if on_hub:
            return encoder, revision
    if revision is not None:
        msg = (
            "revision= is of a repository: of a known pathology encoder, or of encoder='hf-hub:<repository>'; networks that "
            "timm knows by name are in 'hf-hub:timm/<name>'."
        )
        raise ValueError(msg)
    return encoder, None


def _commit(hub_id: str, revision: str | None) -> str:
    """The commit that was loaded, as the hub's cache has it; else the revision that was asked for."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(hub_id, "config.json", revision=revision)
    return Path(found).parent.name if isinstance(found, str) else revision or ""


def _known(encoder: str) -> tuple[str, KnownEncoder] | None:
    wanted = encoder.removeprefix("hf-hub:").lower()
    for name, spec in KNOWN.items():
        if wanted in (name, spec.hub_id.lower()):
            return name, spec
    return None


def _load_known(
    name: str, spec: KnownEncoder, revision: str | None
) -> tuple[nn.Module, Callable[..., torch.Tensor] | None]:
    try:
        if spec.pooling == "transformers":
            return _load_transformers(spec, revision), _first_hidden_token
        import timm
        import torch

        check_reachable(spec.hub_id)
        arguments = dict(spec.arguments)
        if arguments.pop("swiglu", False):
            arguments |= {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": torch.nn.SiLU}
        if arguments.pop("conv_stem", False):
            from stpredict.pp._encoders.conv_stem import ConvStem

            arguments["embed_layer"] = ConvStem
        module = timm.create_model(f"hf-hub:{spec.hub_id}{_at(revision)}", pretrained=True, **arguments)
    except Exception as error:  # (damaged weights raise every kind of error)
        access = (
            f"Ask for access at huggingface.co/{spec.hub_id} and log in with `hf auth login`. "
            if spec.gated
            else f"It is open: download huggingface.co/{spec.hub_id} once while online. "
        )
        msg = (
            f"The weights of {name!r} ({spec.hub_id}{_at(revision)}, licence {spec.licence}) could not be loaded: {brief(error)}. {access}"
            "The default encoder (encoder=None) needs no download."
        )
        raise ValueError(msg) from error
    return module, {"cls": _class_token, "cls+mean": _class_token_and_mean}.get(spec.pooling)


def _load_transformers(spec: KnownEncoder, revision: str | None) -> nn.Module:
    try:
        from transformers import AutoModel
    except ImportError as error:
        msg = f"{spec.hub_id} is loaded by transformers: pip install 'stpredict[encoders]'"
        raise ValueError(msg) from error
    check_reachable(spec.hub_id)
    return AutoModel.from_pretrained(spec.hub_id, revision=revision, use_safetensors=True)


def _at(revision: str | None) -> str:
    return f"@{revision}" if revision else ""


def _load_timm(encoder: str, revision: str | None) -> nn.Module:
    """A timm model with its weights, pooled features out; `encoder` is a timm name, ``hf-hub:`` id or local folder."""
    import timm

    if Path(encoder).is_dir():
        source = f"local-dir:{encoder}"
    elif encoder.startswith("hf-hub:") or timm.is_model(encoder.split(".", maxsplit=1)[0]):
        source = encoder + _at(revision)
    else:
        near = timm.list_models(f"*{encoder}*")[:5]
        msg = (
            f"No encoder is called {encoder!r}. Give a timm model name{' such as ' + ', '.join(near) if near else ''}, "
            f"'hf-hub:<repository>', a folder with config.json and model.safetensors, a torch module, or one of "
            f"{', '.join([*KNOWN, imagenet.NAME])}.{meant(encoder, ['morphology', *KNOWN, *timm.list_models()])}"
        )
        raise ValueError(msg)
    try:
        if source.startswith("hf-hub:"):
            check_reachable(source.removeprefix("hf-hub:").split("@")[0])
        elif not source.startswith("local-dir:"):
            check_reachable(getattr(timm.models.get_pretrained_cfg(encoder), "hf_hub_id", None))
        return timm.create_model(source, pretrained=True, num_classes=0)
    except Exception as error:  # (damaged weights and foreign configurations raise every kind of error)
        damaged = "Get the folder's files again, whole, in timm's format. " if source.startswith("local-dir:") else ""
        msg = (
            f"The weights of {encoder + _at(revision)!r} could not be loaded: {brief(error)}. {damaged}Offline, pass a folder with config.json "
            "and model.safetensors, or a module: encoder=timm.create_model(name, num_classes=0, pretrained=False)."
        )
        raise ValueError(msg) from error


def _class_token(module: Any, tiles: torch.Tensor) -> torch.Tensor:
    return module.forward_features(tiles)[:, 0]


def _class_token_and_mean(module: Any, tiles: torch.Tensor) -> torch.Tensor:
    import torch

    tokens = module.forward_features(tiles)
    return torch.cat([tokens[:, 0], tokens[:, module.num_prefix_tokens :].mean(dim=1)], dim=1)


def _first_hidden_token(module: nn.Module, tiles: torch.Tensor) -> torch.Tensor:
    return module(pixel_values=tiles).last_hidden_state[:, 0]
