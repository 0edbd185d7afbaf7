"""Named sections of real tissue, read from the folder ``stpredict.settings.data_dir``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict._core import keys
from stpredict._core.checks import check_sparse
from stpredict._core.settings import settings
from stpredict.io._library import library_entry

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

SPOT_UM = {"legacy ST 1k array": (200.0, 100.0), "10x Visium": (100.0, 55.0)}
"""Technology → centre to centre distance and diameter of its spots, in µm."""

SHIPPED = Path(__file__).parent / "resources"
SHIPPED_SECTIONS = {"mob_stutility": ("MOB1", "MOB2")}
"""Where the sections are that come with the package, laid out as those of the user's folder, and their names."""


def available(dataset: str | None = None) -> list[str]:
    """Name the real sections found in ``stpredict.settings.data_dir``.

    Parameters
    ----------
    dataset
        A dataset folder such as ``"her2st"``; None looks into all of them.

    Returns
    -------
    Section names (``"C2"``), or ``"her2st/C2"`` where `dataset` is None. Empty where there are no data.

    Examples
    --------
    >>> import stpredict as st
    >>> all("/" in name for name in st.datasets.available())
    True
    """
    folders = sorted(path.parent for path in settings.data_dir.glob(f"{dataset or '*'}/*/meta.json"))
    return [folder.name if dataset else f"{folder.parent.name}/{folder.name}" for folder in folders]


def her2st(section: str = "C2") -> AnnData:
    """Read a section of HER2-positive breast cancer with its full-resolution H&E image.

    Legacy spatial transcriptomics (100 µm spots, 200 µm apart) of Andersson et al. [1]_. The letter names the
    patient. Sections of one patient resemble each other: never put some of them into training and others into the
    test.

    Parameters
    ----------
    section
        Section name; see `available`.

    Returns
    -------
    One section. ``X``: raw counts (CSR, float32). ``obs``: ``patient``, ``section``, ``array_row``, ``array_col`` and,
    where known, ``label``. ``obsm["spatial"]``: spot centres (x, y) in pixels of the image, whose path is in
    ``uns["spatial"][library]["metadata"]["source_image_path"]``; ``images`` there holds a small one, for plots.

    Raises
    ------
    FileNotFoundError
        If ``stpredict.settings.data_dir`` does not hold the dataset.
    ValueError
        If the dataset has no such section.

    Examples
    --------
    >>> import stpredict as st
    >>> adata = st.datasets.her2st("C2")  # doctest: +SKIP
    >>> adata.shape  # doctest: +SKIP
    (187, 15706)

    References
    ----------
    .. [1] Andersson et al., Spatial deconvolution of HER2-positive breast cancer delineates tumor-associated cell type
       interactions. Nature Communications 12, 6012 (2021).
    """
    return read_section("her2st", section)


def her2st_midres(section: str = "A1") -> AnnData:
    """Read a section of HER2-positive breast cancer with a coarse image and a pathologist's labels.

    The image is 2000 px wide (3.2 µm per pixel), its background is black and a thumbnail covers its upper right corner
    (x > 1500, y < 540), where there are no spots.

    Parameters
    ----------
    section
        Section name; see `available`.

    Returns
    -------
    One section, as `her2st` describes it; ``obs["label"]`` holds the pathologist's annotation.

    Raises
    ------
    FileNotFoundError, ValueError
        As in `her2st`.

    Examples
    --------
    >>> import stpredict as st
    >>> st.datasets.her2st_midres("A1").obs["label"].value_counts().index[0]  # doctest: +SKIP
    'invasive cancer'
    """
    return read_section("her2st_midres", section)


def her2st_counts_only(section: str = "A1") -> AnnData:
    """Read a labelled section of HER2-positive breast cancer that comes without an image.

    For gene–gene structure and marker checks. ``obsm["spatial"]`` refers to an image that is not there.

    Parameters
    ----------
    section
        Section name; see `available`.

    Returns
    -------
    One section, as `her2st` describes it, with ``obs["label"]`` and without an image path.

    Raises
    ------
    FileNotFoundError, ValueError
        As in `her2st`.

    Examples
    --------
    >>> import stpredict as st
    >>> "label" in st.datasets.her2st_counts_only("H1").obs  # doctest: +SKIP
    True
    """
    return read_section("her2st_counts_only", section)


