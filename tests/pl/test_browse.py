"""The page that `pl.browse` writes: which numbers, colours and words are in it, and what is refused."""

from __future__ import annotations

import gzip
import html
import json
import re
from base64 import b64decode
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import stpredict as st
from stpredict._evaluation import metrics

pytest.importorskip("bokeh")


@pytest.fixture
def predicted(section):
    """A section with a prediction, what can be expected of it, one gene beyond ``var``, and one without values."""
    rng = np.random.default_rng(0)
    layer = section.layers["truth"] + 0.5 * rng.standard_normal(section.shape).astype(np.float32)
    layer[:, section.var_names == "LUM"] = np.nan
    layer[:5] = np.nan
    section.layers["predicted"] = layer
    section.obsm["predicted_genes"] = pd.DataFrame({"VEGFA": rng.random(section.n_obs)}, index=section.obs_names)
    section.var["predicted_reliability"] = np.linspace(0.1, 0.9, section.n_vars)
    section.var["predicted_reliability_lower"] = section.var["predicted_reliability"] - 0.1
    section.var["predicted_reliability_upper"] = section.var["predicted_reliability"] + 0.1
    section.obs["predicted_distance"] = np.linspace(0.5, 2.5, section.n_obs)
    section.uns["predicted"] = {
        "method": "ridge",
        "encoder": "morphology",
        "units": "log1p CP10k",
        "date": "2026-11-29T10:00:00+00:00",
        "domain": {"verdict": "edge", "distance": 1.5, "nearest_section": "sim_2", "why": "it is <paler> than most"},
    }
    return section


class Page:
    """What is in a page, as its script reads it."""

    def __init__(self, path):
        self.text = path.read_text(encoding="utf-8")
        stored = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', self.text, re.DOTALL)[1]
        self.models: dict[str, list[dict]] = {}
        self._known: dict[str, dict] = {}
        self._collect(json.loads(html.unescape(stored)))

    def _collect(self, node):
        if isinstance(node, dict):
            if "attributes" in node:
                self.models.setdefault(node["name"], []).append(node["attributes"])
                self._known[node["id"]] = node["attributes"]
            for value in node.values():
                self._collect(value)
        elif isinstance(node, list):
            for value in node:
                self._collect(value)

    def column(self, name, *, beside=""):
        """The column of that name, of the only source that has one, and the column `beside` it."""
        sources = [dict(source["data"]["entries"]) for source in self.models["ColumnDataSource"] if "data" in source]
        (source,) = [source for source in sources if name in source and (not beside or beside in source)]
        return self.values(source[name])

    @staticmethod
    def values(stored):
        if not isinstance(stored, dict):
            return stored
        packed = gzip.decompress(b64decode(stored["array"]["data"]))
        return np.frombuffer(packed, dtype=stored["dtype"])

    @property
    def titles(self):
        """What stands over every map, row by row."""
        (grid,) = self.models["GridPlot"]
        maps = [self._known[child["id"]] for child, _, _ in grid["children"]]
        return [self._known[one["title"]["id"]]["text"] for one in maps]

    @property
    def words(self):
        return " ".join(div["text"] for div in self.models["Div"])


@pytest.fixture
def page_of(tmp_path):
    def write(data, **options):
        st.pl.browse(data, tmp_path / "page.html", **options)
        return Page(tmp_path / "page.html")

    return write


def of(adata, gene):
    return adata.layers["predicted"][:, adata.var_names == gene].ravel()


def test_the_page_holds_the_values_of_every_gene_where_the_spots_are(predicted, page_of, log_cp10k):
    page = page_of(predicted, genes=["ERBB2", "COL1A1"])
    sources = [dict(s["data"]["entries"]) for s in page.models["ColumnDataSource"] if "data" in s]
    (measured, after) = [s for s in sources if "COL1A1" in s]
    for gene in ("ERBB2", "COL1A1"):
        np.testing.assert_allclose(page.values(measured[gene]), log_cp10k(predicted, gene), rtol=1e-6)
        np.testing.assert_array_equal(page.values(after[gene]), of(predicted, gene))
    mpp = st.pp.tiles(predicted, copy=True).uns["tiles"]["sim_1"]["mpp"]
    np.testing.assert_allclose(page.column("x", beside="spot"), predicted.obsm["spatial"][:, 0] * mpp)
    np.testing.assert_allclose(page.column("y", beside="spot"), predicted.obsm["spatial"][:, 1] * mpp)
    assert page.column("spot") == list(predicted.obs_names)
    np.testing.assert_allclose([circle["radius"]["value"] for circle in page.models["Circle"]], 55 * mpp / 2)
    y = page.models["Range1d"][1]
    assert y["start"] > y["end"]  # y points down


