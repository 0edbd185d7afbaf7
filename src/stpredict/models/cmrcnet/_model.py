"""CMRCNet behind the contract: what it learns, predicts and stores."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from stpredict._device import resolve_device
from stpredict._settings import settings
from stpredict.models._arrays import ArrayModel
from stpredict.models._bank import Banked
from stpredict.models._pixels import read_tiles
from stpredict.models._retrieval import normalise, retrieve
from stpredict.models.cmrcnet._options import Options, checked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stpredict._section import Section
    from stpredict.models._contract import History
    from stpredict.models._store import Stored
    from stpredict.models.cmrcnet._network import CmrcnetNetwork

TILE_PX = 224
"""Side of the tiles of a trained image encoder, in pixels."""


class CmrcNet(Banked, ArrayModel):
    """Images and expression in one space; a spot gets the expression of the reference spots nearest to its image.

    Parameters
    ----------
    features, min_counts
        See `stpredict.models._arrays.ArrayModel`.
    preset
        ``"default"`` is what measured best, ``"published"`` the recipe of the paper as far as it is known.
    seed
        Seed of everything random; by default ``stpredict.settings.seed``.
    checkpoint
        Folder of checkpoints; an interrupted run that is found there is continued.
    show_progress
        Show a progress bar; by default ``stpredict.settings.progress``.
    **options
        Fields of `stpredict.models.cmrcnet._options.Options` that differ from the preset.

    References
    ----------
    Liu et al., Spatial Transcriptomics Expression Prediction from Histopathology Based on Cross-Modal Mask
    Reconstruction and Contrastive Learning. Medical Image Analysis 108:103889 (2025), arXiv 2506.08854.
    """

    method: ClassVar[str] = "cmrcnet"
    seeded: ClassVar[bool] = True

    def __init__(
        self,
        *,
        features: str | Sequence[str] | None = None,
        min_counts: int = 50,
        preset: str | None = None,
        seed: int | None = None,
        checkpoint: str | Path | None = None,
        show_progress: bool | None = None,
        **options: Any,
    ) -> None:
        super().__init__(features=features, min_counts=min_counts)
        self.options = checked(preset or "default", options)
        self.seed = settings.seed if seed is None else seed
        if not (isinstance(self.seed, int) and self.seed >= 0):
            msg = f"seed must be a non-negative integer, got {self.seed!r}."
            raise ValueError(msg)
        self._checkpoint = None if checkpoint is None else Path(checkpoint)
        self._show_progress = settings.progress if show_progress is None else show_progress

    @property
    def uses_features(self) -> bool:
        """Whether the model learns from frozen features rather than pixels."""
        return self.options.image_encoder is None

    # ------------------------------------------------------------------ training

    def fit(self, sections: Sequence[Section], *, genes: Sequence[str], groups: Sequence[str]) -> History:
        """Learn from `sections`; `groups` names the patient (or other unit) of each, for inner validation.

        The number of epochs is chosen on held-out spots, then networks are trained on all spots for as many.

        Raises
        ------
        ValueError
            If features or counts are missing or unusable, too few spots are left, or the loss becomes NaN.
        """
        from stpredict.models.cmrcnet import _training as training

        table = self._table(sections, genes, groups)
        self.config |= {"options": asdict(self.options), "seed": self.seed}
        if not self.uses_features:
            self.config["encoder"] = f"{self.options.image_encoder}, trained along"
            tiles = [read_tiles(section, TILE_PX) for section in sections]
            pixels = np.stack([tiles[s][r] for s, r in zip(table.section, table.row, strict=True)])
            table = replace(table, design=pixels)
        inputs = training.Inputs.of(table, self.options)
        build = partial(build_network, self.options, self._token_sizes(), len(genes))
        how = {"seed": self.seed, "checkpoint": self._checkpoint, "show_progress": self._show_progress}
        chosen = training.choose_epochs(build, inputs, self.options, **how)
        networks = training.train_members(build, inputs, self.options, epochs=chosen.epochs, **how)
        arrays = training.arrays_of(networks, inputs) | {"residual_sd": chosen.residual_sd}
        return self._finish(genes, arrays, chosen.history)

    def _token_sizes(self) -> list[int]:
        return [feature["n_features"] for feature in self.config["features"].values()]

    # ------------------------------------------------------------------ prediction

    def apply(self, arrays: dict[str, np.ndarray], queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean over the retrieved reference spots, and standard deviation over them and between sections."""
        mean, spread = retrieve(
            self._embed(arrays, queries), arrays["bank"], arrays["expression"], **self.options.read_out
        )
        return mean, np.hypot(spread, np.sqrt(arrays["between"]))

    def design(self, section: Section) -> np.ndarray:
        """Frozen features (n_spots, d), or tiles uint8 (n_spots, 3, size, size) for a trained image encoder."""
        return super().design(section) if self.uses_features else read_tiles(section, TILE_PX)

    def embed(self, section: Section) -> np.ndarray:
        """float32 (n_spots, members · width): the joint space, rows of length 1."""
        return self._embed(self.arrays, self.design(section))

    def _embed(self, arrays: dict[str, np.ndarray], queries: np.ndarray) -> np.ndarray:
        """Image embeddings of all members side by side, so that cosines are means over members."""
        from stpredict.models.cmrcnet._training import image_embeddings, network_state

        device, embedded = resolve_device(), []
        untrained = replace(self.options, pretrained=False)
        for member in range(self.options.members):
            network = build_network(untrained, self._token_sizes(), arrays["expression"].shape[1]).eval()
            network.load_state_dict(network_state(arrays, member))
            embedded.append(image_embeddings(network.to(device), queries))
        return normalise(np.concatenate(embedded, axis=1))

    # ------------------------------------------------------------------ storage

    @classmethod
    def from_stored(cls, stored: Stored, path: str | Path) -> CmrcNet:
        """Rebuild the model from what was read from `path`."""
        model = super().from_stored(stored, path)
        model.options, model.seed = Options(**stored.config["options"]), stored.config["seed"]
        return model

    @classmethod
    def shapes_of(cls, stored: Stored) -> dict[str, tuple[str | int, ...]]:
        """Arrays that a model with these options has."""
        import torch

        options = replace(Options(**stored.config["options"]), pretrained=False)
        sizes = [feature["n_features"] for feature in stored.config["features"].values()]
        with torch.device("meta"):
            state = build_network(options, sizes, len(stored.genes)).state_dict()
        networks = {
            f"network.{member}.{name}": tuple(tensor.shape)
            for member in range(options.members)
            for name, tensor in state.items()
        }
        bank = {"bank": ("m", options.members * options.width), "expression": ("m", "g"), "between": ("g",)}
        return networks | bank


def build_network(options: Options, sizes: Sequence[int], n_genes: int) -> CmrcnetNetwork:
    """An untrained network; `sizes` are the lengths of frozen feature vectors."""
    from stpredict.models.cmrcnet._network import CmrcnetNetwork
    from stpredict.models.nn._tokens import FeatureTokens, PatchTokens

    if options.image_encoder is None:
        tokens = FeatureTokens(sizes, options.width, dropout=options.feature_dropout)
    else:
        tokens = PatchTokens(options.image_encoder, size=TILE_PX, depth=options.depth, pretrained=options.pretrained)
    return CmrcnetNetwork(tokens, n_genes, options)