def mouse_colon(section: str = "d0") -> AnnData:
    """Read a 10x Visium section of mouse colon, rolled up, with its full-resolution H&E image.

    Data of Parigi et al. [1]_. The counts are corrected by SCTransform and cover variable genes only, so their
    totals are not library sizes; ``obs["label"]`` holds the authors' expression clusters, not a pathologist's labels.

    Parameters
    ----------
    section
        Section name; see `available`.

    Returns
    -------
    One section, as `her2st` describes it.

    Raises
    ------
    FileNotFoundError, ValueError
        As in `her2st`.

    Examples
    --------
    >>> import stpredict as st
    >>> st.datasets.mouse_colon().n_obs  # doctest: +SKIP
    2604

    References
    ----------
    .. [1] Parigi et al., The spatial transcriptomic landscape of the healing mouse intestine following damage. Nature
       Communications 13, 828 (2022).
    """
    return read_section("mouse_colon", section)


def mob(section: str = "MOB1") -> AnnData:
    """Read a section of mouse olfactory bulb with its H&E image, by legacy spatial transcriptomics.

    Data of Ståhl et al. [1]_. The tissue is strongly layered, so its expression is easy to predict.

    Parameters
    ----------
    section
        Section name; see `available`.

    Returns
    -------
    One section, as `her2st` describes it.

    Raises
    ------
    FileNotFoundError, ValueError
        As in `her2st`.

    Examples
    --------
    >>> import stpredict as st
    >>> st.datasets.mob("MOB2").n_obs  # doctest: +SKIP
    280

    References
    ----------
    .. [1] Ståhl et al., Visualization and analysis of gene expression in tissue sections by spatial transcriptomics.
       Science 353, 78–82 (2016).
    """
    return read_section("mob_spacest", section)


def mob_stutility(section: str = "MOB1") -> AnnData:
    """Read a small section of mouse olfactory bulb on the ST 2k array: 1,000 genes, a blurry image, no stated scale.

    ``"MOB1"`` and ``"MOB2"``, two sections of one animal, come with the package, so that real tissue is at hand without a
    download: from the R package STutility [1]_, MIT licence, see ``datasets/resources/mob_stutility/SOURCES.md``.

    The microns per pixel are unknown: functions that work in µm ask for ``mpp=``. Genes are Ensembl ids with version.

    Parameters
    ----------
    section
        ``"MOB1"``, ``"MOB2"``, or another that is in ``stpredict.settings.data_dir``; see `available`.

    Returns
    -------
    One section, as `her2st` describes it.

    Raises
    ------
    FileNotFoundError, ValueError
        As in `her2st`.

    Examples
    --------
    >>> import stpredict as st
    >>> st.datasets.mob_stutility("MOB2").shape
    (407, 1000)

    References
    ----------
    .. [1] Bergenstråhle, Larsson and Lundeberg, Seamless integration of image and molecular analysis for spatial
       transcriptomics workflows. BMC Genomics 21, 482 (2020).
    """
    return read_section("mob_stutility", section)


def read_section(dataset: str, section: str) -> AnnData:
    """Read a section of any dataset folder, as `her2st` describes it."""
    folder = _folder(dataset, section)
    try:
        return _read_folder(folder, dataset, section)
    except FileNotFoundError as error:
        msg = f"{folder} is incomplete: there is no {error.filename}. Get the section again."
        raise FileNotFoundError(msg) from error
    except Exception as error:  # (pandas, json, zipfile and scipy each raise their own on damaged files)
        msg = f"The section {folder} cannot be read ({type(error).__name__}: {error}). Get it again."
        raise ValueError(msg) from error


