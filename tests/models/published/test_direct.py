"""Published models without a section: limits from both sides, files that are refused, and what is asked of the hub."""

from __future__ import annotations

import json
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.torch import save_file

import stpredict as st
from stpredict.models._base import files
from stpredict.models.published import weights
from stpredict.models.published.cards import PATH2SPACE, STPATH
from stpredict.models.published.exported import exported_tensors
from stpredict.models.published.needs import check_image, check_needs
from stpredict.models.published.stpath import n_blocks, scaled


class Described:
    """A section of two spots with features and a record of how they were made."""

    name = "one"

    def __init__(self, card, shape=None, **record):
        made = {"encoder": card.encoder, "spot_um": card.spot_um, "mpp": card.mpp, "stain_norm": card.stain_norm}
        self.adata = SimpleNamespace(obsm={"X": np.zeros((2, card.width) if shape is None else shape)})
        self._record = made | record

    def __len__(self):
        return 2

    def features(self, key, rows):
        return self.adata.obsm[key][rows]

    def record(self, _):
        return self._record


@pytest.mark.parametrize(
    ("card", "what", "right", "wrong"),
    [
        (PATH2SPACE, "spot_um", (88, 112), (86, 114)),
        (STPATH, "spot_um", (107, 117), (106, 118)),
        (PATH2SPACE, "mpp", (0.2, 1.11), (1.12,)),
        (STPATH, "mpp", (0.2, 1.24), (1.26,)),
    ],
)
def test_tiles_may_differ_by_so_much(card, what, right, wrong):
    for value in right:
        check_needs(Described(card, **{what: value}), "X", card)
    for value in wrong:
        with pytest.raises(ValueError, match=f"{card.title} needs"):
            check_needs(Described(card, **{what: value}), "X", card)


def test_images_may_be_so_coarse():
    check_image(SimpleNamespace(name="one", image=None, mpp=1.24), 0.5)
    with pytest.raises(ValueError, match=r"the image has 1\.26 µm per pixel"):
        check_image(SimpleNamespace(name="one", image=None, mpp=1.26), 0.5)


@pytest.mark.parametrize(("shape", "told"), [((2, 768, 2), "has 3 dimensions"), ((2, 5), "has 5 features per spot")])
def test_features_of_another_shape_are_refused(shape, told):
    with pytest.raises(ValueError, match=told):
        check_needs(Described(PATH2SPACE, shape), "X", PATH2SPACE)


def test_what_is_known_before_a_download():
    """Genes, µm per pixel, µm of a tile and GB, as the authors' pages have them."""
    table = st.models.available()[["genes", "um_per_px", "spot_um", "size_gb"]]
    assert table.T.to_dict("list") == {
        "path2space": [14_000, 0.446, 100, 6.7],
        "stpath": [38_982, 0.5, 112, 0.2],
        "deepspotm": [19_338, 0.5, 112, 5.3],
    }


# ---------------------------------------------------------------------- files


def test_a_revision_is_of_the_repository_of_the_network(monkeypatch, tmp_path):
    asked = []
    path = tmp_path / "a" / "b"
    path.parent.mkdir()
    path.write_text("")
    monkeypatch.setattr(weights, "_kept", lambda file: asked.append(file.revision) or path)
    weights.on_hub(STPATH, "abc")
    weights.on_hub(STPATH)
    assert asked == ["abc", None, STPATH.files["network"].revision, None]


def test_one_missing_file_is_asked_for(monkeypatch, tmp_path):
    """The hub that is asked first is that of the file that is missing."""

    def refuses(repository):
        msg = f"no {repository} today"
        raise OSError(msg)

    monkeypatch.setattr(weights, "_kept", lambda file: tmp_path if file.name.endswith(".pth") else None)
    monkeypatch.setattr(weights, "check_answers", refuses)
    with pytest.raises(OSError, match="no RendeiroLab/LazySlide-models today"):
        weights.on_hub(STPATH)


