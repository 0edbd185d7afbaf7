"""Figures of a section: what is drawn, where, in which colours, and what their titles say."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import EllipseCollection

import stpredict as st

# ---------------------------------------------------------------------- expression


def test_expression_draws_the_layer_at_the_spots_in_their_true_size(predicted, spots_of, column):
    axes = st.pl.expression(predicted, ["ERBB2", "VEGFA"], show=False)
    assert [ax.get_title() for ax in axes] == ["ERBB2", "VEGFA"]
    spots = spots_of(axes[0])
    np.testing.assert_array_equal(spots.get_offsets(), predicted.obsm["spatial"])
    np.testing.assert_allclose(spots.get_widths(), 55.0)
    values = column(predicted, "predicted", "ERBB2")
    np.testing.assert_array_equal(np.ma.getmaskarray(spots.get_array()), np.isnan(values))
    np.testing.assert_allclose(spots.get_array().compressed(), values[5:])
    grey = spots.to_rgba(spots.get_array())[0]
    assert grey[0] == grey[1] == grey[2]
    np.testing.assert_allclose(spots_of(axes[1]).get_array(), predicted.obsm["predicted_genes"]["VEGFA"])


def test_expression_shows_the_slide_under_the_spots_in_register(section):
    ax = st.pl.expression(section, "ERBB2", layer="truth", show=False)
    (image,) = ax.images
    assert image.get_extent() == [0, 2304, 2304, 0]
    left, right = ax.get_xlim()
    bottom, top = ax.get_ylim()
    assert bottom > top  # y points down
    x, y = section.obsm["spatial"].T
    assert left < x.min() < x.max() < right
    assert top < y.min() < y.max() < bottom
    pixels, hires = image.get_array(), section.uns["spatial"]["sim_1"]["images"]["hires"]
    faded = 255 - 0.4 * (255 - hires.astype(float))
    scale = len(pixels) / 2304
    for cx, cy in section.obsm["spatial"][::40].astype(int):
        drawn = pixels[int((cy - 20) * scale) : int((cy + 20) * scale), int((cx - 20) * scale) : int((cx + 20) * scale)]
        np.testing.assert_allclose(drawn.mean(), faded[cy - 20 : cy + 20, cx - 20 : cx + 20].mean(), atol=3)


def test_expression_of_the_measured_counts_and_by_alias(section, spots_of, log_cp10k):
    ax = st.pl.expression(section, "HER2", layer=None, show=False)
    np.testing.assert_allclose(spots_of(ax).get_array(), log_cp10k(section, "ERBB2"), rtol=1e-5)
    assert ax.get_title() == "HER2"


def test_scanpys_names_of_arguments_are_understood(section):
    ours = st.pl.expression(section, ["ERBB2"], layer=None, cmap="magma", alpha_img=0, show=False)
    theirs = st.pl.expression(section, color=["ERBB2"], layer=None, color_map="magma", img_alpha=0, show=False)
    assert ours.get_title() == theirs.get_title() == "ERBB2"
    assert ours.collections[0].get_cmap() == theirs.collections[0].get_cmap()
    assert len(ours.images) == len(theirs.images) == 0
    axes = st.pl.compare(section, color="ERBB2", predicted="truth", show=False)
    assert axes[0].get_title() == "ERBB2: measured"
    with pytest.raises(TypeError, match="color= is another name of genes=; pass one of them"):
        st.pl.expression(section, genes="ERBB2", color="KRT8", show=False)


def test_expression_limits_colours_and_sizes_can_be_set(section, spots_of):
    ax = st.pl.expression(section, "ERBB2", layer="truth", vmin=1, vmax=4, size=1.5, cmap="magma", show=False)
    assert spots_of(ax).get_clim() == (1, 4)
    assert spots_of(ax).get_cmap().name == "magma"
    np.testing.assert_allclose(spots_of(ax).get_widths(), 82.5)


def test_a_gene_without_any_value_is_grey_and_says_so(predicted, spots_of):
    ax = st.pl.expression(predicted, "LUM", show=False)
    assert ax.get_title() == "LUM (no values)"
    assert np.ma.getmaskarray(spots_of(ax).get_array()).all()


def test_no_image_no_backdrop(section, spots_of):
    section.uns["spatial"]["sim_1"]["images"] = {}
    ax = st.pl.expression(section, "ERBB2", layer="truth", show=False)
    assert not ax.images
    assert len(spots_of(ax).get_offsets()) == section.n_obs


def test_every_map_has_a_scale_bar_of_a_round_number_of_microns(section):
    from matplotlib_scalebar.scalebar import ScaleBar

    axes = st.pl.expression(section, ["ERBB2", "FASN"], layer="truth", show=False)
    axes[0].figure.canvas.draw()
    for ax in axes:
        (bar,) = [a for a in ax.artists if isinstance(a, ScaleBar)]
        assert bar.info.scale_text == "500 µm"
        assert bar.info.length_px == 500  # at 1 µm per pixel


def test_one_of_several_sections_is_drawn(two_sections, spots_of, column):
    import anndata as ad

    both = ad.concat(two_sections, uns_merge="unique", merge="same")
    both.obs["library_id"] = both.obs["section"]
    with pytest.raises(ValueError, match=r"2 sections \(sim_1, sim_2\); pass library_id="):
        st.pl.expression(both, "ERBB2", layer="truth")
    ax = st.pl.expression(both, "ERBB2", layer="truth", library_id="sim_2", show=False)
    np.testing.assert_array_equal(spots_of(ax).get_offsets(), two_sections[1].obsm["spatial"])
    np.testing.assert_allclose(spots_of(ax).get_array(), column(two_sections[1], "truth", "ERBB2"))
    with pytest.raises(KeyError, match="no section 'sim_3'"):
        st.pl.expression(both, "ERBB2", layer="truth", library_id="sim_3")


def test_spatialdata_draws_the_same(section, spots_of):
    from spatialdata import SpatialData
    from spatialdata.models import Image2DModel, ShapesModel, TableModel

    image = np.moveaxis(section.uns["spatial"]["sim_1"]["images"]["hires"], -1, 0)
    table = section.copy()
    table.obs["region"] = pd.Categorical(["spots"] * table.n_obs)
    table.obs["spot"] = np.arange(table.n_obs)
    del table.uns["spatial"], table.uns["truth"]
    sdata = SpatialData(
        images={"he": Image2DModel.parse(image, dims=("c", "y", "x"))},
        shapes={"spots": ShapesModel.parse(section.obsm["spatial"], geometry=0, radius=27.5)},
        tables={"table": TableModel.parse(table, region="spots", region_key="region", instance_key="spot")},
    )
    ax = st.pl.expression(sdata, "ERBB2", layer="truth", show=False)
    reference = st.pl.expression(section, "ERBB2", layer="truth", show=False)
    np.testing.assert_allclose(spots_of(ax).get_offsets(), spots_of(reference).get_offsets())
    np.testing.assert_allclose(spots_of(ax).get_widths(), spots_of(reference).get_widths(), rtol=0.02)
    np.testing.assert_array_equal(ax.images[0].get_array(), reference.images[0].get_array())


# ---------------------------------------------------------------------- compare


def test_compare_has_one_scale_for_measured_and_predicted_and_r_in_the_title(predicted, spots_of, column, log_cp10k):
    axes = st.pl.compare(predicted, ["ERBB2", "COL1A1"], show=False)
    assert len(axes) == 6
    for row, gene in ((axes[:3], "ERBB2"), (axes[3:], "COL1A1")):
        before, after = log_cp10k(predicted, gene), column(predicted, "predicted", gene)
        np.testing.assert_allclose(spots_of(row[0]).get_array(), before, rtol=1e-5)
        np.testing.assert_allclose(spots_of(row[1]).get_array().compressed(), after[5:])
        np.testing.assert_allclose(
            spots_of(row[2]).get_array().compressed(), (after - before)[5:], rtol=1e-4, atol=1e-5
        )
        assert spots_of(row[0]).get_clim() == spots_of(row[1]).get_clim()
        low, high = spots_of(row[0]).get_clim()
        assert low == pytest.approx(min(np.percentile(before, 1), np.percentile(after[5:], 1)), rel=1e-4)
        assert high == pytest.approx(max(np.percentile(before, 99), np.percentile(after[5:], 99)), rel=1e-4)
        low, high = spots_of(row[2]).get_clim()
        assert low == -high
        r = np.corrcoef(before[5:], after[5:])[0, 1]
        assert row[0].get_title() == f"{gene}: measured"
        assert row[1].get_title() == f"predicted, r = {r:.2f} (n = {predicted.n_obs - 5})"


def test_compare_without_a_correlation_says_why(predicted):
    predicted.layers["predicted"][:, predicted.var_names == "ERBB2"] = 2.0
    axes = st.pl.compare(predicted, ["ERBB2", "LUM"], show=False)
    assert axes[1].get_title() == f"predicted, no r (constant, n = {predicted.n_obs})"
    assert axes[4].get_title() == "predicted, no r (n = 0)"


def test_compare_with_another_layer_as_the_measurement(predicted, spots_of, column):
    axes = st.pl.compare(predicted, "ERBB2", measured="truth", show=False)
    np.testing.assert_allclose(spots_of(axes[0]).get_array(), column(predicted, "truth", "ERBB2"))
    assert float(axes[1].get_title().split("r = ")[1][:4]) > 0.9


# ---------------------------------------------------------------------- tumour


def test_tumor_draws_image_score_and_labels(mapped, spots_of):
    image, score, labels = st.pl.tumor(mapped, show=False)
    assert image.images
    assert not [c for c in image.collections if isinstance(c, EllipseCollection)]
    np.testing.assert_allclose(spots_of(score).get_array(), mapped.obs["tumor_score"])
    assert score.get_title() == "tumor score (3 markers; threshold 0.30)"
    assert image.get_title() == f"called tumor: {mapped.obs['tumor'].sum()} of {mapped.n_obs} spots"
    assert labels.get_title() == f"region (score: AUROC = {mapped.uns['tumor']['auroc']['sim_1']:.2f})"
    entries = [text.get_text() for text in labels.get_legend().get_texts()]
    assert entries == [f"{name} ({n})" for name, n in mapped.obs["region"].value_counts().items()]
    colours = pd.DataFrame(spots_of(labels).get_facecolor()).groupby(mapped.obs["region"].to_numpy()).nunique()
    assert (colours == 1).all(axis=None)


def test_the_outline_separates_called_spots_from_the_others(mapped):
    from matplotlib.contour import ContourSet
    from matplotlib.path import Path

    ax = st.pl.tumor(mapped, show=False)[0]
    (outline,) = [c for c in ax.collections if isinstance(c, ContourSet)]
    (path,) = outline.get_paths()
    depth = sum(
        Path(polygon).contains_points(mapped.obsm["spatial"]).astype(int)
        for polygon in path.to_polygons(closed_only=False)
    )
    assert ((depth % 2 == 1) == mapped.obs["tumor"]).mean() > 0.97


def test_the_threshold_is_marked_in_the_colour_bar(mapped):
    ax = st.pl.tumor(mapped, show=False)[1]
    (bar,) = ax.child_axes
    assert ax.get_title().endswith("threshold 0.30)")
    assert [line.get_ydata()[0] for line in bar.lines] == [0.3]


def test_tumor_without_labels_has_two_panels_and_missing_labels_are_grey(section):
    st.tl.localize_tumor(section, layer=None, markers=["ERBB2", "EPCAM"], threshold=10.0)
    axes = st.pl.tumor(section, show=False)
    assert len(axes) == 2
    assert axes[0].get_title() == f"called tumor: 0 of {section.n_obs} spots"
    section.obs["label"] = section.obs["region"].astype(object).where(section.obs["region"] == "tumor", None)
    labels = st.pl.tumor(section, label_key="label", show=False)[2]
    assert labels.get_title() == "label"
    entries = [text.get_text() for text in labels.get_legend().get_texts()]
    assert [entry.split(" (")[0] for entry in entries] == ["tumor", "no label"]


# ---------------------------------------------------------------------- tiles


def test_tiles_are_the_pixels_around_the_spots(section):
    st.pp.tiles(section, spot_um=100, niche_um=300)
    axes = st.pl.tiles(section, n=3, seed=1, show=False)
    hires = section.uns["spatial"]["sim_1"]["images"]["hires"]
    for ax in axes:
        x, y = section.obsm["spatial"][section.obs_names == ax.get_title()][0]
        assert ax.get_xlim() == (x - 50, x + 50)
        assert ax.get_ylim() == (y + 50, y - 50)
        left, right, bottom, top = map(int, ax.images[0].get_extent())
        if min(left, top) >= 0 and max(right, bottom) <= 2304:
            np.testing.assert_array_equal(ax.images[0].get_array(), hires[top:bottom, left:right])
        (circle,) = ax.patches
        assert circle.center == (x, y)
        assert circle.radius == 27.5


def test_niches_outline_the_spot_window_and_defaults_need_no_tiles(section):
    axes = st.pl.tiles(section, n=2, window="niche", show=False)
    for ax in axes:
        left, right = ax.get_xlim()
        assert right - left == 560
        circle, square = ax.patches
        assert square.get_width() == square.get_height() == 112
        assert square.get_x() + 56 == circle.center[0]


def test_the_choice_of_tiles_follows_the_seed(section):
    def titles(**options):
        return [ax.get_title() for ax in st.pl.tiles(section, n=4, show=False, **options)]

    assert titles() == titles(seed=st.settings.seed)
    assert titles(seed=1) == titles(seed=1) != titles(seed=2)
    assert len(st.pl.tiles(section[:3], n=8, show=False)) == 3


# ---------------------------------------------------------------------- conventions and bad input


def test_figures_are_shown_saved_or_handed_back(draw, tmp_path):
    call, n = draw
    assert call() is None
    assert plt.get_fignums() == []
    assert call(save=tmp_path / "figure.png") is None
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert plt.get_fignums() == []
    figure = call(return_fig=True)
    assert isinstance(figure, plt.Figure)
    assert len(call(show=False)) == n
    own, axes = plt.subplots(1, n)
    assert call(ax=axes) == list(axes)
    assert axes[0].images
    assert own in [plt.figure(i) for i in plt.get_fignums()]
    _, wrong = plt.subplots(1, n + 1)
    with pytest.raises(ValueError, match=rf"{n} panel\(s\), but ax has {n + 1}"):
        call(ax=wrong)


def test_figures_leave_the_data_alone(mapped):
    before = mapped.copy()
    st.pl.tumor(mapped)
    st.pl.tiles(mapped)
    st.pl.compare(mapped, "ERBB2", predicted="truth")
    assert mapped.obs.equals(before.obs)
    assert list(mapped.uns) == list(before.uns)
    assert list(mapped.layers) == list(before.layers)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda a: st.pl.expression(a, "ERBB2"), KeyError, "no layers.'predicted'.*predict_expression"),
        (lambda a: st.pl.expression(a, ["ERBB2", "NOSUCH"], layer="truth"), KeyError, "Not in var_names: NOSUCH"),
        (lambda a: st.pl.expression(a, [], layer="truth"), ValueError, "No genes to draw"),
        (lambda a: st.pl.expression(a[:0], "ERBB2", layer="truth"), ValueError, "no spots"),
        (lambda a: st.pl.expression(a.to_df(), "ERBB2"), TypeError, "AnnData or a SpatialData"),
        (lambda a: st.pl.compare(a, "ERBB2"), KeyError, "no layers.'predicted'"),
        (lambda a: st.pl.compare(a, "ERBB2", predicted="truth", measured="nope"), KeyError, "no layers.'nope'"),
        (lambda a: st.pl.tumor(a), KeyError, "localize_tumor"),
        (lambda a: st.pl.tiles(a, n=0), ValueError, "n must be at least 1"),
        (lambda a: st.pl.tiles(a, window="cell"), ValueError, "window must be one of 'spot', 'niche'"),
    ],
)
def test_bad_input_is_one_clear_error_and_leaves_no_figure(section, call, error, message):
    with pytest.raises(error, match=message):
        call(section)
    assert plt.get_fignums() == []


def test_unknown_label_column_is_named(mapped):
    with pytest.raises(KeyError, match=r"no obs\['pathologist'\]"):
        st.pl.tumor(mapped, label_key="pathologist")


def test_a_gene_that_is_neither_measured_nor_predicted_beside(predicted):
    with pytest.raises(KeyError, match=r"var_names or obsm\['predicted_genes'\]"):
        st.pl.expression(predicted, "NOSUCH")


# ---------------------------------------------------------------------- neighbours in the ecosystem


def test_squidpy_draws_the_layer_as_it_is(predicted, column):
    import squidpy as sq

    ax = sq.pl.spatial_scatter(predicted, color="ERBB2", layer="predicted", return_ax=True)
    drawn = np.concatenate([np.ma.filled(c.get_array(), np.nan) for c in ax.collections if c.get_array() is not None])
    expected = column(predicted, "predicted", "ERBB2")
    np.testing.assert_allclose(np.sort(drawn[np.isfinite(drawn)]), np.sort(expected[5:]), rtol=1e-5)


def test_real_section_over_its_own_image(her2st_c2, spots_of):
    axes = st.pl.expression(her2st_c2, ["ERBB2", "COL1A1"], layer=None, show=False)
    np.testing.assert_allclose(spots_of(axes[0]).get_offsets(), her2st_c2.obsm["spatial"])
    np.testing.assert_allclose(spots_of(axes[0]).get_widths() * 0.688, 100, rtol=0.01)
    image = axes[0].images[0]
    x, y = (her2st_c2.obsm["spatial"] * image.get_array().shape[1] / image.get_extent()[1]).astype(int).T
    glass = image.get_array()[:10, :10].mean()
    assert image.get_array()[y, x].mean() < glass - 15  # spots lie on tissue


@pytest.mark.parametrize(
    ("layout", "spot_um", "across"), [("square", 40, 2**0.5), ("square", 22, 1), ("hexagonal", 40, 1)]
)
def test_bins_leave_no_gaps_between_them(layout, spot_um, across, section):
    from matplotlib import pyplot as plt

    from stpredict._sections.open import open_sections
    from stpredict.pl._canvas import draw_spots

    bins = st.io.grid(section, pitch_um=40, spot_um=spot_um, layout=layout)
    view = open_sections(bins)[0]
    drawn = draw_spots(plt.figure().add_subplot(), view, None)
    np.testing.assert_allclose(drawn.get_widths() * view.mpp, spot_um * across, rtol=0.01)