def _read_folder(folder: Path, dataset: str, section: str) -> AnnData:
    """Read the files of a section, which may be damaged."""
    import pandas as pd
    from anndata import AnnData
    from anndata.utils import make_index_unique
    from scipy import sparse

    if special := [path.name for path in folder.iterdir() if not path.is_file()]:
        msg = f"{', '.join(special)} is no regular file"
        raise ValueError(msg)
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    spots = pd.read_csv(folder / "spots.csv", dtype={"spot_id": str, "label": str, "cluster": str})
    genes = (folder / "genes.txt").read_text(encoding="utf-8").splitlines()
    counts = sparse.load_npz(folder / "counts.npz")
    check_sparse(counts, "counts.npz")
    if counts.shape != (len(spots), len(genes)):
        msg = (
            f"{folder} is damaged: counts are {counts.shape}, but there are {len(spots)} spots and {len(genes)} genes."
        )
        raise ValueError(msg)
    centres = spots[["pixel_x", "pixel_y"]].to_numpy(np.float64, copy=True)
    if not len(centres) or not np.isfinite(centres).all() or not all(gene.strip() for gene in genes):
        msg = "there are no spots, spots without place or genes without name"
        raise ValueError(msg)
    library = f"{dataset}_{section}"
    return AnnData(
        sparse.csr_matrix(counts, dtype=np.float32),
        obs=_obs(spots, meta, section, library),
        var=pd.DataFrame(index=make_index_unique(pd.Index(genes, dtype=str))),
        obsm={keys.SPATIAL: centres},
        uns={keys.SPATIAL: {library: _library(folder, meta)}},
    )


def _folder(dataset: str, section: str) -> Path:
    if section in SHIPPED_SECTIONS.get(dataset, ()):
        return SHIPPED / dataset / section
    sections = available(dataset)
    if not sections:
        msg = (
            f"There are no sections of {dataset!r} in {settings.data_dir.resolve()}. Set the environment variable "
            "STPREDICT_DATA, or stpredict.settings.data_dir, to the folder that holds the real sections; "
            "stpredict.datasets.simulate() needs no data."
        )
        raise FileNotFoundError(msg)
    if section not in sections:
        msg = f"{dataset} has no section {section!r} in {settings.data_dir.resolve()}; it has {', '.join(sections)}."
        raise ValueError(msg)
    return settings.data_dir.resolve() / dataset / section


def _obs(spots: pd.DataFrame, meta: dict[str, Any], section: str, library: str) -> pd.DataFrame:
    import pandas as pd

    obs = pd.DataFrame(index=[f"{library}_{spot}" for spot in spots["spot_id"]])
    obs["array_row"] = spots["array_y"].to_numpy()
    obs["array_col"] = spots["array_x"].to_numpy()
    # Remarks in brackets, as in "mouse (replicate 1)", do not make another animal.
    obs[keys.PATIENT] = pd.Categorical([meta["patient"].split(" (")[0]] * len(obs))
    obs["section"] = pd.Categorical([section] * len(obs))
    for column in ("label", "cluster"):
        if column in spots:
            obs["label"] = pd.Categorical(spots[column])
    return obs


def _library(folder: Path, meta: dict[str, Any]) -> dict[str, Any]:
    """Entry of ``uns["spatial"]`` for a section: only what is known is written."""
    scalefactors = {}
    if meta.get("spot_diameter_px"):
        scalefactors["spot_diameter_fullres"] = float(meta["spot_diameter_px"])
    if meta.get("um_per_px"):
        scalefactors["microns_per_pixel"] = float(meta["um_per_px"])
    words = ("technology", "tissue", "species", "units", "source", "licence")
    metadata: dict[str, Any] = {word: str(meta[word]) for word in words if word in meta}
    if meta.get("technology") in SPOT_UM:
        metadata["spot_pitch_um"], metadata["spot_diameter_um"] = SPOT_UM[meta["technology"]]
    image = folder / meta["image"] if "image" in meta else None
    return library_entry(image, images={}, scalefactors=scalefactors, metadata=metadata)
