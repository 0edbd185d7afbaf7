"""Genes of a simulated section: programmes, what they do in each spot, and the counts that are seen of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PROGRAMMES = {
    "tumor": "ERBB2 GRB7 FASN SCD GNAS XBP1 KRT8 KRT18 KRT19 KRT7 EPCAM CD24 MUC1 ESR1 PGAP3 STARD3 MIEN1 CLDN3 CLDN4 "
    "CLDN7 CDH1 SPINT2 ELF3 TFF1 TFF3 AGR2 GATA3 FOXA1 TACSTD2 AZGP1 S100A14 DDR1 SPDEF",
    "proliferation": "MKI67 TOP2A CCNB1 CDK1 BIRC5 UBE2C TYMS PCNA MCM2 MCM3 TUBA1B STMN1 HMGB2 CENPF NUSAP1 AURKA "
    "RRM2 CKS2",
    "stroma": "COL1A1 COL1A2 COL3A1 COL5A1 COL6A1 COL6A2 COL6A3 FN1 SPARC DCN LUM BGN VIM MMP2 TIMP1 TIMP3 FBN1 C1S "
    "C1R SERPINF1",
    "fibrosis": "POSTN ACTA2 TAGLN FAP COL11A1 COL10A1 THBS2 INHBA CTHRC1 MYL9 SULF1 COMP",
    "immune": "PTPRC CD3D CD3E CD3G CD2 CD74 HLA-DRA HLA-DRB1 HLA-DPA1 IGKC IGHG1 IGHM JCHAIN MS4A1 CD79A TRAC CCL5 "
    "CXCL13 CXCR4 LTB IL7R CD8A GZMK CORO1A LYZ",
    "interferon": "ISG15 IFI6 IFI27 IFI44L IFIT1 IFIT3 MX1 OAS1 STAT1 CXCL10",
    "adipose": "ADIPOQ PLIN1 PLIN4 FABP4 LPL LEP CIDEC G0S2 PCK1 ADH1B GPD1 AQP7 CD36 CFD",
    "endothelial": "PECAM1 VWF CDH5 CLDN5 PLVAP RAMP2 EGFL7 ENG KDR EMCN",
    "housekeeping": "ACTB B2M GAPDH DDX5 EEF1A1 TPT1 UBC FTL FTH1 TMSB4X TMSB10 PPIA HSP90AB1 YWHAZ HNRNPA2B1 SF3B1 "
    "MT-CO1 MT-ND1 RPLP0 RPS18",
    "none": "ABCA2 ADCY3 AKAP8 ANKRD11 ARID1B ATF7 BRD3 CEP68 CHD9 CLASP1 DDX17 DHX36 EHMT1 EP400 FBXW2 GOLGA4 HECTD1 "
    "KANSL1 KMT2C LRRC8A MAN2A2 MED13L NCOR2 PHF3 PRRC2B RERE SETD5 SMG1 TNRC6B ZNF638",
}
"""Human gene symbols by the programme that drives them; the last two have none."""

GENES = [gene for genes in PROGRAMMES.values() for gene in genes.split()]
PROGRAMME_OF = [name for name, genes in PROGRAMMES.items() for _ in genes.split()]
DRIVEN = tuple(PROGRAMMES)[:-2]
"""Programmes that vary in space."""
IS_DRIVEN = np.isin(PROGRAMME_OF, DRIVEN)

DRIVEN_SHARE = 0.5
"""Share of a spot's transcripts from driven genes: fixed, so that the others do not vary at all."""

OUTPUT = np.array([1.0, 0.4, 1.0, 0.4, 1.0, 0.4, 1.0, 0.4])
"""Transcripts of each programme at activity 1: no region is the poorer in them all."""

LEAK = 0.8
"""Transcripts of all driven genes without any activity, in the same unit."""

DEPTH = 3000
"""Counts of a spot with the usual number of cells."""


@dataclass(frozen=True)
class Biology:
    """What all simulated sections share: (genes,) baseline, (programmes, genes) loadings."""

    baseline: np.ndarray
    loadings: np.ndarray


def biology() -> Biology:
    """Make the constants; the same for every seed, so that a model of one simulation serves another."""
    rng = np.random.default_rng(20_240_501)
    n = len(GENES)
    baseline = np.exp(0.9 * rng.standard_normal(n)) * np.where(np.array(PROGRAMME_OF) == "housekeeping", 6.0, 1.0)
    loadings = np.exp(0.35 * rng.standard_normal((len(DRIVEN), n))) * (
        4.0 * (np.array(DRIVEN)[:, None] == np.array(PROGRAMME_OF))
        + 0.5 * IS_DRIVEN * (rng.random((len(DRIVEN), n)) < 0.12)
    )
    loadings *= OUTPUT[:, None] * baseline[IS_DRIVEN].sum() / (loadings @ baseline)[:, None]
    return Biology(baseline, loadings=loadings)


def batch_factor(rng: np.random.Generator) -> np.ndarray:
    """(genes,): how much more of each gene this patient has for the same tissue."""
    return np.exp(0.3 * rng.standard_normal(len(GENES)))


def expected_fraction(activity: np.ndarray, factor: np.ndarray, signal: float) -> np.ndarray:
    """(spots, genes): the share that each gene has of a spot's transcripts; rows add up to 1.

    `activity` is (spots, programmes), `factor` the patient's `batch_factor`.
    """
    life = biology()
    rate = life.baseline * factor * np.where(IS_DRIVEN, LEAK + signal * activity @ life.loadings, 1.0)
    of_driven, of_others = rate[:, IS_DRIVEN].sum(axis=1), rate[:, ~IS_DRIVEN].sum(axis=1)
    return np.where(IS_DRIVEN, DRIVEN_SHARE * rate / of_driven[:, None], (1 - DRIVEN_SHARE) * rate / of_others[:, None])


def draw_counts(rng: np.random.Generator, fraction: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """(spots, genes) Poisson counts, as molecules are sampled; spots with more cells are deeper."""
    depth = DEPTH * ((cells + 2) / (np.median(cells) + 2)) ** 0.6 * np.exp(0.22 * rng.standard_normal(len(cells)))
    return rng.poisson(fraction * depth[:, None])
