"""The figure of nuclei: the right spots, every nucleus in view, at its place, size and direction."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.collections import EllipseCollection

import stpredict as st


@pytest.fixture
def counted(section):
    """A section with three nuclei, as `pp.nuclei` leaves them, around its first spot."""
    x, y = section.obsm["spatial"][0]
    table = np.array(
        [[x, y, 50, 0.8, 0.5, 0.6], [x + 20, y, 30, 0, 0, 0.5], [x - 20, y, 30, 0, 0, 0.5], [x + 90, y, 30, 0, 0, 0.5]]
    )
    section.uns["nuclei"] = {"sim_1": {"table": np.float32(table), "mpp": 1.0}}
    section.obs["nuclei_count"] = 0
    section.obs.loc[section.obs_names[0], "nuclei_count"] = 3
    return section


def ellipses_of(ax):
    (collection,) = [c for c in ax.collections if isinstance(c, EllipseCollection)]
    return collection


def test_nuclei_in_view_are_drawn_at_their_place_and_size(counted):
    name = counted.obs_names[0]
    ax = st.pl.nuclei(counted, name, show=False)
    drawn = ellipses_of(ax)
    np.testing.assert_allclose(drawn.get_offsets(), counted.uns["nuclei"]["sim_1"]["table"][:3, :2])
    np.testing.assert_allclose(np.pi / 4 * drawn.get_widths() * drawn.get_heights(), [50, 30, 30], rtol=1e-4)
    np.testing.assert_allclose(drawn.get_widths()[0] / drawn.get_heights()[0], 1 / 0.6, rtol=1e-4)
    np.testing.assert_allclose(np.ravel(drawn.get_angles())[0], np.degrees(0.5), rtol=1e-4)
    assert ax.get_title() == f"{name}: 3 nuclei"


def test_the_same_spots_are_drawn_as_tiles(counted):
    panels = st.pl.nuclei(counted, n=3, seed=4, show=False)
    tiles = st.pl.tiles(counted, n=3, seed=4, show=False)
    assert [ax.get_title().split(":")[0] for ax in panels] == [ax.get_title() for ax in tiles]
    assert [ax.get_xlim() for ax in panels] == [ax.get_xlim() for ax in tiles]


def test_ax_save_and_figure(counted, tmp_path):
    _, axes = plt.subplots(1, 2)
    given = st.pl.nuclei(counted, list(counted.obs_names[:2]), ax=axes)
    assert list(given) == list(axes)
    st.pl.nuclei(counted, n=1, save=tmp_path / "nuclei.png")
    assert (tmp_path / "nuclei.png").stat().st_size > 1000
    assert len(st.pl.nuclei(counted, n=2, return_fig=True).axes) == 2


def test_wrong_input_is_refused(counted):
    with pytest.raises(KeyError, match="no such spots: nowhere"):
        st.pl.nuclei(counted, ["nowhere"])
    with pytest.raises(ValueError, match="n must be at least 1"):
        st.pl.nuclei(counted, n=0)
    with pytest.raises(ValueError, match=r"stpredict.pp.nuclei"):
        st.pl.nuclei(counted, key="cells")
