"""Which genes to predict: chosen on the training sections, and on nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy import sparse

from stpredict._core.checks import one_of
from stpredict._core.docs import with_shared_texts
from stpredict._core.warning import warn
from stpredict._genes import symbols
from stpredict._genes.markers import marker_genes
from stpredict._sections.measured import measured_everywhere
from stpredict._sections.open import Where, open_all
from stpredict._sections.stored import are_stored, open_stored

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from stpredict._core.typing import Data
    from stpredict._sections.section import Section


@with_shared_texts
def gene_panel(
    sections: Data | Sequence[Data],
    *,
    kind: Literal["heg", "hvg", "markers"] = "heg",
    n_top: int = 1000,
    markers: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] = ("MT-", "RPL", "RPS"),
    among: int = 1000,
    min_counts: int = 50,
    library_key: str | None = None,
    table_key: str | None = None,
) -> list[str]:
    """Choose the genes to predict, from the training sections only.

    Expression is log1p of counts per 10,000; every section weighs the same, whatever its number of spots. Only genes
    that all sections measure are eligible; a gene that is zero in every spot of a section where the others let expect
    many counts, as after ``anndata.concat(join="outer")``, is not measured there. Giving the test sections too would leak them into the choice.

    Parameters
    ----------
    sections
        The training sections: one AnnData or SpatialData, or a list; or, read one at a time, a path or a list of paths
        as in `stpredict.tl.train`.
    kind
        ``"heg"``: highest mean expression; ``"hvg"``: highest variance within a section, among the `among` genes of
        highest mean, since below them variance is mostly noise; ``"markers"``: the genes in `markers`.
    n_top
        How many genes at most (not for ``"markers"``).
    markers
        For ``kind="markers"``: gene names, or a set's name from `datasets.marker_sets`. Aliases and Ensembl ids are
        resolved, and come back under the name that the sections use.
    exclude
        Prefixes of symbols left out of ``"heg"`` and ``"hvg"``, in upper or lower case: by default mitochondrial and
        ribosomal protein genes.
    among
        See ``"hvg"``.
    %(min_counts)s
    %(sections)s

    Returns
    -------
    Names of genes as in ``var_names``, best first.

    Raises
    ------
    ValueError
        If the sections share no gene, no spot has enough counts, counts are not raw, or no marker is measured.

    Warns
    -----
    UserWarning
        If some markers are not measured in all sections, or genes are left out for being zero in every spot of one.

    Examples
    --------
    >>> import stpredict as st
    >>> train = st.datasets.simulate(n_sections=2)
    >>> len(st.pp.gene_panel(train, n_top=50))
    50
    >>> st.pp.gene_panel(train, kind="markers", markers=["HER2", "ENSG00000119888"])
    ['ERBB2', 'EPCAM']
    """
    one_of(kind, ("heg", "hvg", "markers"), "kind")
    _check_arguments(kind, markers, n_top=n_top, among=among)
    opened = _open(sections, Where(library_key, table_key))
    shared = measured_everywhere(opened, _shared_genes(opened))
    if markers is not None:
        return measured_markers(marker_genes(markers), shared)
    names = _without(shared, (exclude,) if isinstance(exclude, str) else tuple(exclude))
    mean, variance = _moments(opened, names, min_counts)
    by_mean = np.argsort(-mean, kind="stable")
    by_mean = by_mean[mean[by_mean] > 0]
    if kind == "heg":
        return [names[i] for i in by_mean[:n_top]]
    candidates = by_mean[:among]
    return [names[i] for i in candidates[np.argsort(-variance[candidates], kind="stable")][:n_top]]


def _check_arguments(kind: str, markers: object, **counts: int) -> None:
    if (kind == "markers") != (markers is not None):
        msg = "markers= goes with kind='markers': pass both or neither."
        raise ValueError(msg)
    for name, value in counts.items():
        if not value >= 1:
            msg = f"{name} must be at least 1, got {value!r}."
            raise ValueError(msg)


def _open(data: Any, where: Where) -> Sequence[Section]:
    return open_stored(data, where) if are_stored(data) else open_all(data, where, least_spots=0)


def _shared_genes(sections: Sequence[Section]) -> list[str]:
    shared = sections[0].genes
    for section in sections:
        shared = shared[shared.isin(section.genes)]
    if shared.empty:
        msg = (
            "The sections share no gene name. Use one naming in all of them, symbols or Ensembl ids: for example "
            "adata.var_names = adata.var['gene_ids']."
        )
        raise ValueError(msg)
    return [str(name) for name in shared]


def measured_markers(wanted: list[str], measured: Sequence[str], name: str = "") -> list[str]:
    """The `wanted` markers, of a set of this `name`, by their names in `measured`; those that are not there are warned of."""
    found = symbols.match(wanted, measured)
    missing = symbols.describe_missing(gene for gene in wanted if gene not in found)
    if not found:
        msg = f"None of the markers{name and f' in {name!r}'} is measured in all sections: {missing}."
        raise ValueError(msg)
    if missing:
        warn(f"Markers that not all sections measure are left out{name and f' of {name!r}'}: {missing}.")
    return list(dict.fromkeys(found.values()))


def _without(names: list[str], prefixes: tuple[str, ...]) -> list[str]:
    approved = symbols.resolve(names)
    prefixes = tuple(prefix.upper() for prefix in prefixes)
    kept = [n for n in names if not n.upper().startswith(prefixes) and not approved.get(n, "").startswith(prefixes)]
    if not kept:
        msg = f"exclude={prefixes} leaves no gene. Shorten it, or pass exclude=()."
        raise ValueError(msg)
    return kept


def _moments(sections: Sequence[Section], names: list[str], min_counts: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of log1p CP10k per gene, averaged over sections."""
    total, n = np.zeros((2, len(names))), 0
    for section in sections:
        if (moments := _section_moments(section, names, min_counts)) is not None:
            total += moments
            n += 1
    if not n:
        msg = f"No spot has min_counts={min_counts} counts. Lower min_counts."
        raise ValueError(msg)
    return total[0] / n, total[1] / n


def _section_moments(section: Section, names: list[str], min_counts: int) -> tuple[np.ndarray, np.ndarray] | None:
    counts = sparse.csr_matrix(section.counts(), dtype=np.float64)
    totals = section.totals(counts)
    enough = totals >= max(min_counts, 1)
    if not enough.any():
        return None
    chosen = counts[enough][:, section.genes.get_indexer(names)]
    log = sparse.diags(1e4 / totals[enough]) @ chosen
    log.data = np.log1p(log.data)
    mean = np.asarray(log.mean(axis=0)).ravel()
    return mean, np.asarray(log.multiply(log).mean(axis=0)).ravel() - mean**2