def test_an_index_that_is_too_large_is_not_read(tmp_path):
    for n, told in ((2**26, "config"), (2**26 + 1, "its index is too large")):
        with zipfile.ZipFile(tmp_path / "large.pt2", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.writestr("m/data/weights/model_weights_config.json", b"{}" + b" " * (n - 2))
        with pytest.raises(ValueError, match=told):
            exported_tensors(tmp_path / "large.pt2")


@pytest.mark.parametrize("damage", ["compressed", "longer", "missing"])
def test_weights_that_cannot_be_mapped_are_refused(damage, path2space_folder):
    path = path2space_folder / "Path2Space_exported.pt2"
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    kind = zipfile.ZIP_DEFLATED if damage == "compressed" else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, data in content.items():
            archive.writestr(name, data + b"0000" * (damage == "longer" and name.endswith("weight_0")))
    if damage == "missing":
        path.unlink()
        with pytest.raises(FileNotFoundError):
            exported_tensors(path)
    else:
        with pytest.raises(ValueError, match="bytes, which are not"):
            exported_tensors(path)


@pytest.mark.parametrize("lines", ["", "A\nB\nA"])
def test_lists_of_genes_name_each_once(lines, path2space_folder, deepspotm_folder):
    (path2space_folder / "Path2Space_genes.txt").write_text(lines)
    rows = [f"{gene},gene" for gene in lines.split()]
    (deepspotm_folder / "tokens.csv").write_text("\n".join(["token,token_type", *rows, "melanoma,disease"]))
    for name, folder in (("path2space", path2space_folder), ("deepspotm", deepspotm_folder)):
        with pytest.raises(ValueError, match="must name genes, each once"):
            st.models.pretrained(name, path=folder)


def test_an_archive_of_the_authors_without_members_is_refused(tmp_path):
    (tmp_path / "mlp_ensemble").mkdir()
    (tmp_path / "genes.txt").write_text("A\nB")
    with pytest.raises((ValueError, OSError)):
        st.models.pretrained("path2space", path=tmp_path).tensors()


def test_a_saved_slope_without_levels_is_damaged(path2space, tmp_path):
    ours = path2space.brought_to(path2space.genes, 2.0, np.arange(8.0))
    ours.save(tmp_path / "whole")
    np.testing.assert_array_equal(st.models.load(tmp_path / "whole").arrays["intercept"], np.arange(8))
    arrays = {"slope": ours.arrays["slope"]}
    files.write(tmp_path / "part", files.Stored(ours.method, ours.genes, ours.config, arrays))
    with pytest.raises(ValueError, match="damaged: intercept missing"):
        st.models.load(tmp_path / "part")


def test_only_images_are_embedded_and_the_encoder_is_told_once(path2space, deepspotm):
    for model in (path2space, deepspotm):
        with pytest.raises(ValueError, match="use, for"):
            model.embed(None, use="spots")
    assert "image network" not in repr(path2space)


# ---------------------------------------------------------------------- STPath


def test_places_run_from_0_to_100_along_each_axis():
    np.testing.assert_array_equal(scaled(np.array([[7.0, 5], [7.5, 5], [8, 5]])), [[0, 0], [50, 0], [100, 0]])
    np.testing.assert_array_equal(scaled(np.array([[0, 0.5], [20, 0.75]])), [[0, 0], [100, 100]])


def test_blocks_are_counted_by_their_largest_number():
    assert n_blocks({}) == 0
    assert n_blocks({"model.blks.11.mlp.fc1.bias": None, "model.blks.2.mlp.fc1.bias": None, "head": None}) == 12


def test_a_symbol_that_is_taken_is_not_given_twice(stpath_folder):
    """The first id is of ERBB2, which the list calls by its alias; the second is called ERBB2 by the list alone."""
    ids = {"HER2": "ENSG00000141736", "ERBB2": "ENSG99999999998", "LOCAL1": "ENSG99999999999"}
    (stpath_folder / "symbol2ensembl.json").write_text(json.dumps(ids))
    assert st.models.pretrained("stpath", path=stpath_folder).genes == ["ERBB2", "ENSG99999999998", "LOCAL1"]
    (stpath_folder / "symbol2ensembl.json").write_text('{"HER2": 1}')
    with pytest.raises(ValueError, match="maps no symbols to ids"):
        st.models.pretrained("stpath", path=stpath_folder)


def test_heads_that_do_not_share_a_spot_evenly_are_refused(stpath, stpath_tensors):
    stpath.check_tensors(stpath_tensors)
    for name, values in stpath_tensors.items():
        if "edge_bias" in name:
            stpath_tensors[name] = values[[0, 1, 0]]
    with pytest.raises(ValueError, match="16 numbers per spot are no multiple of 3 heads"):
        stpath.check_tensors(stpath_tensors)


# ---------------------------------------------------------------------- DeepSpot-M


def told(folder, **config):
    path = folder / "config.json"
    path.write_text(json.dumps({"init_gene_embeddings": ["evo2", "scgpt"], "cross_attn_heads": 2} | config))
    return st.models.pretrained("deepspotm", path=folder)._settings()


@pytest.mark.parametrize(
    ("source", "row"),
    [("evo2", 0), ("orthrus", 1), ("prott5", 2), ("esm2", 2), ("scgpt", 3), ("geneformer", 3), ("apertus", 4)],
)
def test_every_gene_embedding_has_its_row_of_modalities(source, row, deepspotm_folder):
    assert told(deepspotm_folder, init_gene_embeddings=[source])["modality"] == row
    assert told(deepspotm_folder, use_modality_encoding=False)["modality"] is None


def test_heads_are_eight_unless_told(deepspotm_folder):
    (deepspotm_folder / "config.json").write_text(json.dumps({"init_gene_embeddings": ["scgpt"]}))
    model = st.models.pretrained("deepspotm", path=deepspotm_folder)
    assert model._settings() == {"source": "scgpt", "modality": 3, "heads": 8}
    assert told(deepspotm_folder, cross_attn_heads=1)["heads"] == 1


@pytest.mark.parametrize(
    "config",
    [{"cross_attn_heads": 0}, {"use_router": False}, {"use_cross_attention": False}, {"init_gene_embeddings": []}],
)
def test_settings_of_another_network_are_refused(config, deepspotm_folder):
    with pytest.raises(ValueError, match=r"\(it is of another network\)"):
        told(deepspotm_folder, **config)


@pytest.mark.parametrize("lost", ["backbone.", "gene_decoder.multi_source.bio_scgpt"])
def test_half_a_network_is_refused(lost, deepspotm_folder, deepspotm_tensors):
    few = {name: values for name, values in deepspotm_tensors.items() if not name.startswith(lost)}
    save_file(few, deepspotm_folder / "model.safetensors")
    with pytest.raises(ValueError, match="no vision transformer, or no embedding of genes by scgpt"):
        st.models.pretrained("deepspotm", path=deepspotm_folder).tensors()
