"""Where a tile looks among its nuclei, and which genes a gene listens to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from stpredict._genes import symbols
from stpredict.models.align_st._slides import NUCLEI_PX
from stpredict.pp._nuclei_detection.maps import nuclei_maps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stpredict._sections.section import Section
    from stpredict.models.align_st._network import AlignStNetwork, Described, SlideTensors


@torch.inference_mode()
def nuclei_attention(
    networks: Sequence[AlignStNetwork], section: Section, features: np.ndarray, rows: np.ndarray | None
) -> np.ndarray:
    """float32 (rows, size, size): attention of tiles over the places of their nuclei, mean over networks.

    `features` (n_spots, d) are of the whole section; `rows` are the spots of interest.
    """
    rows = np.arange(len(section)) if rows is None else np.asarray(rows, dtype=np.int64)
    maps = torch.from_numpy(nuclei_maps(section, size=NUCLEI_PX, rows=rows))
    parts = []
    for network in networks:
        device = next(network.parameters()).device
        tile = network.look(torch.from_numpy(features[rows]).to(device))
        tokens = network.nuclei.branch(maps.to(device))
        parts.append(network.nuclei.attention(tile, tokens).float().cpu().numpy())
    attention = np.mean(parts, axis=0)
    size = round(attention.shape[1] ** 0.5)
    return attention.reshape(-1, size, size)


@torch.inference_mode()
def gene_attention(
    networks: Sequence[AlignStNetwork], slide: SlideTensors, genes: Described, rows: np.ndarray, n_seen: int
) -> np.ndarray:
    """float32 (rows, seen): how much the genes in `rows` listen to the first `n_seen`, mean over networks."""
    out = np.zeros((len(rows), n_seen), dtype=np.float32)
    for network in networks:
        device = next(network.parameters()).device
        here, tiles = genes.to(device), network.tiles(slide.to(device))
        described = network.described_in_parts(here, tiles)
        asked = torch.as_tensor(rows, device=device)
        heard, weights = network.graph.attention(described[asked], described[:n_seen], asked)
        out[np.arange(len(rows))[:, None], heard.cpu().numpy()] += weights.float().cpu().numpy() / len(networks)
    return out


def names_in(vocabulary: Sequence[str], genes: str | Sequence[str]) -> list[str]:
    """Names that `genes` have in the `vocabulary`; aliases and Ensembl ids are resolved.

    Raises KeyError if one is not there; TypeError or ValueError if they are no names, or none.
    """
    asked = symbols.asked(genes)
    found = symbols.match(asked, vocabulary)
    if missing := [gene for gene in asked if gene not in found]:
        msg = f"The model does not know {symbols.describe_missing(missing)}; see model.vocabulary."
        raise KeyError(msg)
    return list(dict.fromkeys(found.values()))


def edges(attention: np.ndarray, genes: Sequence[str], seen: Sequence[str]) -> pd.DataFrame:
    """Attention (genes, seen) as a table of who listens to whom, the most heard first."""
    order = np.argsort(-attention, axis=1, kind="stable")
    gene, place = np.nonzero(np.take_along_axis(attention, order, axis=1) > 0)
    heard = order[gene, place]
    names, others = np.array(genes, dtype=object), np.array(seen, dtype=object)
    return pd.DataFrame({"gene": names[gene], "neighbour": others[heard], "weight": attention[gene, heard]})
