"""What is known of every published model: what it needs, what it gives, where it is and what it may be used for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

NOT_STATED = "not stated"
"""Units of predictions whose authors do not say which they are."""


class HubFile(NamedTuple):
    """A file in a repository of the hub."""

    repository: str
    name: str
    revision: str | None = None
    """Commit that is loaded unless another is asked for; None where none is known, for the newest."""


@dataclass(frozen=True)
class Card:
    """A published model.

    Attributes
    ----------
    name, title
        Name by which `stpredict.models.pretrained` knows it, and as its authors write it.
    tissue, trained_on
        What it was made for, and the collections it learned from.
    n_genes
        Genes that it predicts.
    encoder
        Image encoder whose features it takes, as `stpredict.pp.encode` takes it; of a model that reads the image itself,
        the one that is part of it.
    width
        Features per spot; 0 of a model that reads the image itself.
    spot_um, within
        Side of the tiles, µm, and the relative difference from it that is still the same.
    stain_norm
        How stains were normalised, as `stpredict.pp.encode` takes it.
    units
        Units of its predictions.
    licence, commercial
        Licence of the weights, and whether it allows commercial use.
    gated
        Whether access must be asked for.
    gigabytes
        Size of the weights, GB.
    files
        Files that it is made of, by what they are: ``"network"`` and ``"genes"``.
    source, paper
        Where the weights are told of, and where the model is.
    """

    name: str
    title: str
    tissue: str
    trained_on: str
    n_genes: int
    encoder: str
    width: int
    spot_um: float
    units: str
    licence: str
    commercial: bool
    gated: bool
    gigabytes: float
    files: dict[str, HubFile] = field(repr=False)
    source: str
    paper: str
    within: float = 0.05
    stain_norm: str | None = None
    input_px: int = 224

    @property
    def mpp(self) -> float:
        """Microns per pixel of its tiles."""
        return self.spot_um / self.input_px


_LAZYSLIDE = "RendeiroLab/LazySlide-models"

PATH2SPACE = Card(
    name="path2space",
    title="Path2Space",
    tissue="breast",
    trained_on="the breast cancer sections of Bassiouni et al. (Visium)",
    n_genes=14_000,
    encoder="ctranspath",
    width=768,
    spot_um=100.0,
    within=0.13,  # its authors cut 100 µm of whole slides, and 224 px of scans of about 0.5 µm per pixel
    stain_norm="macenko",
    units=NOT_STATED,
    licence="Apache-2.0",
    commercial=True,
    gated=False,
    gigabytes=6.7,
    files={
        "network": HubFile(_LAZYSLIDE, "Path2Space/Path2Space_exported.pt2"),
        "genes": HubFile(_LAZYSLIDE, "Path2Space/Path2Space_genes.txt"),
    },
    source="https://doi.org/10.5281/zenodo.20174301",
    paper="https://doi.org/10.1016/j.cell.2026.04.023",
)

STPATH = Card(
    name="stpath",
    title="STPath",
    tissue="17 organs",
    trained_on="HEST-1k and STimage-1K4M (most public Visium and ST sections, her2st among them)",
    n_genes=38_982,
    encoder="prov-gigapath",
    width=1536,
    spot_um=112.0,
    units="log1p counts",
    licence="none stated",
    commercial=False,
    gated=False,
    gigabytes=0.2,
    files={
        "network": HubFile("tlhuang/STPath", "stfm.pth", "3346881771f2ddb5575532df3df1b5477846d10a"),
        "genes": HubFile(_LAZYSLIDE, "STPath/symbol2ensembl.json"),
    },
    source="https://github.com/Graph-and-Geometric-Learning/STPath",
    paper="https://doi.org/10.1038/s41746-025-02020-3",
)

_DEEPSPOTM = "ratschlab/DeepSpotM"

DEEPSPOTM = Card(
    name="deepspotm",
    title="DeepSpot-M",
    tissue="many organs",
    trained_on="sections of many cancers (its preprint lists them)",
    n_genes=19_338,
    encoder="midnight (its own)",
    width=0,
    spot_um=112.0,
    units="log1p CPM",
    licence="CC-BY-NC-SA-4.0",
    commercial=False,
    gated=True,
    gigabytes=5.3,
    files={
        "network": HubFile(_DEEPSPOTM, "model.safetensors"),
        "genes": HubFile(_DEEPSPOTM, "tokens.csv"),
        "settings": HubFile(_DEEPSPOTM, "config.json"),
    },
    source="https://huggingface.co/ratschlab/DeepSpotM",
    paper="https://www.medrxiv.org/content/10.64898/2026.06.19.26356060v1",
)