def test_the_gene_shown_first_is_the_first_of_the_list_on_one_scale(predicted, page_of, log_cp10k):
    page = page_of(predicted, genes=["ERBB2", "COL1A1"])
    (chooser,) = page.models["Select"]
    assert (chooser["value"], chooser["options"]) == ("ERBB2", ["ERBB2", "COL1A1"])
    np.testing.assert_allclose(page.column("measured"), log_cp10k(predicted, "ERBB2"), rtol=1e-6)
    before, after = log_cp10k(predicted, "ERBB2"), of(predicted, "ERBB2")[5:]
    low = min(np.percentile(before, 1), np.percentile(after, 1))
    high = max(np.percentile(before, 99), np.percentile(after, 99))
    colours = page.models["LinearColorMapper"][0]
    np.testing.assert_allclose([colours["low"], colours["high"]], [low, high], rtol=1e-6)
    np.testing.assert_allclose([page.column("low")[0], page.column("high")[0]], [low, high], rtol=1e-6)
    used = {glyph["fill_color"]["transform"].get("id") for glyph in page.models["Circle"][:2]}
    assert len(used) == 1  # measured and predicted share the colours


def test_titles_say_the_correlation_and_words_what_to_expect(predicted, page_of, log_cp10k):
    page = page_of(predicted, genes=["ERBB2", "VEGFA"], columns=[])
    (r,), _ = metrics.pearson(log_cp10k(predicted, "ERBB2")[5:, None], of(predicted, "ERBB2")[5:, None])
    n = predicted.n_obs - 5
    assert page.titles == ["slide", "ERBB2: measured", f"ERBB2: predicted, r = {r:.2f} (n = {n})"]
    assert page.column("title of measured") == ["ERBB2: measured", "VEGFA: not measured"]
    assert page.column("title of predicted")[1] == "VEGFA: predicted"
    expected = predicted.var.loc["ERBB2", "predicted_reliability"]
    assert f"ERBB2 is expected to reach r = {expected:.2f} over the spots of this slide" in page.words
    assert "predicted by method ridge from morphology features on 2026-11-29" in page.words
    assert "at the edge of the training data; it is &lt;paler&gt; than most." in page.words


def test_genes_default_to_those_predicted_the_most_reliable_first(predicted, page_of):
    options = page_of(predicted).models["Select"][0]["options"]
    known = [name for name in predicted.var_names[::-1] if name != "LUM"]
    assert options == [*known, "VEGFA"]


def test_the_slide_under_the_spots_is_in_register(predicted, page_of):
    page = page_of(predicted, genes="ERBB2", image_size=500)
    address = page.column("url")[0]
    slide = np.asarray(Image.open(BytesIO(b64decode(address.removeprefix("data:image/jpeg;base64,")))))
    assert max(slide.shape) <= 500
    x, y, w, h = (page.column(name, beside="url")[0] for name in "xywh")
    mpp = st.pp.tiles(predicted, copy=True).uns["tiles"]["sim_1"]["mpp"]
    hires = predicted.uns["spatial"]["sim_1"]["images"]["hires"]
    assert hires.shape[:2] == (2304, 2304)
    bright = []
    for cx, cy in predicted.obsm["spatial"]:
        i, j = int((cy * mpp - y) / h * len(slide)), int((cx * mpp - x) / w * slide.shape[1])
        shown = slide[i - 3 : i + 4, j - 3 : j + 4].mean()
        bright.append((shown, hires[int(cy) - 14 : int(cy) + 15, int(cx) - 14 : int(cx) + 15].mean()))
    assert np.corrcoef(np.transpose(bright))[0, 1] > 0.98


