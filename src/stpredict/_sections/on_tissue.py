"""Whether spots lie on the tissue of their image."""

from __future__ import annotations

import numpy as np

from stpredict._core.warning import warn
from stpredict._images.mask import tissue_fraction

FEW, MOST = 0.6, 0.9
"""Shares of spots on tissue: of twelve real sections at least 0.93 as they are, and at most 0.90 turned or mirrored."""

HARDLY = 0.3
"""The same, where nothing says which spots are on tissue, so that many may rightly lie on glass."""

ON_TISSUE = 0.1
"""Share of tissue in the window of a spot that lies on it."""

ENOUGH = 20
"""Spots from which a share says something."""


def check_on_tissue(mask: np.ndarray, centres: np.ndarray, width: float, name: str, flags: np.ndarray | None) -> None:
    """Warn if few spots lie on tissue, and say whether they would if the image were turned or mirrored.

    Stain against counts is no such check: on three of twelve real sections they agree better on the image turned.

    Parameters
    ----------
    mask
        Boolean (y, x), True is tissue.
    centres, width
        Of the windows of the spots, (n, 2), (x, y), and their width, in pixels of the mask.
    name
        Of the section.
    flags
        Boolean (n,), which spots Space Ranger found on tissue, where that is known: only they are looked at.

    Warns
    -----
    UserWarning
        If so.
    """
    centres = centres if flags is None else centres[flags]
    if len(centres) < ENOUGH or not mask.any():
        return
    share = _share(mask, centres, width)
    if share >= FEW:
        return
    turned = {
        "turned by 180°": mask[::-1, ::-1],
        "mirrored from left to right": mask[:, ::-1],
        "mirrored from top to bottom": mask[::-1],
    }
    shares = {how: _share(other, centres, width) for how, other in turned.items()}
    best = max(shares, key=lambda how: shares[how])
    msg = f"Section {name!r}: only {share:.0%} of {len(centres)} spots lie on tissue. "
    if shares[best] >= MOST:
        msg += f"With the image {best} {shares[best]:.0%} would: pass the image that the spots were placed on."
    elif flags is None and share >= HARDLY:
        return
    else:
        msg += "Is the image of another section? If the tissue is found wrongly, see stpredict.pp.tissue_mask, and pass tissue=."
    warn(msg)


def _share(mask: np.ndarray, centres: np.ndarray, width: float) -> float:
    return float(np.mean(tissue_fraction(mask, centres, width) > ON_TISSUE))
