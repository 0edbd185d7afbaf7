"""Stain normalisation: a slide as if it had been stained like a fixed reference."""

from __future__ import annotations

from typing import TYPE_CHECKING
from warnings import catch_warnings, filterwarnings

import numpy as np

from stpredict._core.checks import one_of
from stpredict._images.mask import find_tissue

if TYPE_CHECKING:
    from stpredict._images.readers import SlideImage

METHODS = ("macenko",)

TARGET = np.array([[0.5626, 0.7201, 0.4062], [0.2159, 0.8012, 0.5581]]) * [[1.9705], [1.0308]]
"""Optical densities (red, green, blue) of the 99th percentile of haematoxylin, and of eosin, that slides are brought to.

Those of the reference image of Macenko et al. (2009) in its published implementation. Another target would be another
method, with a name of its own.
"""

MPP = 2.0
"""At which stains are told apart, µm: nuclei are pure enough."""

WINDOWS, SIDE = 64, 128
"""So many windows of so many pixels are looked at, spread evenly over the tissue of the slide."""

MASK_MPP = 16.0
LEAST_DENSITY = 0.15
"""Mean optical density of pixels that are looked at, as in Macenko et al."""

DARKEST_GLASS = 200
"""No lamp makes glass darker, in any colour: what is, is no glass."""

LEAST_GLASS = 0.01
"""Share of the slide that its glass is, where it tells what white is."""

_DENSITY = -np.log((np.arange(256, dtype=np.float32) + 1) / 256)
"""Optical density by grey value; white is 0."""


def check_stain_norm(stain_norm: str | None) -> None:
    """Refuse a method that there is none of."""
    if stain_norm is not None:
        one_of(stain_norm, (None, *METHODS), "stain_norm")


def normalised(image: SlideImage, *, mpp: float, name: str) -> SlideImage:
    """`image` with its stains brought to `TARGET`, by the method of Macenko et al.: pixels are changed as they are read.

    The stains are found by squidpy in windows all over the tissue, whatever spots there are. White stays white, and so becomes
    the glass, whatever light it was seen in: densities are those against the glass.

    Parameters
    ----------
    image
        The slide.
    mpp
        Its µm per pixel.
    name
        Of the section, for messages.

    Raises
    ------
    ValueError
        If there is no tissue, or two stains cannot be told apart in it.
    """
    mask, mask_mpp = find_tissue(image, image_mpp=mpp, mpp=MASK_MPP)
    white = _white(image, mask)
    pixels = _sample(image, mpp, name, mask, mask_mpp, white)
    stains = _stains(pixels, name)
    amounts = _DENSITY[pixels] @ np.linalg.pinv(stains)
    strength = np.percentile(amounts, 99, axis=0)
    if not (strength > 1e-3).all():
        raise ValueError(_untold(name, "one of them is hardly there"))
    change = (np.linalg.pinv(stains) @ (TARGET / strength[:, None])).astype(np.float32)
    told = ":".join(f"{value:.6g}" for value in change.ravel())

    def recolour(rgb: np.ndarray) -> np.ndarray:
        density = _DENSITY[_in_white_light(rgb, white)] @ change
        np.exp(np.negative(density, out=density), out=density)
        return np.clip(256 * density - 0.5, 0, 255).astype(np.uint8)  # (- 1, and rounded)

    return image.recoloured(recolour, f"macenko:{told}:{white.tolist()}")


def _untold(name: str, why: str) -> str:
    return (
        f"The stains of section {name!r} cannot be told apart ({why}), so that they cannot be normalised. Is it H&E? Encode "
        "this section, and those to be compared with it, without stain_norm=."
    )


def _white(image: SlideImage, mask: np.ndarray) -> np.ndarray:
    """uint8 (3,), the colour of the glass beside the tissue; 255 where there is hardly any, or tools made it white."""
    small = image.thumbnail(max(mask.shape))
    darkest = small.min(axis=-1)
    made_white = ~mask & (darkest == 255)
    glass = small[~mask & (darkest >= DARKEST_GLASS) & ~made_white]
    if len(glass) < LEAST_GLASS * mask.size or made_white.sum() >= len(glass):
        return np.full(3, 255, dtype=np.uint8)
    return np.median(glass, axis=0).astype(np.uint8)


def _in_white_light(rgb: np.ndarray, white: np.ndarray) -> np.ndarray:
    """The same uint8 RGB (…, 3) as if `white` were 255."""
    if (white == 255).all():
        return rgb
    values = (np.arange(256)[:, None] + 1) * (256 / (white.astype(float) + 1)) - 1
    table = np.minimum(values.round(), 255).astype(np.uint8)
    return np.stack([table[rgb[..., colour], colour] for colour in range(3)], axis=-1)


def _sample(
    image: SlideImage, mpp: float, name: str, mask: np.ndarray, mask_mpp: float, white: np.ndarray
) -> np.ndarray:
    """Stained pixels, uint8 (n, 3), of windows spread over the tissue in the `mask`, in white light."""
    y, x = np.nonzero(mask)
    if not len(y):
        raise ValueError(_untold(name, "no tissue was found on it"))
    chosen = np.unique(np.linspace(0, len(y) - 1, WINDOWS).round().astype(int))
    level = image.best_level(max(1.0, MPP / mpp))
    own = mpp * image.downsamples[level]
    step = max(1, round(MPP / own))
    reach = SIDE * step // 2
    found = []
    for row in chosen:
        centre_x, centre_y = (round((value + 0.5) * mask_mpp / own) for value in (x[row], y[row]))
        window = image.read(centre_x - reach, centre_y - reach, centre_x + reach, centre_y + reach, level=level)
        side = window.shape[0] // step
        blocks = window[: side * step, : side * step].reshape(side, step, side, step, 3)
        found.append(blocks.mean(axis=(1, 3)).round().astype(np.uint8).reshape(-1, 3))
    pixels = _in_white_light(np.concatenate(found), white)
    pixels = pixels[_DENSITY[pixels].mean(axis=1) > LEAST_DENSITY]
    if not len(pixels):
        raise ValueError(_untold(name, "nothing on it is stained"))
    return pixels


def _stains(pixels: np.ndarray, name: str) -> np.ndarray:
    """(2, 3): optical densities of haematoxylin and of eosin, of length 1, as squidpy finds them."""
    from spatialdata import SpatialData
    from spatialdata.models import Image2DModel, Labels2DModel

    with catch_warnings():
        filterwarnings("ignore", category=SyntaxWarning, module="docrep")  # (what squidpy's docstrings are made with)
        filterwarnings("ignore", "IProgress not found")  # (of tqdm, in notebooks without ipywidgets)
        from squidpy.experimental.im import fit_stain_reference

    picture = Image2DModel.parse(pixels.T[:, None], dims=("c", "y", "x"), c_coords=["r", "g", "b"])
    everywhere = Labels2DModel.parse(np.ones((1, len(pixels)), dtype=np.int32), dims=("y", "x"))
    sdata = SpatialData(images={"he": picture}, labels={"he_tissue": everywhere})
    try:
        fitted = fit_stain_reference(sdata, "he", method="macenko")
    except RuntimeError as error:  # (its StainFittingError)
        raise ValueError(_untold(name, " ".join(str(error).split()).rstrip("."))) from error
    return np.asarray(fitted.stain_matrix, dtype=np.float64)[:, :2].T
