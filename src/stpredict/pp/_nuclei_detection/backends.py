"""Segmenters of nuclei: each maps an RGB block and its µm per pixel to a label image."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict._core.checks import one_of

if TYPE_CHECKING:
    from collections.abc import Callable

    Segmenter = Callable[[np.ndarray, float], np.ndarray]

METHODS = ("watershed", "instanseg", "stardist", "cellpose")

NETWORK_UM = 0.5
"""µm per pixel that StarDist's H&E network wants to see."""

NUCLEUS_UM = 8.0
"""Usual diameter of a nucleus, for Cellpose."""


def segmenter(method: str | Segmenter) -> Segmenter | None:
    """Return what labels a block; None for the watershed, which needs to know the section first.

    Raises ValueError if there is no such method, ImportError if its package is not installed; the message names it.
    """
    if callable(method):
        return method
    one_of(method, METHODS, "method (or give a function of an RGB block and its µm per pixel)")
    builders = {"instanseg": _instanseg, "stardist": _stardist, "cellpose": _cellpose}
    return builders[method]() if method in builders else None


def check_labels(labels: Any, shape: tuple[int, int], name: str) -> np.ndarray:
    """Labels of a block as int32, numbered from 1.

    Raises ValueError if `labels` is no integer array of `shape`, or has negative numbers.
    """
    labels = np.asarray(labels)
    if labels.shape != shape or labels.dtype.kind not in "iub" or labels.min(initial=0) < 0:
        msg = (
            f"{name} returned {labels.dtype} of shape {labels.shape} for a block of {shape}; it must return an integer "
            "array of the block's height and width, 0 outside of nuclei and another, positive number in each nucleus."
        )
        raise ValueError(msg)
    known, numbered = np.unique(labels, return_inverse=True)
    numbered = numbered.reshape(shape).astype(np.int32)
    return numbered if len(known) and known[0] == 0 else numbered + 1


def _instanseg() -> Segmenter:
    network = _package("instanseg", "instanseg-torch", "instanseg").InstanSeg("brightfield_nuclei", verbosity=0)

    def label(rgb: np.ndarray, mpp: float) -> np.ndarray:
        labels, _ = network.eval_small_image(rgb, mpp)
        return np.asarray(labels).reshape(-1, *rgb.shape[:2])[0].astype(np.int32)

    return label


def _stardist() -> Segmenter:
    network = _package("stardist.models", "stardist tensorflow", "stardist").StarDist2D.from_pretrained(
        "2D_versatile_he"
    )

    def label(rgb: np.ndarray, mpp: float) -> np.ndarray:
        low, high = np.percentile(rgb, [1, 99.8])
        pixels = (rgb.astype(np.float32) - np.float32(low)) / np.float32(max(high - low, 1.0))
        scale = mpp / NETWORK_UM
        labels, _ = network.predict_instances(pixels, scale=None if abs(scale - 1) < 0.1 else (scale, scale, 1))
        return labels

    return label


def _cellpose() -> Segmenter:
    network = _package("cellpose.models", "cellpose", "cellpose").CellposeModel()

    def label(rgb: np.ndarray, mpp: float) -> np.ndarray:
        return network.eval(rgb, diameter=NUCLEUS_UM / mpp)[0]

    return label


def _package(module: str, distribution: str, method: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        msg = f"method={method!r} needs a package that is not installed: pip install {distribution}."
        raise ImportError(msg) from error
