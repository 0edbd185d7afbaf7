"""ALIGN-ST behind the contract: what it learns from, what it predicts of genes seen and unseen, and storage."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from stpredict._core.warning import warn
from stpredict._genes.facts import fact_states
from stpredict._sections.section import Section
from stpredict.models._base.contract import Prediction
from stpredict.models._base.network import NetworkModel, network_arrays
from stpredict.models._data.chunks import rows_of
from stpredict.models._data.features import mean_features
from stpredict.models._reference.coexpression import ReferenceGenes, learn_reference
from stpredict.models._reference.distance import distance_to, section_means_and_scale
from stpredict.models._reference.unseen import expected_pcc
from stpredict.models._trust.reliability import NORMAL_QUANTILES
from stpredict.models.align_st._genes import MIN_WITH_TEXT, GeneSpace, field_of, gene_space, text_of
from stpredict.models.align_st._options import PRESETS, Options
from stpredict.pp._gene_embeddings import check_embeddings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    import pandas as pd

    from stpredict._core.typing import Data
    from stpredict.models._base.files import Stored
    from stpredict.models._base.history import History
    from stpredict.models._data.table import Table
    from stpredict.models.align_st._network import AlignStNetwork, SlideTensors

MAX_FACTS = 24
"""Facts about a gene that the Transformer reads."""


class AlignSt(NetworkModel):
    """Expression as the dot product of a nuclei-aware, spatially refined tile and what is known of a gene.

    Any gene can be predicted that has a place among the programmes of co-expression: because it was measured in
    training, because image-free data (`reference`) measure it, or because text tells (`gene_embeddings`).

    Parameters
    ----------
    features, min_counts, preset, seed, checkpoint, show_progress
        See `stpredict.models._base.network.NetworkModel`.
    gene_embeddings
        Embeddings of genes by name, from `stpredict.pp.gene_embeddings` or any other; by default the shipped embeddings of
        gene names and Gene Ontology terms. With fewer than 20 genes that also have a measured place, they place no
        others: these are then not in the `vocabulary`, which a warning says.
    **options
        Options that differ from the preset, see `stpredict.models.align_st.Options`.

    References
    ----------
    Zhou et al., Deep Association Multimodal Learning for Zero-Shot Spatial Transcriptomics Prediction. MICCAI 2025.
    """

    method: ClassVar[str] = "align_st"
    compares_spots = True
    presets: ClassVar[Mapping[str, Options]] = PRESETS
    shapes: ClassVar[dict[str, tuple[str | int, ...]]] = {
        "places": ("s", "d"),
        "scale": ("d",),
        "reliability": (2, 3),
        "unseen_error": (2,),
    }

    def __init__(self, *, gene_embeddings: pd.DataFrame | None = None, **how: Any) -> None:
        super().__init__(**how)
        if gene_embeddings is not None:
            gene_embeddings = check_embeddings(gene_embeddings)
        self._text = gene_embeddings
        self._own_facts: pd.DataFrame | None = None
        self._reference: ReferenceGenes | None = None

    # ------------------------------------------------------------------ training

    def learn_reference(
        self, tables: Sequence[Data | str | Path], genes: Sequence[str], *, min_counts: int, study_key: str | None
    ) -> None:
        """Place all genes of image-free `tables` by their co-expression there."""
        self._reference = learn_reference(tables, genes, min_counts=min_counts, study_key=study_key)

    def fit(self, sections: Sequence[Section], *, genes: Sequence[str], groups: Sequence[str]) -> History:
        """Learn from `sections`; `groups` names the patient (or other unit) of each, for inner validation.

        Raises
        ------
        ValueError
            If features, counts or nuclei are missing or unusable, too few spots are left, or the loss becomes NaN.

        Warns
        -----
        UserWarning
            If too few genes have an embedding to place others by it.
        """
        from stpredict.models.align_st import _training as training

        table = self._table(sections, genes, groups)
        text = text_of([*genes, *([] if self._reference is None else self._reference.names)], self._text)
        slides = [self._slide(section, self.design(section)) for section in sections]
        space = self._space(table, list(genes), text)
        self._warn_of_few_placed(text, space)
        if self._text is not None and self.options.text_layers:
            self._own_facts = text.reindex(space.names)
        lesson = training.Lesson(table, slides, space, self._facts(genes), self.options)
        self.config |= {
            "vocabulary": space.names,
            "n_facts": 0 if lesson.facts is None else lesson.facts[0].shape[2],
            "n_channels": slides[0].nuclei.shape[1] if self.options.nuclei else 0,
            "own_facts": self._own_facts is not None,
        }
        if self._reference is not None:
            self.config["reference"] = self._reference.record
        names, ensemble = np.array(genes), self._ensemble(len(genes))
        chosen = training.choose_epochs(
            ensemble,
            lesson,
            lambda part, kept: self._space(_columns(part, kept), list(names[kept]), text),
            self.not_measured,
        )
        networks = ensemble.train_members(lesson, chosen.epochs)
        arrays = {name: tensor.numpy() for name, tensor in network_arrays(networks).items()}
        means, scale = section_means_and_scale(sections, list(self.config["features"]))
        arrays |= space.arrays() | chosen.arrays | {"places": means, "scale": scale}
        arrays |= self._learn_trust(sections, table, chosen.held)
        if self._own_facts is not None:
            arrays["gene_facts"] = self._own_facts.to_numpy(np.float32, copy=True)
        return self._finish(genes, arrays, chosen.history)

    @staticmethod
    def _warn_of_few_placed(text: pd.DataFrame, space: GeneSpace) -> None:
        lost = len(text.index.difference(space.names))
        if lost:
            msg = (
                f"Fewer than {MIN_WITH_TEXT} genes have both an embedding and a measured place, too few to learn one from the "
                f"other: {lost} genes that have an embedding only cannot be predicted."
            )
            warn(msg)

    def _space(self, table: Table, genes: list[str], text: pd.DataFrame | None) -> GeneSpace:
        axes = self.options.axes
        reference = None if self._reference is None else self._reference.coordinates(genes, axes)
        space = gene_space(table, genes, reference=reference, text=text, axes=axes)
        if self.options.coordinates:
            return space
        return space.only(set() if text is None else set(text.index), len(genes))  # others cannot be told apart

    def _facts(self, genes: Sequence[str]) -> tuple[np.ndarray, np.ndarray] | None:
        """Embedded facts (genes, facts, d) and which there are; of the user's own embeddings, the gene's one vector."""
        if not self.options.text_layers:
            return None
        if self._own_facts is not None:
            vectors = self._own_facts.reindex(genes).to_numpy(np.float32, copy=True)[:, None]
            return np.nan_to_num(vectors), np.isfinite(vectors).all(axis=2)

        return fact_states(genes, max_facts=MAX_FACTS)

    def _slide(self, section: Section, features: np.ndarray) -> SlideTensors:
        from stpredict.models.align_st._slides import nuclei_method, slide_tensors

        method = None
        if self.options.nuclei:
            method = self.config.setdefault("nuclei", nuclei_method(section))
        return slide_tensors(section, features, alike=self.options.feature_neighbours, nuclei=method)

    @staticmethod
    def build_network(options: Options, config: Mapping[str, Any], n_genes: int) -> AlignStNetwork:
        """Build an untrained network for the features in `config`; it has the same weights for any genes."""
        from stpredict.models.align_st._network import AlignStNetwork

        return AlignStNetwork(config["n_design"], config["n_facts"], config["n_channels"], options)

    # ------------------------------------------------------------------ prediction

    @property
    def vocabulary(self) -> list[str]:
        """Genes that can be predicted: those of training first, then all others with a known place."""
        return self.config["vocabulary"]

    def predict_parts(
        self, section: Section, genes: Sequence[str] | None = None, *, size: int | None = None
    ) -> Iterable[tuple[slice, Prediction]]:
        """Expression of `genes` (default: those of training), a few spots at a time; spots are compared with all others beforehand.

        Unseen genes come with ``distance`` (1 − cosine to the most similar seen gene) and ``reliability`` (the PCC to
        expect, learned from genes hidden in training; NaN where there were too few).

        Raises
        ------
        ValueError
            If the section's features or nuclei are missing, or its features were made differently from those in training;
            before the first part.
        """
        from stpredict.models.align_st._training import described, reader

        asked = list(self.genes if genes is None else genes)
        place = {name: row for row, name in enumerate(self.vocabulary)}
        known = np.array([name in place for name in asked], dtype=bool)
        rows = np.array([place[name] for name in asked if name in place], dtype=int)
        n_seen = len(self.genes)
        pool = np.arange(n_seen if self.options.gene_neighbours else 0)
        wanted = np.unique(np.concatenate([pool, rows]))
        facts = self._facts([self.vocabulary[row] for row in wanted])
        slide = self._slide(section, self.design(section))
        all_genes = described(self._space_for(section), facts, wanted)
        at = {row: i for i, row in enumerate(wanted.tolist())}
        columns = [at[row] for row in rows.tolist()]
        readers = [reader(network, slide, all_genes, pool, columns) for network in self._networks()]
        level, sd = self.arrays["gene_level"][rows], self.arrays["gene_sd"][rows]
        error = self.arrays["unseen_error"][self.arrays["gene_told"][rows].astype(int)] * sd
        judgement = self._judged(section)
        width = self.trust.error_width(judgement, has_spread=False)
        error[rows < n_seen] = (self.arrays["residual_sd"] if width is None else width)[rows[rows < n_seen]]
        unseen = self._unseen(np.array(asked)[known], rows)
        reached, errors = self.trust.expected(judgement, self._columns(asked, place))
        others = np.flatnonzero(known)[rows >= n_seen]
        reached[0, others] = np.clip(unseen["reliability"], 0, 1) * judgement.kept
        errors[:, others] = NORMAL_QUANTILES[:, None] * error[rows >= n_seen]
        said: dict[str, Any] = {"unseen": unseen, "judgement": judgement, "reached": reached, "errors": errors}

        def part_of(part: slice) -> Prediction:
            standard = readers[0](part)
            for read in readers[1:]:
                standard += read(part)
            standard /= len(readers)
            standard *= sd
            standard += level
            mean, std = np.full((2, len(standard), len(asked)), np.nan, dtype=np.float32)
            mean[:, known], std[:, known] = standard, error
            return Prediction(mean, std, asked, **said)

        n, size = len(section), size or rows_of(len(asked))
        parts = [slice(start, min(start + size, n)) for start in range(0, max(n, 1), size)]
        return ((part, part_of(part)) for part in parts)

    def _columns(self, asked: Sequence[str], place: Mapping[str, int]) -> np.ndarray:
        """Number of every gene among those learned from; -1 for others."""
        numbers = np.array([place.get(name, -1) for name in asked], dtype=int)
        return np.where(numbers < len(self.genes), numbers, -1)

    def _unseen(self, names: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Names of the unseen genes among `rows`, how far they are from seen ones, and how reliable."""
        unseen = rows >= len(self.genes)
        nearest, level = self.arrays["gene_nearest"][rows[unseen]], self.arrays["gene_level"][rows[unseen]]
        from_text = self.arrays["gene_told"][rows[unseen]]
        return {
            "genes": names[unseen],
            "distance": 1 - nearest,
            "reliability": expected_pcc(self.arrays["reliability"][from_text.astype(int)], nearest, level),
        }

    def _stored_space(self) -> GeneSpace:
        parts = {field_of(name): self.arrays[name] for name in GeneSpace.SHAPES}
        return GeneSpace(names=self.vocabulary, by_text=np.full_like(parts["coordinates"], np.nan), **parts)

    def _space_for(self, section: Section) -> GeneSpace:
        """Where genes lie, as far as it can be trusted on this section."""
        space, features = self._stored_space(), mean_features(section, list(self.config["features"]))
        away = distance_to(self.arrays["places"], self.arrays["scale"], features)
        return replace(space, coordinates=space.trusted(away))

    def _images(self, section: Section) -> np.ndarray:
        """float32 (n_spots, members · width): refined tiles."""
        import torch

        slide = self._slide(section, self.design(section))
        with torch.inference_mode():
            tiles = [network.tiles(slide.to(next(network.parameters()).device)).cpu() for network in self._networks()]
        return torch.cat(tiles, dim=1).float().numpy()

    # ------------------------------------------------------------------ what it attends to

    def nuclei_attention(self, section: Section, rows: np.ndarray | None = None) -> np.ndarray:
        """float32 (n_spots, size, size): where each tile, or those in `rows`, looks among its nuclei; mean over members.

        Rows of a map run from top to bottom as in the image, and a map sums to 1.

        Raises
        ------
        ValueError
            If the model does not look at nuclei, the section's features or nuclei are missing, or its features
            were made differently from those in training.
        """
        from stpredict.models.align_st._attention import nuclei_attention

        if not self.options.nuclei:
            msg = "This model does not look at nuclei; train it with nuclei=True."
            raise ValueError(msg)
        return nuclei_attention(list(self._networks()), section, self.design(section), rows)

    def gene_graph(self, section: Section, genes: str | Sequence[str]) -> pd.DataFrame:
        """Which genes of training each of `genes` listens to in the light of a `section`, and how much; mean over members.

        Columns ``gene``, ``neighbour`` and ``weight``, the strongest neighbour first. The weights of a gene sum to 1.
        Members choose neighbours of their own, so there may be more than ``gene_neighbours``.

        Raises
        ------
        KeyError
            If the model does not know one of the genes.
        ValueError
            If the model has no gene graph, `genes` is empty, the section's features or nuclei are missing, or its
            features were made differently from those in training.
        """
        if isinstance(genes, Section):
            warn(
                "The order is model.gene_graph(section, genes) now; the old one ends with the next release.",
                FutureWarning,
            )
            section, genes = genes, section
        from stpredict.models.align_st._attention import edges, gene_attention, names_in
        from stpredict.models.align_st._training import described

        if not self.options.gene_neighbours:
            msg = "This model has no gene graph; train it with gene_neighbours=8."
            raise ValueError(msg)
        asked, seen = names_in(self.vocabulary, genes), list(self.genes)
        wanted = list(dict.fromkeys(seen + asked))
        row = {name: i for i, name in enumerate(self.vocabulary)}
        slide, at = self._slide(section, self.design(section)), np.array([wanted.index(name) for name in asked])
        known = described(self._space_for(section), self._facts(wanted), np.array([row[name] for name in wanted]))
        return edges(gene_attention(list(self._networks()), slide, known, at, len(seen)), asked, seen)

    # ------------------------------------------------------------------ storage

    @classmethod
    def from_stored(cls, stored: Stored, path: str | Path) -> AlignSt:
        """Rebuild the model from what was read from `path`."""
        import pandas as pd

        names = stored.config["vocabulary"]
        if names[: len(stored.genes)] != stored.genes or len(set(names)) != len(names):
            msg = f"The model at {path} is damaged: its vocabulary does not begin with its genes; save it again."
            raise ValueError(msg)
        model = super().from_stored(stored, path)
        if stored.config["own_facts"]:
            model._own_facts = pd.DataFrame(stored.arrays["gene_facts"], index=model.vocabulary)
        return model

    @classmethod
    def shapes_of(cls, stored: Stored) -> dict[str, tuple[str | int, ...]]:
        """Arrays that a model with these options has."""
        sizes = {"v": len(stored.config["vocabulary"]), "a": cls._stored_options(stored).axes}
        space = {name: tuple(sizes[letter] for letter in letters) for name, letters in GeneSpace.SHAPES.items()}
        if stored.config["own_facts"]:
            space["gene_facts"] = (sizes["v"], stored.config["n_facts"])
        return super().shapes_of(stored) | space


def _columns(table: Table, genes: np.ndarray) -> Table:
    """`table` with some of its genes."""
    return replace(table, expression=np.asarray(table.expression)[:, genes])
