"""One slide: from its file to its result, or to a line that says what went wrong."""

from __future__ import annotations

import json
import re
import time
import traceback
import warnings
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict._core import keys
from stpredict._core.settings import settings
from stpredict._core.version import __version__
from stpredict._core.warning import StpredictWarning
from stpredict._genes.markers import marker_genes
from stpredict._genes.symbols import match
from stpredict._sections.open import open_sections
from stpredict._sections.stored import Store
from stpredict.io import grid, read_wsi
from stpredict.io._wsi import CONTRADICTION, states_scale
from stpredict.models import load
from stpredict.models._trust.trust import OUTSIDE, UNKNOWN
from stpredict.pp import tiles
from stpredict.tl._batch.drawn import FEWEST_DRAWN
from stpredict.tl._batch.results import Results, begin_store, is_same, now, seal_store
from stpredict.tl._batch.thumbnails import picture_of
from stpredict.tl._prediction.to_store import predict_to_store
from stpredict.tl._prediction.zarr_store import columns_of, most_variable
from stpredict.tl._tumor import localize_tumor

if TYPE_CHECKING:
    from anndata import AnnData

    from stpredict._sections.section import Section
    from stpredict.models import ExpressionModel
    from stpredict.tl._batch.drawn import Drawn
    from stpredict.tl._batch.manifest import Slide
    from stpredict.tl._batch.recipe import Recipe


SCALES = "a column 'mpp' of a CSV with the slides"
PASS_SCALE = re.compile(r"\b([Pp])ass (?:the right )?mpp=(?!, the microns| \()")
"""Advice for one slide. That for slides which do not say their scale holds for many; that to `pp.tiles` too."""

ONE_AT_A_TIME = Lock()
"""Threads of one process share memory, settings and the capture of warnings."""


@dataclass(frozen=True)
class Outcome:
    """What became of a slide."""

    slide: Slide
    status: str
    """``"done"`` now, ``"kept"`` from an earlier run, ``"failed"``, or ``"not done"``."""
    spots: int | None = None
    genes: int | None = None
    seconds: float | None = None
    mpp: float | None = None
    error: str = ""
    warnings: str = ""
    verdict: str = ""
    """Whether the slide is ``"inside"`` of what the model was trained on, at its ``"edge"`` or ``"outside"``."""
    result: str = ""
    shown: str = ""
    """What the map of the picture shows."""
    picture: bytes = b""
    details: str = ""


