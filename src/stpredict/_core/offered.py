"""What a public package offers, and what a name that it does not have may have meant."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from stpredict._core.names import meant

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ELSEWHERE = {
    "tl.train": ("train", "fit"),
    "tl.predict_expression": ("predict_expression", "predict", "impute"),
    "tl.predict_many": ("predict_many",),
    "tl.evaluate": ("evaluate", "score", "metrics"),
    "tl.cross_validate": ("cross_validate", "benchmark"),
    "tl.localize_tumor": ("localize_tumor", "localize_tumour"),
    "tl.domains": ("leiden", "louvain", "cluster"),
    "pp.tiles": ("tiles", "tile_tissues", "patches"),
    "pp.encode": ("encode", "features", "extract_features", "feature_extraction"),
    "pp.tissue_mask": ("tissue_mask", "find_tissues"),
    "pp.nuclei": ("nuclei", "segment", "cells"),
    "pp.gene_panel": ("gene_panel", "highly_variable_genes"),
    "pp.qc": ("qc", "calculate_qc_metrics"),
    "pl.expression": ("expression", "spatial", "spatial_scatter", "scatter"),
    "pl.compare": ("compare",),
    "pl.embedding": ("umap", "pca"),
    "models.load": ("load", "load_model"),
    "io.grid": ("grid",),
    "io.read_visium": ("read_visium", "visium"),
}
"""Verb → names under which it is looked for: those of other packages, and its own in another of our packages."""
MEANT = {name: verb for verb, names in ELSEWHERE.items() for name in names}


def nothing_called(package: str, name: str, names: Sequence[str]) -> AttributeError:
    """The error of a package that offers `names` and not `name`; it says what may have been meant."""
    place = MEANT.get(name.lower())
    hint = f" Did you mean stpredict.{place}?" if place else meant(name, names)
    return AttributeError(f"module {package!r} has no attribute {name!r}; it offers {', '.join(names)}.{hint}")


def offers(package: str, names: Sequence[str]) -> tuple[Callable[[str], NoReturn], Callable[[], list[str]]]:
    """Make ``__getattr__`` and ``__dir__`` of a package that offers `names`."""

    def getattr_of_package(name: str) -> NoReturn:
        raise nothing_called(package, name, names)

    return getattr_of_package, lambda: sorted(names)
