"""Spatial domains: clusters of an embedding, smoothed on the tissue where wanted."""

from __future__ import annotations

import warnings
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from stpredict._core import keys
from stpredict._core.checks import check_column_name, check_key_added
from stpredict._core.docs import with_shared_texts
from stpredict._core.neighbors import neighbor_graph
from stpredict._core.settings import settings
from stpredict._evaluation.agreement import agreement
from stpredict._evaluation.labels import read_labels
from stpredict._sections.open import Opened, Where

if TYPE_CHECKING:
    from anndata import AnnData
    from scipy import sparse

    from stpredict._core.typing import Data
    from stpredict._sections.section import Section

NEAREST = 6
"""Spatial neighbours of a spot where the spots form no lattice."""

RESTARTS = 20
"""Starts of k-means, the best of which is kept."""

LEAST_SPOTS = 3


@with_shared_texts
def domains(
    data: Data,
    *,
    use_rep: str = keys.ST_ALIGN,
    n_domains: int | None = None,
    resolution: float = 1.0,
    refine: bool = False,
    label_key: str | None = None,
    key_added: str = keys.DOMAINS,
    seed: int | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
    copy: bool = False,
) -> Data | None:
    """Divide the tissue into spatial domains by clustering an embedding.

    All spots are clustered together, so a domain means the same in every section. Where sections differ by batch more
    than by tissue, as raw expression does, domains follow the batch: cluster an embedding that does not.

    Parameters
    ----------
    data
        One or more sections.
    use_rep
        Key of ``obsm`` to cluster: an embedding of `tl.embed`, features of `pp.encode`, ``"X_pca"``, or any other.
        Distances are taken as they are; nothing is scaled.
    n_domains
        How many domains: k-means, the best of 20 starts. None lets Leiden [1]_ find their number, on a graph of 15
        neighbours in `use_rep` that is not kept.
    resolution
        Resolution of Leiden: a larger value gives more domains. Not used with `n_domains`.
    refine
        Give a spot to another domain where more than half of its neighbours on the tissue belong to that one. This
        smooths borders, and removes structures that are one spot wide. Neighbours are 6 on a hexagonal lattice, 8 on
        a square one, the 6 nearest spots elsewhere; never those of another section.
    label_key
        Column of ``obs`` with labels, such as a pathologist's, to compare the domains with. They do not change the
        domains. Spots without a label, and those that are "undetermined", are left out of the comparison.
    %(key_added)s
    %(seed)s
    %(library_key)s
        Only `refine` needs it.
    %(table_key)s
    %(copy)s

    Returns
    -------
    None, or the copy. Written:

    - ``obs["domains"]`` (categorical): "0" is the largest domain, then "1", and so on
    - ``uns["domains"]``: ``method`` ("leiden" or "kmeans"), ``use_rep``, ``parameters``, ``seed``, ``n_domains``
      found, with `refine` ``n_refined``, the number of spots it moved; and with labels ``label_key``, ``n_labelled``,
      ``ari`` (adjusted Rand index), ``nmi`` (normalised mutual information), ``labels`` and, for each of these,
      ``recall``: the share of its spots that lie in domains where it is the most frequent label

    Raises
    ------
    KeyError
        If there is no such embedding or label column.
    TypeError, ValueError
        If the embedding has NaN or fewer different spots than `n_domains`, a number is out of range, or the labels
        are all the same. `data` is then unchanged.

    Examples
    --------
    >>> import stpredict as st
    >>> adata = st.datasets.simulate()
    >>> st.pp.tiles(adata)
    >>> st.pp.encode(adata, show_progress=False)
    >>> st.tl.domains(adata, use_rep="X_morphology", n_domains=4, label_key="region")
    >>> adata.obs["domains"].cat.categories.tolist()
    ['0', '1', '2', '3']
    >>> 0 < adata.uns["domains"]["ari"] < 1
    True

    References
    ----------
    .. [1] Traag, Waltman, van Eck, From Louvain to Leiden: guaranteeing well-connected communities. Scientific Reports
       9, 5233 (2019).
    """
    opened = Opened(data, Where(library_key, table_key), copy=copy)
    adata = opened.table
    check_key_added(adata, key_added, mark="n_domains", obs=[key_added])
    seed = settings.seed if seed is None else seed
    points = points_of(adata, use_rep)
    _check_numbers(len(points), n_domains, resolution)
    labels = None if label_key is None else _labels(adata, label_key)
    sections = opened.sections if refine else []

    chosen = {"resolution": float(resolution)} if n_domains is None else {"n_domains": int(n_domains)}
    codes = _leiden(points, resolution, seed) if n_domains is None else _kmeans(points, n_domains, use_rep, seed)
    refined = _refined(codes, sections)
    record: dict[str, Any] = {
        "method": "leiden" if n_domains is None else "kmeans",
        "use_rep": use_rep,
        "parameters": {**chosen, "refine": refine},
        "seed": seed,
    }
    if refine:
        record["n_refined"] = int((refined != codes).sum())
    result = _by_size(refined)
    record["n_domains"] = len(result.categories)
    if labels is not None:
        counted = pd.notna(labels)
        record |= {"label_key": label_key, **agreement(result.codes[counted], labels[counted].astype(str))}
    opened.target.obs[key_added] = result
    opened.target.uns[key_added] = record
    return opened.result