@dataclass(frozen=True)
class Job:
    """What is the same for all slides of a run.

    Attributes
    ----------
    model
        The model, or its folder, from which each process reads it once.
    grid, predict
        Arguments of `stpredict.io.grid` and `stpredict.tl.predict_expression`.
    drawn
        Which gene the maps show, and in which colours; None for what varies most on a slide, in colours of its own.
    settings
        Those of the process that called, for processes elsewhere.
    """

    model: ExpressionModel | Path
    model_id: str
    recipe: Recipe
    out: Path
    mpp: float | None = None
    grid: dict[str, Any] = field(default_factory=dict)
    predict: dict[str, Any] = field(default_factory=dict)
    markers: str | list[str] | dict[str, float] | None = None
    drawn: Drawn | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def parameters(self) -> dict[str, Any]:
        """What was asked for, ready for JSON."""
        return {"model_id": self.model_id, "mpp": self.mpp, **self.grid, **self.predict, "markers": self.markers}

    def wanted(self, slide: Slide) -> dict[str, str]:
        """What a result has to record to count as made: by this model, in this way, from this file."""
        own = {"mpp": slide.mpp, **slide.metadata}
        return {"parameters": _json(self.parameters()), "manifest": _json(own), "source": _source(slide.path)}

    def kept(self, slide: Slide) -> Outcome | None:
        """The result of an earlier run, where there is one made as wanted.

        Raises FileExistsError if something else has the place of the result.
        """
        results = Results(self.out)
        record = results.record(slide.name)
        if record is None or not is_same(record, self.wanted(slide)):
            return None
        return Outcome(
            slide,
            "kept",
            spots=int(record["spots"]),
            genes=int(record["genes"]),
            seconds=float(record["seconds"]),
            mpp=float(record["mpp"]),
            warnings=str(record["warnings"]),
            verdict=str(record.get("verdict", "")),
            result=str(results.path(slide.name)),
            shown=str(record["shown"]),
            picture=bytes(record["picture"]),
        )

    def run(self, slide: Slide) -> Outcome:
        """Make the result of one slide; whatever goes wrong is told in the outcome, not raised.

        One that is there by now is not made again: Dask runs a task anew when its worker dies after it.
        """
        known: dict[str, Any] = {}
        with ONE_AT_A_TIME, settings.override(**self.settings), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", UserWarning)
            start = time.perf_counter()
            try:
                if (made := self.kept(slide)) is not None:
                    return replace(made, status="done")
                adata = self._described(slide, known)

                def add(new: AnnData) -> None:
                    self._add(new, path, known)
                    known.update({"seconds": round(time.perf_counter() - start, 2), "warnings": _told(caught)})
                    new.uns[keys.SLIDE_JOB] = self._record(slide, known)

                with (results := Results(self.out)).place(slide.name) as path:
                    model, how = self.loaded_model(), {**self.predict, "model_id": self.model_id}
                    predict_to_store(path, adata, model, **how, begin=begin_store, add=add)
                    seal_store(path)
                known["result"] = str(results.path(slide.name))
            except Exception as error:  # noqa: BLE001 (whatever a slide does, the others go on)
                known |= {"seconds": round(time.perf_counter() - start, 2), "warnings": _told(caught)}
                told = advice_for_many(brief(error))
                return Outcome(slide, "failed", **known, error=told, details=traceback.format_exc())
        return Outcome(slide, "done", **known)

    def _described(self, slide: Slide, known: dict[str, Any]) -> AnnData:
        """The spots with what the manifest says of the slide, such as its patient, and with all that the model needs.

        What is found out on the way goes to `known`, so that a failure can tell it.
        """
        adata = self._spots(slide, known)
        known["spots"] = adata.n_obs
        for key, value in slide.metadata.items():
            adata.obs[key] = _column(value, adata.n_obs)
        self.recipe.apply(adata)
        return adata

    def _add(self, new: AnnData, path: Path, known: dict[str, Any]) -> None:
        """What is found in predictions, of which the store at `path` has the matrices and `new` all else."""
        known["genes"] = new.n_vars
        known["verdict"] = str(new.uns[keys.PREDICTED]["domain"].get("verdict", UNKNOWN))
        limits = None
        if self.markers is not None:
            _locate_tumor(new, path, self.markers)
            known["shown"], values = "tumour score", new.obs[keys.TUMOR_SCORE].to_numpy()
        else:
            known["shown"], gene, limits = self._shown(new, path)
            values = columns_of(path, keys.PREDICTED, [gene])[:, 0]
        if new.n_obs < FEWEST_DRAWN or (self.markers is not None and known["verdict"] == OUTSIDE):
            known["shown"] = ""
        else:
            known["picture"] = picture_of(new, values, limits)

    def _shown(self, new: AnnData, path: Path) -> tuple[str, int, tuple[float, float] | None]:
        """Name and number of the gene whose map is drawn, and the values at the ends of its colours."""
        if self.drawn is not None:
            name = match([self.drawn.gene], new.var_names)[self.drawn.gene]
            return self.drawn.gene, new.var_names.get_loc(name), (self.drawn.low, self.drawn.high)
        gene = 0 if self.predict.get("genes") else most_variable(path, keys.PREDICTED)
        return str(new.var_names[gene]), gene, None

    def _spots(self, slide: Slide, known: dict[str, Any]) -> AnnData:
        """The slide with spots, and its scale."""
        if slide.is_store:
            adata = Store(slide.path).adata
            known["picture"] = picture_of(adata)
            sections = open_sections(adata)
            if len(sections) != 1:
                msg = f"{slide.path.name} holds {len(sections)} sections; write each to a store of its own."
                raise ValueError(msg)
            known["mpp"] = _scale_of_stored(adata, sections[0], slide.mpp)
            return adata
        mpp = slide.mpp or (None if states_scale(slide.path) else self.mpp)
        adata = read_wsi(slide.path, mpp, library_id=slide.name)
        known["picture"] = picture_of(adata)
        known["mpp"] = float(adata.uns[keys.SPATIAL][slide.name]["scalefactors"]["microns_per_pixel"])
        self.recipe.check_scale(known["mpp"])
        return grid(adata, **self.grid)

    def _record(self, slide: Slide, known: dict[str, Any]) -> dict[str, Any]:
        picture = np.frombuffer(known["picture"], dtype=np.uint8)
        made = {"path": str(slide.path), "stpredict": __version__, "date": now()}
        return {**self.wanted(slide), **known, **made, "picture": picture}

    def loaded_model(self) -> ExpressionModel:
        """The model, read from its folder where it is given as one."""
        return _read_once(self.model) if isinstance(self.model, Path) else self.model


