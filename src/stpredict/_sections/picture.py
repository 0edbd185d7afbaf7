"""Whether the full-resolution image shows what the small one in memory shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stpredict._core.warning import warn
from stpredict._images import whole

if TYPE_CHECKING:
    from collections.abc import Callable

    from stpredict._images import SlideImage

SIDE = 128
"""Pixels of the longer side at which pictures are compared."""

MOST_PIXELS = 50_000_000
"""Larger images without a coarser level, and those that must be decoded whole (JPEG, PNG), are not read for this."""

ALIKE, UNLIKE = 0.8, 0.3
"""Correlation of brightness from which two pictures are the same (real sections: 0.96 and more), and up to which not."""

FLAT = 2.0
"""Standard deviation of brightness up to which a picture shows nothing."""

BLACK = 40
"""Brightness up to which nothing is shown: tools blacken what is no tissue, and JPEG makes that a little brighter."""

BORDER = 2
"""Pixels around it, at which pictures are compared, in which JPEG leaves traces of it."""

SHOWN = 0.05
"""Least share of the picture that is compared."""

TURNED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "turned by 180°": lambda picture: picture[::-1, ::-1],
    "mirrored from left to right": lambda picture: picture[:, ::-1],
    "mirrored from top to bottom": lambda picture: picture[::-1],
}


def check_same_picture(image: SlideImage, small: np.ndarray, name: str, key: str) -> None:
    """Refuse a full-resolution image that shows the small one turned or mirrored, or something else.

    Raises
    ------
    ValueError
        If it does; the message says which.

    Warns
    -----
    UserWarning
        If the two differ much, but not so much that they must be of different slides.
    """
    if image.source.lower().endswith(whole.SUFFIXES) or np.prod(image.shape) / image.downsamples[-1] ** 2 > MOST_PIXELS:
        return
    full = image.thumbnail(SIDE).mean(axis=-1)
    mine, shown = _resized(small, full.shape)
    if shown.mean() < SHOWN or min(full[shown].std(), mine[shown].std()) < FLAT:
        return
    own = _correlation(full[shown], mine[shown])
    if own >= ALIKE:
        return
    alike = {how: _correlation(turn(full)[shown], mine[shown]) for how, turn in TURNED.items()}
    best = max(alike, key=lambda how: alike[how])
    if alike[best] >= ALIKE and alike[best] > own + 0.1:
        msg = (
            f"Section {name!r}: the image at {image.source} is {best} beside the {key} image (correlation {alike[best]:.2f}, "
            f"as it is {own:.2f}), so spots would lie on other tissue. Pass the image that the spots were placed on."
        )
        raise ValueError(msg)
    msg = (
        f"Section {name!r}: the image at {image.source} does not show what the {key} image shows (correlation of "
        f"brightness {own:.2f}). Is it of another slide? Pass the image that the spots were placed on."
    )
    if own <= UNLIKE:
        raise ValueError(msg)
    warn(msg)


def _resized(picture: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Brightness of a picture in memory, and where it shows something: not where tools blackened it, nor beside that.

    Blackened pixels of the other picture were read as white, but for those that JPEG left dark at the border.
    """
    from scipy.ndimage import binary_erosion
    from skimage.transform import resize

    values = np.asarray(picture)
    values = values[..., :3].mean(axis=-1, dtype=np.float32) if values.ndim == 3 else values
    values = values * 255 if values.max() <= 1 else values
    how = {"anti_aliasing": True, "preserve_range": True}
    bright, lit = resize(values, shape, **how), resize((values > BLACK).astype(np.float32), shape, **how)
    return bright, binary_erosion(lit > 0.99, iterations=BORDER, border_value=1)


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one, other)[0, 1])
