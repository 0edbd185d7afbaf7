"""Sections that stay on disk: stores of AnnData, of which one at a time is read."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

from stpredict._core import keys
from stpredict._core.checks import check_sparse, raw_counts
from stpredict._core.expansion import check_arrays
from stpredict._core.files import check_regular, check_tree
from stpredict._sections.open import Where, listed, open_sections
from stpredict._sections.section import Section

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stpredict._core.typing import Matrix

ENDINGS = (".h5ad", ".zarr")

WITHOUT_COUNTS = ("obs", "var", "obsm", "obsp", "uns")
"""What is read of a store where no counts are asked for."""


class Store:
    """An AnnData on disk: everything but counts is read when it is opened, counts when they are asked for.

    Parameters
    ----------
    path
        An ``.h5ad`` file or a ``.zarr`` folder.
    elements
        What to read of it, beside counts.

    Raises
    ------
    ValueError
        If it cannot be read; the message names it.
    """

    def __init__(self, path: Path, elements: Sequence[str] = WITHOUT_COUNTS) -> None:
        from anndata import AnnData

        self.path = path
        parts = self._read(elements)
        if "obs" not in parts or "var" not in parts:
            msg = (
                f"{path} is no AnnData store (it has no obs and var). Of a SpatialData, write the table: "
                "sdata.tables['table'].write_h5ad(...)."
            )
            raise ValueError(msg)
        self.adata = AnnData(**parts)

    @cached_property
    def counts(self) -> Matrix:
        """Raw counts (n spots, n genes), checked."""
        from anndata import AnnData

        layer = f"layers/{keys.COUNTS}"
        parts = self._read((layer,)) or self._read(("X",))
        if layer in parts:
            return raw_counts(AnnData(layers={keys.COUNTS: parts[layer]}))
        return raw_counts(AnnData(parts["X"]) if parts else self.adata)

    def _read(self, names: Sequence[str]) -> dict[str, Any]:
        """Those of the store's elements `names` that it has."""
        from anndata.io import read_elem

        with self.reading() as group:
            check_arrays(group, names, self.path)
            parts = {name: read_elem(group[name]) for name in names if name in group}
            for name in ("X", f"layers/{keys.COUNTS}"):
                check_sparse(parts.get(name), name)
            return parts

    @contextmanager
    def reading(self) -> Iterator[Any]:
        """The store's elements by name, while they are read.

        Raises ValueError if that fails; the message names the store.
        """
        try:
            with opened(self.path) as group:
                yield group
        except Exception as error:  # (anndata, h5py and zarr each raise their own on damaged stores)
            msg = f"The store {self.path} cannot be read ({type(error).__name__}: {''.join(str(error).splitlines()[:1])})."
            raise ValueError(msg) from error


class StoredSection(Section):
    """A section whose counts stay on disk until they are asked for."""

    store: Store

    def counts(self) -> Matrix:
        """Raw counts (n spots, n genes), checked."""
        return self.store.counts[self.rows]


class StoredSections(Sequence[Section]):
    """The sections in some stores, each read when it is asked for; of all that was read only the last store is kept.

    Parameters
    ----------
    paths
        Stores, and folders of stores.
    where
        What names each spot's section, where a store holds several.

    Raises
    ------
    FileNotFoundError
        If there is no such path, or a folder has no store.
    ValueError
        If a store cannot be read.
    """

    def __init__(self, paths: Sequence[str | Path], where: Where | None = None) -> None:
        self._where = where or Where()
        self._last: tuple[Path, Sequence[Section]] | None = None
        self.stores = [store for path in paths for store in stores_in(Path(path).expanduser())]
        self._places = [(path, i) for path in self.stores for i in range(len(self._sections_in(path)))]

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, number: int) -> Section: ...

    @overload
    def __getitem__(self, number: slice) -> StoredSections: ...

    def __getitem__(self, number: int | slice) -> Section | StoredSections:
        if isinstance(number, slice):
            part = copy(self)
            part._places = self._places[number]
            return part
        path, i = self._places[number]
        return self._sections_in(path)[i]

    def __iter__(self) -> Iterator[Section]:
        return (self[number] for number in range(len(self)))

    def _sections_in(self, path: Path) -> Sequence[Section]:
        if self._last is None or self._last[0] != path:
            self._last = None
            self._last = path, _open(Store(path), self._where)
        return self._last[1]


def are_stored(data: Any) -> bool:
    """Whether `data` is a path, a list of paths or sections on disk already.

    Raises TypeError if paths and objects are mixed.
    """
    if isinstance(data, StoredSections):
        return True
    paths = [isinstance(one, (str, Path)) for one in listed(data)]
    if any(paths) and not all(paths):
        msg = "Pass paths of stores or sections in memory, not both; write the sections with adata.write_h5ad(path)."
        raise TypeError(msg)
    return any(paths)


def open_stored(data: Any, where: Where) -> StoredSections:
    """Sections on disk, where `are_stored` says so."""
    if isinstance(data, StoredSections):
        return data
    return StoredSections(listed(data), where)


def _open(store: Store, where: Where) -> Sequence[Section]:
    sections = cast("list[StoredSection]", open_sections(store.adata, where, kind=StoredSection))
    for section in sections:
        section.store = store
    return sections


def stores_in(path: Path) -> list[Path]:
    """The store at `path`, or those in the folder, by name."""
    if not path.exists():
        msg = f"There is no {path}."
        raise FileNotFoundError(msg)
    if path.suffix in ENDINGS:
        return [path]
    stores = sorted(p for p in path.iterdir() if p.suffix in ENDINGS) if path.is_dir() else []
    if not stores:
        msg = f"{path} is neither an .h5ad or .zarr store nor a folder of such."
        raise FileNotFoundError(msg)
    return stores


def opened(path: Path) -> AbstractContextManager[Any]:
    """The store's elements by name, as a context."""
    if path.suffix == ".h5ad":
        import h5py

        check_regular(path)
        file: AbstractContextManager[Any] = h5py.File(path, "r")
        return file
    import zarr

    check_tree(path)
    return nullcontext(zarr.open_group(path, mode="r"))