def points_of(adata: AnnData, use_rep: str) -> np.ndarray:
    """(spots, d): the embedding, checked."""
    from scipy import sparse

    if use_rep not in adata.obsm:
        msg = (
            f"There is no obsm[{use_rep!r}]; there is {', '.join(map(repr, adata.obsm)) or 'nothing'}. Make one: "
            "stpredict.tl.embed (joint space), stpredict.pp.encode (image) or scanpy.pp.pca (expression)."
        )
        raise KeyError(msg)
    values = adata.obsm[use_rep]
    points = np.asarray(values.toarray() if sparse.issparse(values) else values)
    if points.ndim != 2 or points.dtype.kind not in "fiub":
        msg = f"obsm[{use_rep!r}] must be a matrix of numbers, got {points.dtype} of shape {points.shape}."
        raise ValueError(msg)
    bad = ~np.isfinite(points).all(axis=1)
    if bad.any():
        msg = f"obsm[{use_rep!r}] holds NaN or infinite values in {bad.sum()} of {len(bad)} spots; drop them first."
        raise ValueError(msg)
    return points


def _check_numbers(n_spots: int, n_domains: int | None, resolution: float) -> None:
    if n_spots < LEAST_SPOTS:
        msg = f"There are {n_spots} spots; domains need at least {LEAST_SPOTS}. Were spots filtered too hard?"
        raise ValueError(msg)
    if n_domains is None and not (np.isfinite(resolution) and resolution > 0):
        msg = f"resolution must be a positive number, got {resolution!r}."
        raise ValueError(msg)
    if n_domains is not None and (not isinstance(n_domains, Integral) or isinstance(n_domains, bool)):
        msg = f"n_domains must be a whole number, or None to let Leiden find it; got {n_domains!r}."
        raise TypeError(msg)
    if n_domains is not None and not 2 <= n_domains <= n_spots:
        msg = f"n_domains must lie between 2 and the number of spots, {n_spots}; got {n_domains}."
        raise ValueError(msg)


def _labels(adata: AnnData, label_key: str) -> np.ndarray:
    check_column_name(label_key, "label_key")
    if label_key not in adata.obs:
        msg = f"There is no obs[{label_key!r}]; obs has {', '.join(adata.obs.columns) or 'no columns'}."
        raise KeyError(msg)
    labels = read_labels(adata.obs[label_key])
    kinds = sorted({label for label in labels if label is not None})
    if len(kinds) < 2:
        msg = (
            f"obs[{label_key!r}] has {'one label only, ' + kinds[0] if kinds else 'no labels'}; "
            "domains can be compared with two or more."
        )
        raise ValueError(msg)
    return labels


def _kmeans(points: np.ndarray, n_domains: int, use_rep: str, seed: int) -> np.ndarray:
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # said below, as an error
        codes: np.ndarray = KMeans(n_domains, n_init=RESTARTS, random_state=seed).fit_predict(points)
    if (found := len(np.unique(codes))) < n_domains:
        msg = f"obsm[{use_rep!r}] has {found} different spots, from which {n_domains} domains cannot be made."
        raise ValueError(msg)
    return codes


def _leiden(points: np.ndarray, resolution: float, seed: int) -> np.ndarray:
    """Cluster with scanpy, on an AnnData of its own: the user's graph stays."""
    import scanpy as sc

    apart = neighbor_graph(points, seed)
    sc.tl.leiden(
        apart, resolution=resolution, random_state=seed, flavor="igraph", n_iterations=2, directed=False, key_added="x"
    )
    codes: np.ndarray = apart.obs["x"].cat.codes.to_numpy()
    return codes


def _refined(codes: np.ndarray, sections: list[Section]) -> np.ndarray:
    """Codes after one vote, all spots at a time; without sections as they were."""
    refined = codes.copy()
    for section in sections:
        own = codes[section.rows]
        around = _neighbours(section)
        votes = around @ np.eye(codes.max() + 1)[own]
        winner = votes.argmax(axis=1)
        outvoted = votes.max(axis=1) > votes.sum(axis=1) / 2
        refined[section.rows] = np.where(outvoted, winner, own)
    return refined


def _neighbours(section: Section) -> sparse.csr_matrix:
    from sklearn.neighbors import kneighbors_graph

    if section.lattice is None or section.lattice.kind == "irregular":
        return kneighbors_graph(section.centres, min(NEAREST, len(section) - 1))
    return section.neighbours()


def _by_size(codes: np.ndarray) -> pd.Categorical:
    """Name groups by rank of size; of equal ones the first in the table comes first."""
    _, first, group, size = np.unique(codes, return_index=True, return_inverse=True, return_counts=True)
    order = np.lexsort((first, -size))
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return pd.Categorical.from_codes(rank[group], [str(i) for i in range(len(order))])
