"""Features of a new slide, made exactly as those that a model learned from."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from uuid import uuid4

from stpredict._core import keys
from stpredict._sections.niches import Niche, is_niche, spot_key
from stpredict.models._data.features import given_input, windows_of
from stpredict.pp import encode, niches, nuclei, tiles
from stpredict.pp._encoders.catalogue import build_encoder
from stpredict.pp._encoders.modules import lent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from anndata import AnnData
    from torch import nn

    from stpredict.models import ExpressionModel

    Encoder: TypeAlias = str | Path | nn.Module
    Nuclei: TypeAlias = Literal["watershed", "instanseg", "stardist", "cellpose"]

TOO_COARSE = 1.05
MORPHOLOGY = "morphology"


class Tools:
    """Encoders that this process has built in a run: each is built once and serves all slides."""

    def __init__(self) -> None:
        self._built: dict[tuple[Encoder, str], Any] = {}

    def built(self, encoder: Encoder, given: Mapping[str, Any]) -> Any:
        """The encoder, with the input size and normalisation that were `given` for it."""
        name = (encoder, repr(given))
        if name not in self._built:
            self._built[name] = build_encoder(encoder, device=None, precision=None, batch_size=None, mpp=None, **given)
        return self._built[name]

    def hash_of(self, encoder: Encoder, given: Mapping[str, Any]) -> str:
        """Hash of what it is built to."""
        code: str = self.built(encoder, given).hash
        return code


@lru_cache(maxsize=1)
def tools_of(run: str) -> Tools:
    """The encoders of a run; those of the run before it are let go."""
    return Tools()


@contextmanager
def lent_tools(encoder: Any) -> Iterator[None]:
    """Let encoders stay built in this block; modules among them go back as they came."""
    with ExitStack() as stack:
        stack.callback(tools_of.cache_clear)
        for one in encoder if isinstance(encoder, list | tuple) else [encoder]:
            stack.enter_context(lent(one))
        yield


@dataclass(frozen=True)
class Features:
    """Spot and niche features of one encoder, as a model's record says they were made."""

    key: str
    encoder: Encoder
    mpp: float
    windows: dict[str, Any]
    """``spot_um`` and ``niche_um``, as `stpredict.pp.tiles` takes them."""
    with_niche: bool
    keys: tuple[str, ...]
    """``obsm`` keys that the model reads."""
    niche: dict[str, Any] | None
    stain_norm: Literal["macenko"] | None = None
    given: dict[str, Any] = field(default_factory=dict)
    """Input size and normalisation that were given for the network, as `stpredict.pp.encode` takes them."""

    def make(self, adata: AnnData, tools: Tools) -> None:
        """Write them into ``obsm``, with an encoder of the `tools`."""
        tiles(adata, **self.windows)
        if self.niche:
            niches(adata, **self.niche)
        how: dict[str, Any] = {"mpp": self.mpp, "stain_norm": self.stain_norm, **self.given}
        tool = tools.built(self.encoder, self.given)
        tool.mpp = self.mpp
        encode(adata, tool, key_added=self.key, niche=self.with_niche, **how, show_progress=False)


@dataclass(frozen=True)
class Recipe:
    """Everything that has to be known of a slide's image before a model can be applied."""

    features: list[Features] = field(default_factory=list)
    keys: tuple[str, ...] = ()
    nuclei: Nuclei | None = None
    run: str = ""
    """Which run this is for: all its slides share what is built for it."""

    @property
    def finest(self) -> float | None:
        """Coarsest scale, µm per pixel, at which a slide can be described as in training."""
        return min((one.mpp for one in self.features), default=None)

    def check_scale(self, mpp: float) -> None:
        """Refuse a slide that is too coarse to be described as in training."""
        if self.finest is not None and mpp > self.finest * TOO_COARSE:
            msg = (
                f"The slide has {mpp:.3g} µm per pixel, and the model learned from images described at {self.finest:.3g}: it "
                "is too coarse. If that scale is wrong, pass mpp=; if not, train on images read as coarsely, stpredict.pp.encode(mpp=)."
            )
            raise ValueError(msg)

    def apply(self, adata: AnnData) -> None:
        """Make what the model needs and `adata` does not have yet."""
        for one in self.features:
            if any(key not in adata.obsm for key in one.keys):
                one.make(adata, tools_of(self.run))
        if not self.keys:
            tiles(adata)
        if self.nuclei and keys.NUCLEI not in adata.uns:
            nuclei(adata, method=self.nuclei, show_progress=False)


