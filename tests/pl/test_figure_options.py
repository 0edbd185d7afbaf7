"""What can be asked of figures: limits of their colours, palettes, titles and resolution; and what they say unasked."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

import stpredict as st

# ---------------------------------------------------------------------- colours of numbers


def test_a_prediction_is_drawn_on_the_measured_scale_so_that_shrinkage_shows(predicted, spots_of, column, log_cp10k):
    gene = predicted.var_names == "ERBB2"
    values = predicted.layers["predicted"]
    middle = np.nanmean(values[:, gene])
    values[:, gene] = middle + 0.2 * (values[:, gene] - middle)
    shrunk, before = column(predicted, "predicted", "ERBB2")[5:], log_cp10k(predicted, "ERBB2")
    ax = st.pl.expression(predicted, "ERBB2", show=False)
    np.testing.assert_allclose(spots_of(ax).get_clim(), np.percentile(before, [1, 99]), rtol=1e-5)
    assert spots_of(ax).get_clim() == spots_of(st.pl.compare(predicted, "ERBB2", show=False)[1]).get_clim()
    (bar,) = ax.child_axes
    assert bar.get_ylabel() == "log1p CP10k\nmeasured and predicted"
    own = st.pl.expression(predicted, "ERBB2", vmin="p1", vmax="p99", show=False)
    np.testing.assert_allclose(spots_of(own).get_clim(), np.percentile(shrunk, [1, 99]), rtol=1e-5)


def test_in_a_grid_the_last_colour_bar_of_a_row_names_the_units(predicted):
    axes = st.pl.expression(predicted, ["ERBB2", "FASN", "KRT8", "VEGFA"], ncols=2, show=False)
    labels = [ax.child_axes[0].get_ylabel() for ax in axes]
    assert labels == ["", "log1p CP10k\nmeasured and predicted", "log1p CP10k\nmeasured and predicted", "log1p CP10k"]
    _, own = plt.subplots(1, 2)
    axes = st.pl.expression(predicted, ["ERBB2", "FASN"], ax=own)
    assert [ax.child_axes[0].get_ylabel() for ax in axes] == ["log1p CP10k\nmeasured and predicted"] * 2


def test_a_gene_that_was_not_measured_has_a_scale_of_its_own(predicted, spots_of, column):
    alone = predicted.obsm["predicted_genes"]["VEGFA"].to_numpy()
    ax = st.pl.expression(predicted, "VEGFA", show=False)
    np.testing.assert_allclose(spots_of(ax).get_clim(), np.percentile(alone, [1, 99]))
    assert ax.child_axes[0].get_ylabel() == "log1p CP10k"
    predicted.X = predicted.X * 0.0  # a slide of which only the image is there
    del predicted.obs["total_counts"]
    ax = st.pl.expression(predicted, "ERBB2", show=False)
    np.testing.assert_allclose(
        spots_of(ax).get_clim(), np.percentile(column(predicted, "predicted", "ERBB2")[5:], [1, 99]), rtol=1e-5
    )
    assert ax.child_axes[0].get_ylabel() == "log1p CP10k"


def test_limits_are_those_of_scanpy(section, spots_of, column):
    def clim(gene="ERBB2", **limits):
        return spots_of(st.pl.expression(section, gene, layer="truth", show=False, **limits)).get_clim()

    values = column(section, "truth", "ERBB2")
    np.testing.assert_allclose(clim(vmin="p5", vmax="p99.5"), np.percentile(values, [5, 99.5]), rtol=1e-5)
    low, high = clim(vcenter=2)
    assert low + high == pytest.approx(4)
    assert max(2 - low, high - 2) == pytest.approx(max(abs(np.percentile(values, [1, 99]) - 2)), rel=1e-5)
    ax = st.pl.expression(section, "ERBB2", layer="truth", vmin=0, vcenter=1, vmax=4, show=False)
    np.testing.assert_allclose(spots_of(ax).norm([0, 1, 4]), [0, 0.5, 1])
    rare = section.copy()
    rare.layers["truth"] = np.zeros(section.shape, dtype=np.float32)
    rare.layers["truth"][:2] = 3
    ax = st.pl.expression(rare, "ERBB2", layer="truth", vmin="p1", vmax="p90", show=False)  # both percentiles are 0
    assert np.ptp(spots_of(ax).get_clim()) > 0
    axes = st.pl.expression(section, ["ERBB2", "FASN"], layer="truth", vmax=[5, None], show=False)
    assert spots_of(axes[0]).get_clim()[1] == 5
    assert spots_of(axes[1]).get_clim() == clim("FASN")
    axes = st.pl.compare(section, "ERBB2", predicted="truth", vmin=0, vmax=7, show=False)
    assert [spots_of(ax).get_clim() for ax in axes[:2]] == [(0, 7), (0, 7)]


@pytest.mark.parametrize(
    ("limits", "error", "message"),
    [
        ({"vmin": 5, "vmax": 1}, ValueError, "vmin and vmax must ascend, but the colours would run over 5, 1"),
        ({"vmin": 0, "vmax": 1, "vcenter": 2}, ValueError, "vmin, vcenter and vmax must ascend"),
        ({"vmin": 99}, ValueError, "over .*; pass vmin and vmax"),
        ({"vmax": "99%"}, ValueError, "vmax='99%' is neither a number nor a percentile, such as 'p99'"),
        ({"vmax": "p101"}, ValueError, "neither a number nor a percentile"),
        ({"vmax": [1, 2]}, ValueError, "vmax= has 2 values for 1 gene;"),
        ({"vmin": float("nan")}, TypeError, "vmin must be a finite number"),
    ],
)
def test_limits_that_cannot_be_are_refused_before_drawing(section, limits, error, message):
    with pytest.raises(error, match=message):
        st.pl.expression(section, "ERBB2", layer="truth", **limits)
    assert plt.get_fignums() == []


def test_a_prediction_for_a_slide_outside_says_so_below_every_map(predicted):
    domain = {"verdict": "outside", "why": "its stain is another"}
    predicted.uns["predicted"] = {"units": "log1p CP10k", "domain": domain}
    axes = st.pl.expression(predicted, ["ERBB2", "VEGFA"], show=False)
    assert [ax.get_xlabel() for ax in axes] == ["outside of the training data: do not believe"] * 2
    axes = st.pl.compare(predicted, "ERBB2", show=False)
    assert [ax.get_xlabel() for ax in axes] == ["", "outside of the training data: do not believe", ""]
    st.tl.localize_tumor(predicted, markers=["ERBB2", "EPCAM"], threshold=0.5, force=True)
    assert st.pl.tumor(predicted, show=False)[1].get_xlabel() == "outside of the training data: do not believe"
    domain["verdict"] = "inside"
    assert st.pl.expression(predicted, "ERBB2", show=False).get_xlabel() == ""


# ---------------------------------------------------------------------- colours of categories


def test_labels_have_the_same_colours_in_every_figure(mapped):
    def colours(ax):
        return {t.get_text().split(" (")[0]: h.get_color() for h, t in zip(*entries(ax), strict=True)}

    def entries(ax):
        return ax.get_legend().legend_handles, ax.get_legend().get_texts()

    of_map = colours(st.pl.tumor(mapped, show=False)[2])
    assert of_map == colours(st.pl.embedding(mapped, "spatial", color="region", show=False))
    assert of_map == colours(st.pl.domains(mapped, "region", show=False))
    given = {name: f"#0000{number:02d}" for number, name in enumerate(of_map)}
    for ax in (
        st.pl.tumor(mapped, palette=given, show=False)[2],
        st.pl.embedding(mapped, "spatial", color="region", palette=given, show=False),
        st.pl.domains(mapped, "region", palette=given, show=False),
    ):
        assert colours(ax) == given


@pytest.mark.parametrize(
    ("palette", "message"),
    [
        ("nosuch", "palette='nosuch' is no colour map of matplotlib"),
        (["red"], r"palette= has no colour for \d of the \d categories"),
        ({"tumor": "red"}, "palette= has no colour for"),
        (["red", "green", "blue", "nocolour", "pink", "grey"], "palette= holds what is no colour: 'nocolour'"),
    ],
)
def test_palettes_that_do_not_suffice_are_refused(mapped, palette, message):
    with pytest.raises(ValueError, match=message):
        st.pl.tumor(mapped, palette=palette)
    with pytest.raises(ValueError, match=message):
        st.pl.domains(mapped, "region", palette=palette)
    assert plt.get_fignums() == []


def simulated(colour, deficiency):
    """A colour as CIE Lab, as seen with a deficiency of colour vision (Machado et al. 2009, severity 1)."""
    from matplotlib.colors import to_rgb
    from skimage.color import rgb2lab

    matrices = {
        "none": np.eye(3),
        "protanopia": [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ],
        "deuteranopia": [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ],
        "tritanopia": [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ],
    }
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(matrices[deficiency]) @ linear, 0, 1)
    return rgb2lab(np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)[None, None])[0, 0]


@pytest.mark.parametrize("deficiency", ["none", "protanopia", "deuteranopia", "tritanopia"])
def test_colours_of_categories_are_told_apart_by_all_kinds_of_colour_vision(deficiency):
    from scipy.spatial.distance import pdist

    from stpredict.pl._categories import distinct

    seen = [simulated(colour, deficiency) for colour in distinct(20)]
    assert pdist(seen).min() > 16  # (of scanpy's twenty, two lie 3 apart)
    assert distinct(8) == distinct(20)[:8]


# ---------------------------------------------------------------------- titles and files


def test_titles_can_be_given(draw):
    call, n = draw
    titles = [f"panel {number}" for number in range(n)]
    assert [ax.get_title() for ax in call(title=titles, show=False)] == titles
    figure = call(title="all of them", return_fig=True)
    assert figure.get_suptitle() == "all of them"
    assert figure.axes[0].get_title() != "all of them"
    plt.close("all")
    with pytest.raises(ValueError, match=rf"{n} panel\(s\), but title has {n + 1}"):
        call(title=[*titles, "one more"])
    assert plt.get_fignums() == []


def test_files_have_the_resolution_that_is_asked_for_and_are_small_by_default(draw, tmp_path):
    from PIL import Image

    call, _ = draw
    for name, options in (("usual", {}), ("coarse", {"dpi": 50})):
        call(save=tmp_path / f"{name}.png", **options)
    usual, coarse = (Image.open(tmp_path / f"{name}.png") for name in ("usual", "coarse"))
    assert usual.width / coarse.width == pytest.approx(2, rel=0.02)
    assert (tmp_path / "usual.png").stat().st_size < 750_000