def test_own_columns_are_the_tumour_the_domains_their_labels_and_the_trust(predicted, page_of):
    st.tl.localize_tumor(predicted, markers=["ERBB2", "KRT8"], threshold=0.3, label_key="region")
    predicted.obs["domains"] = pd.Categorical(np.where(predicted.obs["region"] == "tumor", "1", "0"))
    predicted.uns["domains"] = {"label_key": "region"}
    page = page_of(predicted, genes="ERBB2")
    call = predicted.obs["tumor"].to_numpy(bool)
    tumour = f"tumor score, {call.sum()} of {len(call)} spots called tumor"
    assert page.titles[3:] == [tumour, "domains", "region", "distance from training spots"]
    np.testing.assert_allclose(page.column("obs tumor_score"), predicted.obs["tumor_score"], rtol=1e-6)
    np.testing.assert_allclose(page.column("obs predicted_distance"), predicted.obs["predicted_distance"], rtol=1e-6)
    assert page.column("obs region") == list(predicted.obs["region"])
    (outline,) = [s for s in page.models["ColumnDataSource"] if [k for k, _ in s["data"]["entries"]] == ["x", "y"]]
    assert len(page.values(dict(outline["data"]["entries"])["x"])) == call.sum()
    colours = [dict(zip(m["factors"], m["palette"], strict=True)) for m in page.models["CategoricalColorMapper"]]
    domains, labels = sorted(colours, key=lambda colour: "tumor" in colour)
    assert labels["tumor"] == domains["1"]  # labels have the colours of the domains that they agree with
    assert len(set(labels.values())) == len(labels)
    legend = {item["label"]["value"] for item in page.models["LegendItem"]}
    assert f"tumor ({(predicted.obs['region'] == 'tumor').sum()})" in legend


def test_a_withheld_tumour_map_is_grey_and_says_why(predicted, page_of):
    predicted.uns["predicted"]["domain"]["verdict"] = "outside"
    with pytest.warns(UserWarning, match="tumour is not called"):
        st.tl.localize_tumor(predicted, markers=["ERBB2", "KRT8"])
    page = page_of(predicted, genes="ERBB2")
    assert "no tumor map" in page.titles
    assert np.isnan(page.column("obs tumor_score")).all()
    assert "There is no tumor map: it is &lt;paler&gt; than most." in page.words
    assert "outside of the training data" in page.words


