"""What figures look like: each is held against a small picture, by the difference that an eye would see.

``python tests/pl/test_look.py`` draws the pictures anew. Look at them before they are kept.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

import stpredict as st

PICTURES = Path(__file__).parent / "look"
AREA = 28_000
"""Pixels of a picture: what is read off a figure at a glance can be seen, and letters are only grey."""

FIGURES = {
    "expression": lambda section, **options: st.pl.expression(section, ["ERBB2", "COL1A1"], **options),
    "compare": lambda section, **options: st.pl.compare(section, "ERBB2", **options),
    "tumor": lambda section, **options: st.pl.tumor(section, **options),
    "domains": lambda section, **options: st.pl.domains(section, "region", **options),
}


def ready(section):
    """The section with a prediction of half the contrast, and a tumour map."""
    truth = section.layers["truth"]
    section.layers["predicted"] = truth.mean(axis=0) + 0.5 * (truth - truth.mean(axis=0))
    st.tl.localize_tumor(section, markers=["ERBB2", "EPCAM", "KRT8"], threshold=0.3, label_key="region")
    return section


def picture_of(figure):
    """The figure as a small JPEG."""
    large, small = BytesIO(), BytesIO()
    figure.savefig(large, format="png", dpi=100)
    plt.close(figure)
    picture = Image.open(large).convert("RGB")
    size = np.multiply(picture.size, np.sqrt(AREA / np.prod(picture.size))).round().astype(int)
    picture.resize(tuple(size.tolist()), Image.Resampling.LANCZOS).save(small, format="JPEG", quality=75)
    return small.getvalue()


def opened(picture):
    return Image.open(BytesIO(picture)).convert("RGB")


def seen_difference(one, other):
    """Mean and 99th percentile over the picture of CIEDE2000, which is 1 where an eye can just tell two colours apart.

    Both are blurred, so that a line that moved by a pixel counts little and one that is missing counts.
    """
    from scipy.ndimage import gaussian_filter
    from skimage.color import deltaE_ciede2000, rgb2lab

    one, other = (gaussian_filter(np.asarray(picture, float) / 255, (1.2, 1.2, 0)) for picture in (one, other))
    difference = deltaE_ciede2000(rgb2lab(one), rgb2lab(other))
    return float(difference.mean()), float(np.percentile(difference, 99))


def stored(name):
    return (PICTURES / f"{name}.jpg").read_bytes()


def looks_alike(figure, name):
    mine, kept = opened(picture_of(figure)), opened(stored(name))
    if np.abs(np.subtract(mine.size, kept.size)).max() > 3:  # (fonts differ by a pixel or so)
        return False
    mean, most = seen_difference(mine.resize(kept.size), kept)
    return mean < 1.0 and most < 6.0


@pytest.fixture
def drawn(section):
    yield ready(section)
    plt.close("all")


@pytest.mark.parametrize("name", FIGURES)
def test_figures_look_as_they_did(drawn, name):
    assert looks_alike(FIGURES[name](drawn, return_fig=True), name)
    assert len(stored(name)) <= 10_000


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("expression", {"alpha_img": 0}),
        ("expression", {"cmap": "magma"}),
        ("expression", {"size": 0.7}),
        ("expression", {"vmin": "p1", "vmax": "p99"}),
        ("compare", {"alpha_img": 1}),
        ("tumor", {"palette": "tab10"}),
        ("domains", {"palette": ["red", "lime", "blue", "cyan", "grey"]}),
    ],
)
def test_an_eye_would_see_the_change(drawn, name, change):
    assert not looks_alike(FIGURES[name](drawn, return_fig=True, **change), name)


def test_an_eye_would_see_that_the_slide_is_upside_down_or_the_outline_lost(drawn):
    figure = FIGURES["tumor"](drawn, return_fig=True)
    for line in [c for ax in figure.axes for c in ax.collections if type(c).__name__ == "QuadContourSet"]:
        line.remove()
    assert not looks_alike(figure, "tumor")
    pixels = drawn.uns["spatial"]["sim_1"]["images"]["hires"]
    drawn.uns["spatial"]["sim_1"]["images"]["hires"] = pixels[::-1].copy()
    assert not looks_alike(FIGURES["compare"](drawn, return_fig=True), "compare")


if __name__ == "__main__":
    PICTURES.mkdir(exist_ok=True)
    section = ready(st.datasets.simulate(2)[0])
    for name, draw in FIGURES.items():
        (PICTURES / f"{name}.jpg").write_bytes(picture_of(draw(section, return_fig=True)))
