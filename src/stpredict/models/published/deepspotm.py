"""DeepSpot-M: from the tile itself to any gene of its list, by patch tokens that genes look at.

After Nonchev et al., DeepSpot-M: a multimodal foundation model for transcriptome-wide virtual spatial transcriptomics from
histology (medRxiv, 2026).
"""

from __future__ import annotations

import csv
import json
import re
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from stpredict._core.checks import one_of
from stpredict._core.device import resolve_devices, resolve_precision
from stpredict._core.files import read_text
from stpredict._core.settings import settings
from stpredict.models._data.chunks import rows_of
from stpredict.models.published.cards import DEEPSPOTM
from stpredict.models.published.contract import FixedModel
from stpredict.pp._encoders.network_encoder import NetworkEncoder
from stpredict.pp._encoders.windows import Windows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch

    from stpredict._sections.section import Section
    from stpredict.models.published.cards import Card

PREFIXES = ("backbone.base_model.model.model.", "backbone.model.")
"""What names of the vision transformer's weights start with, with low-rank changes and without."""

DECODER = "gene_decoder."
MODALITIES = {"evo2": 0, "orthrus": 1, "prott5": 2, "esm2": 2, "scgpt": 3, "geneformer": 3, "apertus": 4}
"""Row of the decoder's table of modalities, by the gene embedding."""

FAVOURITE = "scgpt"
"""The gene embedding of the authors' own examples."""

HALF = (0.5, 0.5, 0.5)


class DeepSpotM(FixedModel):
    """Genes, each a vector made of what a model of genes knows of it, look at the tile's patch tokens on their own.

    It needs no features but the image: tiles are streamed through the network, and tokens are not kept.
    """

    method: ClassVar[str] = "deepspotm"
    card: ClassVar[Card] = DEEPSPOTM

    def gene_names(self) -> list[str]:
        """Rows of the list that are genes, in order."""
        path = self.weights.files["genes"]
        rows = list(csv.DictReader(read_text(path).splitlines()))
        names = [row["token"] for row in rows if row.get("token_type") == "gene" and row.get("token")]
        if not names or len(set(names)) != len(names):
            msg = f"{path} must name genes, each once; get it again from {self.card.source}."
            raise ValueError(msg)
        return names

    def _settings(self) -> dict[str, Any]:
        """How the network was built, checked."""
        path = self.weights.files["settings"]
        try:
            told = json.loads(read_text(path))
            sources, heads = told["init_gene_embeddings"], told.get("cross_attn_heads", 8)
            usual = told.get("use_cross_attention", True) and told.get("use_router", True)
            if not (usual and isinstance(sources, list) and sources and isinstance(heads, int) and heads > 0):
                msg = "it is of another network"
                raise ValueError(msg)
            source = FAVOURITE if FAVOURITE in sources else sources[0]
            modality = MODALITIES[source] if told.get("use_modality_encoding", True) else None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            msg = f"{path} does not describe {self.card.title} ({error}); get it again from {self.card.source}."
            raise ValueError(msg) from error
        return {"source": str(source), "modality": modality, "heads": heads}

    def check_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Refuse tensors that are no vision transformer with a decoder, or a decoder of other genes."""
        source = self._settings()["source"]
        prefix = next((p for p in PREFIXES if any(name.startswith(p) for name in tensors)), None)
        known = tensors.get(f"{DECODER}multi_source.bio_{source}")
        if prefix is None or known is None:
            self.refuse(f"it has no vision transformer, or no embedding of genes by {source}")
        if len(known) != len(self._all):
            self.refuse(f"it knows {len(known)} genes, where its list has {len(self._all)}")

    def _network(self, columns: np.ndarray) -> torch.nn.Module:
        import torch

        from stpredict.models.published.deepspotm_network import DeepSpotMNetwork, merged

        tensors = self.tensors()
        prefix = next(p for p in PREFIXES if any(name.startswith(p) for name in tensors))
        decoder = {n.removeprefix(DECODER): value for n, value in tensors.items() if n.startswith(DECODER)}
        try:
            with torch.inference_mode():
                return DeepSpotMNetwork(
                    merged(tensors, prefix),
                    decoder,
                    columns=torch.from_numpy(columns),
                    size=self.card.input_px,
                    **self._settings(),
                ).eval()
        except (KeyError, RuntimeError, IndexError) as error:
            self.refuse(re.sub(r"\s+", " ", f"{type(error).__name__}: {error}")[:200])

    def values(self, section: Section, columns: np.ndarray, size: int | None) -> Iterator[tuple[slice, np.ndarray]]:
        """Tiles go through the network as they are read; genes then come part by part."""
        devices = resolve_devices(None)
        network = self._network(columns)
        tool = NetworkEncoder(
            module=network,
            name=self.card.title,
            size=self.card.input_px,
            mean=HALF,
            std=HALF,
            devices=devices,
            precision=resolve_precision(None, devices[0], inference=True),
            batch_size=settings.batch_size,
            forward=lambda module, tiles: module(tiles),
        )
        windows = [Windows(self.card.spot_um, section.centres)]
        parts = tool.parts(section, windows)
        out = np.empty((len(section), len(columns)), dtype=np.float32)
        for rows, (genes,) in zip(parts, tool.encode(section, parts, windows, lambda _: None), strict=True):
            out[rows] = genes
        step = size or rows_of(len(columns))
        for start in range(0, len(out), step):
            yield slice(start, min(start + step, len(out))), out[start : start + step]

    def embed(self, section: Section, *, use: str = "image") -> np.ndarray:
        """float32 (n_spots, genes): what it predicts, since it keeps no features.

        Raises
        ------
        ValueError
            If `use` is not ``"image"``, or the image is missing or too coarse.
        """
        one_of(use, ("image",), f"use, for {self.card.title},")
        return self.predict(section).mean
