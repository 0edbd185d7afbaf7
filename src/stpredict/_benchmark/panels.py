"""Gene panels of a fold: names that were given, and genes chosen on its training sections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stpredict._core.names import gene_names
from stpredict._genes.markers import marker_genes
from stpredict._sections.measured import measured_everywhere
from stpredict.pp import gene_panel
from stpredict.pp._panels import measured_markers

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from stpredict._core.typing import Data
    from stpredict._sections.section import Section

N_HEG, N_HVG = 50, 250
"""Genes of highest mean and of highest variance that are scored as panels."""


def shared_genes(sections: Sequence[Section]) -> list[str]:
    """Genes that every section measures, in the order of the first; zeros that a join filled in are not measured.

    Raises ValueError if there is none.
    """
    shared = sections[0].genes
    for section in sections[1:]:
        shared = shared[shared.isin(section.genes)]
    if shared.empty:
        few = "; ".join(f"{section.name}: {', '.join(map(str, section.genes[:3]))}, …" for section in sections[:4])
        msg = (
            f"The sections share no gene name ({few}). Use one naming in all of them, symbols or Ensembl ids: for "
            "example adata.var_names = adata.var['gene_ids']."
        )
        raise ValueError(msg)
    return measured_everywhere(sections, [str(name) for name in shared])


def wanted_genes(
    shared: Sequence[str],
    genes: Iterable[str] | None,
    n_genes: int,
    markers: str | Iterable[str] | Mapping[str, Iterable[str]] | None,
) -> tuple[list[str] | None, dict[str, list[str]]]:
    """Genes to learn, where they were named, and sets of markers under the names that the sections use.

    Raises ValueError if `genes` are not measured everywhere, no marker is, or `n_genes` is not positive.
    """
    if not isinstance(n_genes, int) or n_genes < 1:
        msg = f"n_genes must be a positive integer, got {n_genes!r}."
        raise ValueError(msg)
    if genes is not None:
        genes = list(dict.fromkeys(gene_names(genes)))
        there = set(shared)
        missing = [gene for gene in genes if gene not in there]
        if missing or not genes:
            told = f"not all sections measure {', '.join(missing[:10])}" if missing else "genes is empty"
            msg = f"genes must name genes of var_names that all sections share, but {told}. Leave it out for the top ones."
            raise ValueError(msg)
    sets = {} if markers is None else dict(markers) if isinstance(markers, Mapping) else {"markers": markers}
    return genes, {name: _markers(name, names, shared) for name, names in sets.items()}


def _markers(name: str, wanted: str | Iterable[str], shared: Sequence[str]) -> list[str]:
    if name in ("all", "HEG", "HVG"):
        msg = f"markers has a set {name!r}, which is the name of a panel of its own; call it something else."
        raise ValueError(msg)
    return measured_markers(marker_genes(wanted), shared, name)


def choose_panels(
    train: Sequence[Data],
    shared: Sequence[str],
    genes: Sequence[str] | None,
    n_genes: int,
    markers: Mapping[str, list[str]],
    min_counts: int,
    *,
    table_key: str | None,
) -> dict[str, list[str]]:
    """Panels ``"HEG"``, ``"HVG"``, the markers and ``"all"``, chosen on `train` among genes that all sections share."""
    eligible = set(shared if genes is None else genes)
    options: dict[str, Any] = {"n_top": len(shared) + 10**6, "among": len(shared) + 10**6, "min_counts": min_counts}
    options |= {"table_key": table_key} | ({"exclude": ()} if genes is not None else {})
    by_mean = [gene for gene in gene_panel(train, kind="heg", **options) if gene in eligible]
    learned = by_mean[:n_genes] if genes is None else list(genes)
    among = set(learned)
    by_variance = [gene for gene in gene_panel(train, kind="hvg", **options) if gene in among]
    chosen = {"HEG": [gene for gene in by_mean if gene in among][:N_HEG], "HVG": by_variance[:N_HVG]}
    return {name: panel for name, panel in chosen.items() if panel} | dict(markers) | {"all": learned}