def recipe_of(
    model: ExpressionModel,
    encoder: Encoder | list[Encoder] | tuple[Encoder, ...] | None,
    *,
    only_stores: bool,
    here: bool = False,
) -> Recipe:
    """How `model`'s features and nuclei are made; networks are loaded, to see that they are those of training.

    With `only_stores`, features that nobody can make here are expected in the stores. Slides that are done `here`, in
    this process, are encoded by the networks that were loaded. Raises ValueError if features cannot be made from an
    image, or `encoder` is none of those that the model needs.
    """
    records = model.config.get("features", {})
    given: list[Encoder | None] = list(encoder) if isinstance(encoder, list | tuple) else [encoder]
    run = uuid4().hex
    hash_of = tools_of(run).hash_of if here else _hash
    known: dict[str, dict[str, Encoder]] = {}
    made = []
    for key in dict.fromkeys(map(spot_key, records)):
        own = {name: record for name, record in records.items() if spot_key(name) == key}
        first = next(iter(own.values()))
        own_input = given_input(first)
        if repr(own_input) not in known:
            known[repr(own_input)] = _tools(given, own_input, hash_of)
        found = _encoder(first, known[repr(own_input)])
        if found is not None:
            made.append(_features(key, found, own))
        elif not only_stores:
            raise ValueError(_lacking(key, first, given))
    return Recipe(made, tuple(records), _nuclei(model.config), run)


def _features(key: str, encoder: Encoder, records: Mapping[str, Mapping[str, Any]]) -> Features:
    kind = next((record["niche"] for record in records.values() if "niche" in record), None)
    niche = None
    if kind is not None:
        members, _, value = kind.partition(" ")
        niche = Niche.from_record(
            {"members": members, {"nearest": "k", "ring": "rings"}.get(members, "um"): float(value)}
        ).record()
    first = next(iter(records.values()))
    return Features(
        key,
        encoder,
        float(first["mpp"]),
        windows_of(key, records),
        any(map(is_niche, records)),
        tuple(records),
        niche,
        first.get("stain_norm"),
        given_input(first),
    )


def _tools(
    encoders: Sequence[Encoder | None], how: Mapping[str, Any], hash_of: Callable[[Encoder, Mapping[str, Any]], str]
) -> dict[str, Encoder]:
    """Encoders by their hash with the input size and normalisation `how`, which only networks have."""
    return {hash_of(one, how): one for one in encoders if one is not None and not (how and one == MORPHOLOGY)}


def _encoder(record: Mapping[str, Any], tools: Mapping[str, Encoder]) -> Encoder | None:
    """What makes features with this record."""
    if record.get("encoder") == MORPHOLOGY and record["encoder_hash"] == _hash(MORPHOLOGY, {}):
        return MORPHOLOGY
    if "encoder" in record and "encoder_hash" not in record:  # of a published model, which knows its encoder by name
        return str(record["encoder"])
    return tools.get(record.get("encoder_hash", ""))


def _hash(encoder: Encoder, how: Mapping[str, Any]) -> str:
    with lent(encoder):
        code: str = build_encoder(encoder, device="cpu", precision="float32", batch_size=None, mpp=None, **how).hash
        return code


def _lacking(key: str, record: Mapping[str, Any], given: Sequence[Any]) -> str:
    if "encoder" not in record:
        return (
            f"The model learned from features of your own, obsm[{key!r}], which cannot be made from a slide. Predict sections "
            "that have them: stores as manifest, or stpredict.tl.predict_expression."
        )
    name = record["encoder"]
    if name == MORPHOLOGY:
        return (
            f"The model learned from another version of the default encoder ({record['encoder_hash']}); train it again."
        )
    others = [one for one in given if one is not None]
    if others:
        told = ", ".join(repr(one) if isinstance(one, str | Path) else type(one).__name__ for one in others)
        return (
            f"The model learned from features of the encoder {name!r} with weights {record['encoder_hash']}, and {told} has "
            "others. Pass encoder= the network that the training sections were encoded with."
        )
    return f"The model learned from features of the encoder {name!r}. Pass encoder=, as to stpredict.pp.encode in training."


def _nuclei(config: Mapping[str, Any]) -> Nuclei | None:
    """How nuclei are found, where the model, or the one that it adapts, looks at them."""
    while isinstance(config.get("base"), Mapping):
        config = config["base"]["config"]
    method: Nuclei | None = config.get("nuclei")
    return method
