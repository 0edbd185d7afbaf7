"""Every slot name that stpredict reads or writes."""

from __future__ import annotations

SPATIAL = "spatial"
"""``obsm``: spot centres in full-resolution pixels (x, y); ``uns``: images and scale factors by library."""

COUNTS = "counts"
"""``layers``: raw counts, where ``X`` holds something else."""

ANNOTATES = "spatialdata_attrs"
"""``uns``: the shapes that a table of a SpatialData annotates, as spatialdata writes it."""

TILES = "tiles"
"""``uns``: tile geometry and scale by library, written by `pp.tiles`."""

NICHES = "niches"
"""``obsp``: members of every spot's niche; ``obsm``: box of its image; ``uns``: how `pp.niches` made them."""

NUCLEI = "nuclei"
"""``uns``: nuclei by library, written by `pp.nuclei`; prefix of its columns of ``obs``."""

PREDICTED = "predicted"
"""``layers``, ``uns`` and ``var``: the default name of predicted expression."""

RETRIEVED = "retrieved"
"""``obsm`` and ``uns``: the default name of retrieved reference spots."""

TUMOR_SCORE = "tumor_score"
TUMOR = "tumor"
"""``obs``: tumour map; ``uns[TUMOR]`` holds its threshold and markers."""

ST_ALIGN = "X_st_align"
"""``obsm`` and ``uns``: the default name of a joint embedding of image and expression."""

DOMAINS = "domains"
"""``obs`` and ``uns``: the default name of spatial domains."""

SLIDE_JOB = "slide_job"
"""``uns``: how `tl.predict_many` made a result, so that a rerun knows what is done."""

TOTAL_COUNTS = "total_counts"
"""``obs``: total counts as `pp.qc` and scanpy write them; the total of a spot where genes were dropped since."""

PATIENT = "patient"
"""``obs``: the patient of a section, read wherever no other column is named."""

DEFAULT_LIBRARY = "section"
"""Library name for an AnnData without ``uns['spatial']``."""


def features(encoder: str) -> str:
    """``obsm`` key of the spot features of an encoder; ``uns`` holds their record under the same key."""
    return f"X_{encoder}"


def niche(feature_key: str, um: float | None = None) -> str:
    """``obsm`` key of the niche features that belong to `feature_key`; of further windows, `um` wide."""
    return f"{feature_key}_niche" if um is None else f"{feature_key}_niche_{um:g}"


def std(key: str) -> str:
    """Layer of the predictive standard deviation that belongs to `key`."""
    return f"{key}_std"


def lower(key: str) -> str:
    """Layer of the lower ends of the intervals that belong to `key`."""
    return f"{key}_lower"


def upper(key: str) -> str:
    """Layer of the upper ends of the intervals that belong to `key`."""
    return f"{key}_upper"


def distance(key: str) -> str:
    """``obs`` column of how far spots are from training spots, of the prediction `key`."""
    return f"{key}_distance"


def reliability(key: str) -> str:
    """``var`` column of the correlation to expect of the prediction `key`; its interval has further columns."""
    return f"{key}_reliability"


def extra_genes(key: str) -> str:
    """``obsm`` DataFrame of predicted genes that ``var`` lacks."""
    return f"{key}_genes"


def similarity(key: str) -> str:
    """``obsm`` key of the similarities that belong to the retrieved spots under `key`."""
    return f"{key}_similarity"


def colours(key: str) -> str:
    """``uns`` key of the colours of the categorical ``obs`` column `key`, as scanpy names it."""
    return f"{key}_colors"
