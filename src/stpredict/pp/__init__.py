"""From files to features: tiles, image features, gene panels and quality."""

from __future__ import annotations

from stpredict.pp._panels import gene_panel
from stpredict.pp._qc import qc, tissue_mask

__all__ = ["gene_panel", "qc", "tissue_mask"]
