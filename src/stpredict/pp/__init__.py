"""From files to features: tiles, image features, gene panels and quality."""

from __future__ import annotations

from stpredict._core.offered import offers
from stpredict.pp._encode import encode
from stpredict.pp._gene_embeddings import gene_embeddings
from stpredict.pp._niches import niches
from stpredict.pp._nuclei import nuclei
from stpredict.pp._panels import gene_panel
from stpredict.pp._qc import qc, tissue_mask
from stpredict.pp._tiles import tiles

__all__ = [
    "encode",
    "gene_embeddings",
    "gene_panel",
    "niches",
    "nuclei",
    "qc",
    "tiles",
    "tissue_mask",
]

__getattr__, __dir__ = offers(__name__, __all__)