def test_columns_of_ones_own_numbers_and_missing_labels(predicted, page_of):
    predicted.obs["mine"] = pd.Series(["a", None] * (predicted.n_obs // 2) + ["a"] * (predicted.n_obs % 2)).to_numpy()
    predicted.obs["depth"] = predicted.X.sum(axis=1)
    page = page_of(predicted, genes="ERBB2", columns=["mine", "depth"])
    assert page.titles[3:] == ["mine", "depth"]
    assert page.column("obs mine")[:2] == ["a", "no label"]
    np.testing.assert_allclose(page.column("obs depth"), predicted.obs["depth"], rtol=1e-6)


def test_a_slide_without_measurements_is_shown_as_predicted_only(predicted, page_of):
    bare = predicted[:, ["ERBB2", "COL1A1"]].copy()
    bare.X = bare.layers["predicted"].copy()  # as tl.predict_expression(..., as_anndata=True) has it
    page = page_of(bare, genes="ERBB2", columns=[])
    assert page.titles == ["slide", "ERBB2: predicted"]
    del bare.X
    assert page_of(bare, genes="ERBB2", columns=[]).titles == ["slide", "ERBB2: predicted"]


def test_bins_without_any_counts_are_squares_that_touch(section, page_of):
    bins = st.io.grid(section, pitch_um=40, spot_um=40, layout="square")
    values = np.random.default_rng(0).random((bins.n_obs, 2)).astype(np.float32)
    bins.obsm["predicted_genes"] = pd.DataFrame(values, index=bins.obs_names, columns=["ERBB2", "VEGFA"])
    page = page_of(bins)
    assert page.titles == ["slide", "ERBB2: predicted"]
    assert page.models["Select"][0]["options"] == ["ERBB2", "VEGFA"]
    (square,) = {(glyph["width"]["value"], glyph["height"]["value"]) for glyph in page.models["Rect"]}
    assert square == pytest.approx((40, 40), rel=0.01)
    np.testing.assert_array_equal(page.column("VEGFA"), values[:, 1])


def test_without_image_there_is_no_slide(predicted, page_of):
    predicted.uns["spatial"]["sim_1"]["images"] = {}
    predicted.uns["spatial"]["sim_1"].get("metadata", {}).pop("source_image_path", None)
    page = page_of(predicted, genes="ERBB2", columns=[])
    assert page.titles[0] == "ERBB2: measured"
    assert "ImageURL" not in page.models


def test_the_same_page_from_spatialdata(predicted, page_of):
    ours = page_of(predicted, genes=["ERBB2"], columns="region")
    theirs = page_of(st.io.to_spatialdata(predicted), genes=["ERBB2"], columns="region")
    assert theirs.titles == ours.titles
    np.testing.assert_array_equal(theirs.column("predicted"), ours.column("predicted"))
    np.testing.assert_allclose(theirs.column("x", beside="spot"), ours.column("x", beside="spot"))


def test_one_of_several_sections_is_chosen(two_sections, page_of):
    import anndata

    for adata in two_sections:
        adata.layers["predicted"] = adata.layers["truth"].copy()
    both = anndata.concat(
        {"sim_1": two_sections[0], "sim_2": two_sections[1]}, label="library_id", uns_merge="unique", index_unique="-"
    )
    page = page_of(both, genes="ERBB2", library_id="sim_2", library_key="library_id")
    np.testing.assert_array_equal(page.column("predicted"), of(two_sections[1], "ERBB2"))
    with pytest.raises(ValueError, match="library_id"):
        page_of(both, genes="ERBB2", library_key="library_id")


def test_the_file_needs_nothing_from_elsewhere(predicted, page_of):
    text = page_of(predicted, genes="ERBB2").text
    tags = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert not re.findall(r"(?:src|href)\s*=", tags)
    assert not re.findall(r"<script[^>]*\ssrc", re.sub(r">.*?</script>", ">", text, flags=re.DOTALL))


def test_names_cannot_break_out_of_the_page(predicted, tmp_path, page_of):
    evil = "</script><img src=x onerror=alert(1)>"
    predicted.var_names = [evil if name == "ERBB2" else name for name in predicted.var_names]
    predicted.obs["region"] = predicted.obs["region"].astype(str).replace("tumor", evil)
    predicted.uns["predicted"]["method"] = evil
    page = page_of(predicted, genes=[evil], columns="region")
    assert evil not in page.text
    assert evil not in page.words
    assert page.titles[1] == f"{evil}: measured"  # drawn on a canvas, where it is text


def test_default_genes_fit_and_too_many_genes_are_refused_with_what_fits(predicted, tmp_path):
    path = tmp_path / "page.html"
    st.pl.browse(predicted, path, max_mb=2.5, image_size=600)
    assert 2.3e6 < path.stat().st_size <= 2.5e6
    shown = Page(path).models["Select"][0]["options"]
    assert 1 < len(shown) < predicted.n_vars - 1
    path.unlink()
    genes = [name for name in predicted.var_names if name != "LUM"]
    with pytest.raises(ValueError, match=r"larger than max_mb=2.5. Take the first \d+ genes") as refused:
        st.pl.browse(predicted, path, genes=genes, max_mb=2.5, image_size=600)
    assert list(tmp_path.iterdir()) == []
    fit = int(re.search(r"first (\d+) genes", str(refused.value))[1])
    st.pl.browse(predicted, path, genes=genes[:fit], max_mb=2.5, image_size=600)
    assert path.stat().st_size <= 2.5e6
    with pytest.raises(ValueError, match="Take fewer spots, a larger max_mb"):
        st.pl.browse(predicted, path, max_mb=1)


def test_bad_input_is_refused_before_anything_is_written(predicted, tmp_path):
    path = tmp_path / "page.html"
    for options, error, told in (
        ({"genes": ["NOPE1"]}, KeyError, "NOPE1"),
        ({"genes": []}, ValueError, "No genes to draw"),
        ({"columns": "regoin"}, KeyError, r"no obs\['regoin'\].*Did you mean 'region'"),
        ({"predicted": "other"}, KeyError, r"no layers\['other'\]; call stpredict.tl.predict_expression first"),
        ({"measured": "other"}, KeyError, "other"),
        ({"cmap": "virids"}, (KeyError, ValueError), "virids"),
        ({"library_id": "sim_9"}, KeyError, "sim_9"),
        ({"image_size": 0}, ValueError, "image_size and max_mb must be positive"),
        ({"genes": "ERBB2", "color": "ERBB2"}, TypeError, "color= is another name of genes="),
    ):
        with pytest.raises(error, match=told):
            st.pl.browse(predicted, path, **options)
    predicted.obs["name"] = predicted.obs_names
    with pytest.raises(ValueError, match="413 different values, and there are 102 colours"):
        st.pl.browse(predicted, path, columns="name")
    with pytest.raises(ValueError, match=r"pass a name that ends in \.html"):
        st.pl.browse(predicted, tmp_path / "page.png")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(OSError, match="is no file but a folder"):
        st.pl.browse(predicted, tmp_path / "folder.html")
    assert [p.name for p in tmp_path.iterdir()] == ["folder.html"]


def test_without_bokeh_one_sentence_says_what_to_install(predicted, tmp_path, monkeypatch):
    monkeypatch.setattr("stpredict.pl._browse_page.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs Bokeh: pip install 'stpredict\[browse\]'"):
        st.pl.browse(predicted, tmp_path / "page.html")


def test_the_data_stay_as_they_are(predicted, page_of, assert_same):
    before = predicted.copy()
    page_of(predicted, genes="ERBB2")
    assert_same(before, predicted)
