"""Marker genes of common carcinomas, with the papers that they come from.

Every set marks the tumour's own cells within its organ: lineage and epithelial genes, not stroma or immune cells. On
single sections most of them tell carcinoma from stroma, and few tell it from the healthy epithelium that it arose from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stpredict._core.names import gene_names, meant

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import pandas as pd

KERATINS = "Moll et al., Histochem Cell Biol 129, 705 (2008), doi:10.1007/s00418-008-0435-6"
EPCAM = "Went et al., Hum Pathol 35, 122 (2004), doi:10.1016/j.humpath.2003.08.026"
OVARY = "Köbel et al., PLoS Med 5, e232 (2008), doi:10.1371/journal.pmed.0050232"


@dataclass(frozen=True)
class MarkerSet:
    """Genes that mark one kind of carcinoma, each group with its source."""

    cancer: str
    sources: Mapping[str, str]
    """Genes, separated by blanks → the paper."""

    @property
    def genes(self) -> list[str]:
        """All genes of the set, in order."""
        return [gene for group in self.sources for gene in group.split()]


MARKER_SETS: Mapping[str, MarkerSet] = {
    "carcinoma": MarkerSet(
        "any carcinoma with simple epithelium",
        {"KRT7 KRT8 KRT18 KRT19": KERATINS, "EPCAM": EPCAM},
    ),
    "breast": MarkerSet(
        "breast carcinoma, HER2-positive above all",
        {
            "ERBB2 GRB7 XBP1 ESR1 MKI67": "Perou et al., Nature 406, 747 (2000), doi:10.1038/35021093",
            "FASN GNAS SCD": "He et al., Nat Biomed Eng 4, 827 (2020), doi:10.1038/s41551-020-0578-x; "
            "Andersson et al., Nat Commun 12, 6012 (2021), doi:10.1038/s41467-021-26271-2",
            "KRT8 KRT18 KRT19": KERATINS,
            "EPCAM": EPCAM,
            "CD24": "Kristiansen et al., Clin Cancer Res 9, 4906 (2003)",
            "MUC1": "Rakha et al., Mod Pathol 18, 1295 (2005)",
        },
    ),
    "colorectal": MarkerSet(
        "colorectal adenocarcinoma",
        {
            "CDX2": "Werling et al., Am J Surg Pathol 27, 303 (2003)",
            "CDH17": "Su et al., Mod Pathol 21, 1379 (2008)",
            "SATB2": "Ordóñez, Adv Anat Pathol 21, 63 (2014), doi:10.1097/PAP.0000000000000001",
            "KRT8 KRT18 KRT19 KRT20": KERATINS,
            "EPCAM": EPCAM,
        },
    ),
    "lung": MarkerSet(
        "lung adenocarcinoma",
        {
            "NKX2-1": "Mukhopadhyay and Katzenstein, Am J Surg Pathol 35, 15 (2011), doi:10.1097/PAS.0b013e3182036d05",
            "NAPSA": "Weidemann et al., Pathol Oncol Res 27, 613099 (2021), doi:10.3389/pore.2021.613099",
            "KRT7 KRT8 KRT18 KRT19": KERATINS,
            "EPCAM": EPCAM,
        },
    ),
    "prostate": MarkerSet(
        "prostate adenocarcinoma",
        {
            "AMACR PCA3 FOLH1 HPN KLK3": "Madu and Lu, J Cancer 1, 150 (2010), doi:10.7150/jca.1.150",
            "KRT8 KRT18": KERATINS,
            "EPCAM": EPCAM,
        },
    ),
    "liver": MarkerSet(
        "hepatocellular carcinoma",
        {
            "GPC3 GLUL HSPA1A": "Di Tommaso et al., Hepatology 45, 725 (2007), doi:10.1002/hep.21531",
            "KRT8 KRT18": KERATINS,
        },
    ),
    "kidney": MarkerSet(
        "clear cell renal cell carcinoma",
        {
            "CA9 PAX8 PAX2": "Kuroda et al., Pathol Int 63, 381 (2013), doi:10.1111/pin.12080",
            "MME HAVCR1": "Sangoi et al., Adv Anat Pathol 17, 377 (2010), doi:10.1097/PAP.0b013e3181f89400",
            "NDUFA4L2": "Su et al., Front Oncol 11, 719564 (2021), doi:10.3389/fonc.2021.719564",
            "KRT8 KRT18": KERATINS,
        },
    ),
    "pancreas": MarkerSet(
        "pancreatic ductal adenocarcinoma",
        {
            "TFF1 TFF2 AGR2 CEACAM6 TSPAN8 LYZ KRT17": "Moffitt et al., Nat Genet 47, 1168 (2015), doi:10.1038/ng.3398",
            "KRT7 KRT19": KERATINS,
            "EPCAM": EPCAM,
        },
    ),
    "ovary": MarkerSet(
        "ovarian carcinoma, high-grade serous above all",
        {"PAX8 WT1 MUC16 WFDC2 MSLN SLPI EPCAM MKI67": OVARY, "KRT7 KRT8 KRT18 KRT19": KERATINS},
    ),
}


def marker_sets() -> pd.DataFrame:
    """List the marker sets of common carcinomas that `tl.localize_tumor` and `pp.gene_panel` know by name.

    Returns
    -------
    DataFrame indexed by the name of the set (``"breast"``), a row per gene and source: ``gene``, ``cancer``,
    ``source``.

    Examples
    --------
    >>> import stpredict as st
    >>> table = st.datasets.marker_sets()
    >>> list(table.index.unique()[:3])
    ['carcinoma', 'breast', 'colorectal']
    >>> "ERBB2" in set(table.loc["breast", "gene"])
    True
    """
    import pandas as pd

    rows = [
        (name, gene, markers.cancer, source)
        for name, markers in MARKER_SETS.items()
        for group, source in markers.sources.items()
        for gene in group.split()
    ]
    return pd.DataFrame(rows, columns=["set", "gene", "cancer", "source"]).set_index("set")


def marker_genes(markers: str | Iterable[str]) -> list[str]:
    """Genes of a named set, or the genes given, each once.

    Raises ValueError if there is no such set, or no gene; TypeError if the genes are no text.
    """
    if isinstance(markers, str):
        if markers not in MARKER_SETS:
            msg = (
                f"There is no marker set {markers!r}; there is {', '.join(MARKER_SETS)}. Or pass a list of genes."
                f"{meant(markers, MARKER_SETS)}"
            )
            raise ValueError(msg)
        return MARKER_SETS[markers].genes
    genes = gene_names(list(markers) if hasattr(markers, "items") else markers, "Marker genes")  # (a dict has weights)
    genes = list(dict.fromkeys(genes))
    if not genes:
        msg = f"No marker genes given. Pass a list of genes, or one of {', '.join(MARKER_SETS)}."
        raise ValueError(msg)
    return genes
