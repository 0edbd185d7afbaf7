"""Path2Space: from files to layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import stpredict as st
from stpredict._sections.open import Where, open_all

GENES = ["ERBB2", "KRT8", "COL1A1", "EPCAM", "CD3D", "PTPRC", "VIM", "KRT6A"]


def by_hand(tensors, features):
    """The mean over members of two layers with ReLU after each."""
    outputs = []
    for i in range(len(tensors) // 4):
        w0, b0, w1, b1 = (
            tensors[f"members.{i}.{name}"]
            for name in ("layer0.0.weight", "layer0.0.bias", "layer1.0.weight", "layer1.0.bias")
        )
        outputs.append(np.maximum(np.maximum(features @ w0.T + b0, 0) @ w1.T + b1, 0))
    return np.mean(outputs, axis=0)


def test_the_prediction_is_the_mean_of_all_members(section, ctranspath, path2space, path2space_tensors):
    ctranspath(section)
    st.tl.predict_expression(section, path2space)
    expected = by_hand(path2space_tensors, section.obsm["X_ctranspath"])
    got = section[:, GENES[:7]].layers["predicted"]
    np.testing.assert_allclose(got, expected[:, :7], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(section.obsm["predicted_genes"]["KRT6A"], expected[:, 7], rtol=1e-4, atol=1e-5)
    assert section.var["predicted"].sum() == 7
    assert np.ptp(got, axis=0).max() > 0.1


def test_printed_it_says_what_it_predicts_from_what_and_under_which_licence(path2space):
    title, *lines = repr(path2space).split("\n")
    facts = dict(line.strip().split("  ", 1) for line in lines)
    assert title == "Path2Space, trained by others"
    assert facts["tissue"].strip() == "breast"
    assert facts["genes"].strip() == "8: ERBB2, KRT8, COL1A1, …"
    assert "ctranspath, 100 µm" in facts["features"]
    assert facts["licence"].strip() == "Apache-2.0"
    assert "Apache-2.0</td>" in path2space._repr_html_()


def test_uns_tells_where_it_comes_from_and_what_it_may_be_used_for(section, ctranspath, path2space, tmp_path):
    ctranspath(section)
    st.tl.predict_expression(section, path2space, std=True)
    record = section.uns["predicted"]
    assert record["units"] == "not stated"
    assert record["encoder"] == "ctranspath"
    assert record["method"] == "path2space"
    assert record["published"]["licence"] == "Apache-2.0"
    assert len(record["published"]["sha256"]["network"]) == 64
    assert record["domain"]["verdict"] == "unknown"
    assert "trained by others" in record["domain"]["why"]
    assert np.isnan(section.layers["predicted_std"]).all()
    section.write_h5ad(tmp_path / "section.h5ad")


def test_figures_tell_its_units(section, gigapath, stpath):
    gigapath(section)
    st.tl.predict_expression(section, stpath, key_added="theirs")
    ax = st.pl.expression(section, "ERBB2", layer="theirs", show=False)
    assert [bar.get_ylabel() for bar in ax.child_axes] == ["log1p counts"]


def test_few_genes_by_any_name_give_the_same_numbers(section, ctranspath, path2space_folder, path2space):
    ctranspath(section)
    few = st.models.pretrained("path2space", path=path2space_folder, genes=["VIM", "HER2"])
    assert few.genes == ["VIM", "ERBB2"]
    st.tl.predict_expression(section, path2space)
    st.tl.predict_expression(section, few, key_added="few")
    both = section[:, ["VIM", "ERBB2"]]
    np.testing.assert_allclose(both.layers["few"], both.layers["predicted"], rtol=1e-5)
    assert section.var["few"].sum() == 2


def test_the_authors_archive_gives_the_same_numbers(
    section, ctranspath, path2space, path2space_tensors, tmp_path, cache
):
    for i, (outer, inner) in enumerate([(0, 0), (0, 1), (1, 0)]):
        folder = tmp_path / "weights" / "mlp_ensemble" / f"result_{outer}_{inner}_0"
        folder.mkdir(parents=True)
        own = {n.removeprefix(f"members.{i}."): t for n, t in path2space_tensors.items() if f"members.{i}." in n}
        torch.save({name: torch.from_numpy(values) for name, values in own.items()}, folder / "model_trained.pth")
    (tmp_path / "weights" / "genes.txt").write_text("\n".join(GENES))
    other = st.models.pretrained("path2space", path=tmp_path / "weights")
    ctranspath(section)
    st.tl.predict_expression(section, path2space)
    st.tl.predict_expression(section, other, key_added="other")
    np.testing.assert_allclose(
        section[:, GENES[:7]].layers["other"], section[:, GENES[:7]].layers["predicted"], rtol=1e-5
    )
    assert len(list((cache / "published").glob("*.safetensors"))) == 3


def test_a_program_that_torch_exported_is_read(section, ctranspath, path2space_folder, path2space_tensors):
    class Ensemble(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.members = torch.nn.ModuleList(
                torch.nn.ModuleDict(
                    {
                        "layer0": torch.nn.Sequential(torch.nn.Linear(768, 5), torch.nn.ReLU()),
                        "layer1": torch.nn.Sequential(torch.nn.Linear(5, len(GENES)), torch.nn.ReLU()),
                    }
                )
                for _ in range(3)
            )

        def forward(self, x):
            return torch.stack([m["layer1"](m["layer0"](x)) for m in self.members]).mean(0)

    module = Ensemble()
    module.load_state_dict({name: torch.from_numpy(values) for name, values in path2space_tensors.items()})
    program = torch.export.export(module.eval(), (torch.randn(2, 768),), dynamic_shapes=[{0: torch.export.Dim.AUTO}])
    torch.export.save(program, path2space_folder / "Path2Space_exported.pt2")
    ctranspath(section)
    st.tl.predict_expression(section, st.models.pretrained("path2space", path=path2space_folder))
    with torch.inference_mode():
        expected = module(torch.from_numpy(section.obsm["X_ctranspath"])).numpy()
    np.testing.assert_allclose(section[:, GENES[:7]].layers["predicted"], expected[:, :7], rtol=1e-4, atol=1e-5)


def test_spots_part_by_part_are_the_whole(section, ctranspath, path2space):
    ctranspath(section)
    whole = st.tl.predict_expression(section, path2space, as_anndata=True)
    (opened,) = open_all(section, Where(None, None))
    parts = [part.mean for _, part in path2space.predict_parts(opened, size=100)]
    assert len(parts) > 1
    np.testing.assert_allclose(np.concatenate(parts), whole.X, rtol=1e-5)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("member", "member 1 is not whole"),
        ("genes", "to the 7 genes of its list"),
        ("foreign", "or something else beside them"),
        ("cut", "is damaged"),
    ],
)
def test_files_that_do_not_fit_are_refused(
    damage, told, path2space_folder, path2space_tensors, section, ctranspath, write_exported
):
    network, genes = path2space_folder / "Path2Space_exported.pt2", path2space_folder / "Path2Space_genes.txt"
    if damage == "member":
        del path2space_tensors["members.1.layer1.0.bias"]
        write_exported(network, path2space_tensors)
    elif damage == "genes":
        genes.write_text("\n".join(GENES[:7]))
    elif damage == "foreign":
        write_exported(network, path2space_tensors | {"head.weight": path2space_tensors["members.0.layer0.0.bias"]})
    else:
        network.write_bytes(network.read_bytes()[:-200])
    ctranspath(section)
    model = st.models.pretrained("path2space", path=path2space_folder)
    with pytest.raises(ValueError, match=told):
        st.tl.predict_expression(section, model)
    assert "predicted" not in section.layers