@lru_cache(maxsize=1)
def _read_once(path: Path) -> ExpressionModel:
    return load(path)


def _scale_of_stored(adata: AnnData, section: Section, stated: float | None) -> float:
    """Scale of the section in a store: what the manifest states, which is kept for all that follows, else its own.

    Raises ValueError if features were made at another scale than the manifest states.
    """
    if stated is None or not section.has_image:
        return section.mpp_of_coordinates
    if keys.TILES not in adata.uns:
        tiles(adata, mpp=stated)
        return stated
    own = section.mpp_of_coordinates
    if abs(own / stated - 1) > CONTRADICTION:
        msg = (
            f"The manifest says {stated:g} µm per pixel, and stpredict.pp.tiles was run on this section at {own:.4g}. Correct "
            f"the manifest, or run stpredict.pp.tiles(adata, mpp={stated:g}) and stpredict.pp.encode again and write the store anew."
        )
        raise ValueError(msg)
    return own


def brief(error: BaseException) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())
    return text if text and isinstance(error, ValueError) else f"{type(error).__name__}: {text}".removesuffix(": ")


def advice_for_many(message: str) -> str:
    """A message of the package with the place where many slides are given their scales, each its own."""
    return PASS_SCALE.sub(lambda found: f"{'Give' if found[1] == 'P' else 'give'} the right one in {SCALES}", message)


def _told(caught: list[warnings.WarningMessage]) -> str:
    """Warnings of this package, each once."""
    ours = [advice_for_many(str(w.message)) for w in caught if issubclass(w.category, StpredictWarning)]
    return " ".join(" ".join(text.split()) for text in dict.fromkeys(ours))


def _locate_tumor(new: AnnData, path: Path, markers: Any) -> None:
    """`stpredict.tl.localize_tumor` on a store's prediction; only the markers' values are read."""
    names = list(dict.fromkeys(match(marker_genes(markers), new.var_names).values()))
    few = new[:, names].copy()
    few.layers[keys.PREDICTED] = columns_of(path, keys.PREDICTED, new.var_names.get_indexer(names))
    localize_tumor(few, markers=markers)
    for key in (keys.TUMOR_SCORE, keys.TUMOR):
        new.obs[key] = few.obs[key].array
    new.uns[keys.TUMOR] = few.uns[keys.TUMOR]


def _column(value: Any, n: int) -> Any:
    import pandas as pd

    return pd.Categorical([value] * n) if value is None or isinstance(value, str) else np.full(n, value)


def _source(path: Path) -> str:
    """Size and time of a file; "" where it is gone."""
    try:
        stat = path.stat()
    except OSError:
        return ""
    return f"{stat.st_size} bytes, {stat.st_mtime_ns} ns"


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, sort_keys=True)
