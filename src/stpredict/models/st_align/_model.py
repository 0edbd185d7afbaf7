"""ST-Align behind the contract: what its networks see, how they are built, and the fused space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from stpredict._core.warning import warn
from stpredict._sections.niches import Niche, is_niche
from stpredict.models._aligned.expression import GeneScale, has_expression, mean_and_sd, usable_spots
from stpredict.models._aligned.inputs import Tensors
from stpredict.models._aligned.model import TILE_PX, Aligned
from stpredict.models._data.features import find_features, standardise
from stpredict.models._data.pixels import pixels_of, read_tiles
from stpredict.models._data.rows import chunks, columns
from stpredict.models.st_align._niches import check_niches, expression_clusters, niche_mean, niche_mean_of
from stpredict.models.st_align._options import PRESETS, Options

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from stpredict._sections.section import Section
    from stpredict.models._data.rows import Rows, RowStore
    from stpredict.models._data.table import Table
    from stpredict.models.st_align._network import StAlignNetwork


class StAlign(Aligned):
    """Alignment of image and expression at the scales of spot and niche, and fusion of both.

    A spot is predicted from the reference spots whose expression, its own and its niche's, is nearest to what the spot
    and its niche look like. The expression of a niche is the mean over its spots, as `stpredict.pp.niches` defined
    them, by default all in the niche window of `stpredict.pp.tiles`.

    Parameters are those of `stpredict.models._aligned.model.Aligned`; the options are
    `stpredict.models.st_align._options.Options`.

    References
    ----------
    Lin et al., ST-Align: A Multimodal Foundation Model for Image-Gene Alignment in Spatial Transcriptomics. arXiv
    2411.16793 (2024), and its later version at a workshop of ICLR 2026.
    """

    method: ClassVar[str] = "st_align"
    presets: ClassVar[Mapping[str, Options]] = PRESETS
    spaces: ClassVar[tuple[str, ...]] = ("image", "expression", "fused")
    shapes: ClassVar[dict[str, tuple[str | int, ...]]] = Aligned.shapes | {"niche_sd": ("g",)}

    def _table(
        self, sections: Sequence[Section], genes: Sequence[str], groups: Sequence[str], store: RowStore | None = None
    ) -> Table:
        keys = find_features(sections, self.features)
        niches = [key for key in keys if is_niche(key)]
        spots = [key for key in keys if key not in niches]
        if not niches or not (spots or self.options.image_encoder):
            lacking = "niche features (obsm keys that end in _niche)" if not niches else "spot features"
            msg = (
                f"ST-Align learns from spots and their niches, but {', '.join(keys)} are no {lacking}: run "
                "stpredict.pp.encode with niche=True, and name both in features=."
            )
            raise ValueError(msg)
        self.features = niches if self.options.image_encoder else [*spots, *niches]
        return super()._table(sections, genes, groups, store)

    def tensors(self, table: Table, sections: Sequence[Section], scale: GeneScale, store: RowStore) -> Tensors:
        """Spot images, niche images, spot expression, niche expression, and what each spot's negatives depend on."""
        spot, niche = self._split(table.design)
        if self.options.image_encoder:
            spot = pixels_of(table, sections, TILE_PX, store)
        own, around, cluster = store.collect(), store.collect(), []
        for number, rows in table.of_sections():
            section = sections[number]
            check_niches(section, self.config.setdefault("niches", str(Niche.of(section))))
            values = np.asarray(table.expression[rows])
            scaled = scale.scaled(values)
            own.append(scaled)
            around.append(niche_mean_of(section, table.row[rows], values))
            cluster.append(expression_clusters(scaled, self.options.clusters, seed=self.seed))
        expression, (niches, sd) = own.done(), self._scaled_niches(around.done(), scale, store)
        genes = self._embedded_cells(table, sections, store) if self.options.expression_key else (expression, niches)
        groups = (expression, table.section, np.concatenate(cluster))
        return Tensors.of((spot, niche), genes, groups, niche_sd=sd)

    def _scaled_niches(self, niches: Rows, scale: GeneScale, store: RowStore) -> tuple[Rows, np.ndarray]:
        """Expression of niches as networks see it, and its standard deviation before."""
        around, scaled = GeneScale(scale.level, mean_and_sd(niches)[1], self.options), store.collect()
        for chunk in chunks(niches):
            scaled.append(around.scaled(chunk))
        return scaled.done(), around.arrays()["gene_sd"]

    def _split(self, design: Rows) -> tuple[Rows, Rows]:
        """Columns of spots and of niches."""
        n = sum(_sizes(self.config, niche=False))
        return columns(design, slice(n)), columns(design, slice(n, None))

    def designer(self, section: Section) -> Callable[[slice], tuple[Rows, ...]]:
        """What gives spot and niche features (rows, d), or for a trained image encoder tiles (rows, 3, size, size) first."""
        features = super().designer(section)

        def images(rows: slice) -> tuple[Rows, ...]:
            spot, niche = self._split(features(rows)[0])
            return (read_tiles(section, TILE_PX, rows=rows) if self.options.image_encoder else spot), niche

        return images

    # ------------------------------------------------------------------ expression

    def expression(self, section: Section) -> tuple[np.ndarray, ...]:
        """Scaled expression (n_spots, genes) of spots and of niches."""
        check_niches(section, self.config["niches"])
        if self.options.expression_key:
            return self._cell_embeddings(section)
        expression, usable = self._at_level(section)
        around = GeneScale(self.arrays["gene_level"], self.arrays["niche_sd"], self.options)
        return self._scale.scaled(expression), around.scaled(niche_mean(section, expression, usable))

    def _cell_embeddings(self, section: Section) -> tuple[np.ndarray, np.ndarray]:
        """Cell embeddings (n_spots, d) of spots and their means over niches, standardised within the section."""
        values = section.features(self.options.expression_key)
        expected = self.config.setdefault("n_expression", values.shape[1])
        if values.shape[1] != expected or not np.isfinite(values).all():
            msg = (
                f"obsm[{self.options.expression_key!r}] of section {section.name!r} must have {expected} columns, as in "
                "training, and no NaN; make it with the same cell encoder."
            )
            raise ValueError(msg)
        everywhere = np.ones(len(section), dtype=bool)
        return standardise(values), standardise(niche_mean(section, values, everywhere))

    def _embedded_cells(self, table: Table, sections: Sequence[Section], store: RowStore) -> tuple[Rows, Rows]:
        spot, niche = store.collect(), store.collect()
        for number, rows in table.of_sections():
            cells, around = self._cell_embeddings(sections[number])
            spot.append(cells[table.row[rows]])
            niche.append(around[table.row[rows]])
        return spot.done(), niche.done()

    # ------------------------------------------------------------------ the fused space

    def embed(self, section: Section, *, use: str = "image") -> np.ndarray:
        """float32 (n_spots, members · 2 · width): the joint space, rows of length 1.

        Parameters
        ----------
        section
            What to embed.
        use
            ``"image"``, what spots and niches look like; ``"expression"``, what they express; or ``"fused"``, both
            together. Where a spot has no usable counts, a learned token takes the place of expression in the fusion.

        Raises
        ------
        ValueError
            If the section's features were made differently from those in training, or it has no expression and
            `use` is ``"expression"``.

        Warns
        -----
        UserWarning
            If `use` is ``"fused"`` and the section has no expression at all.
        """
        if use != "fused":
            return super().embed(section, use=use)
        from stpredict.models._aligned.embedding import in_pieces

        genes, known = self._known_expression(section)
        rows = (*self.design(section), *genes, known)
        return self._over_members(self.arrays, lambda network: in_pieces(network, network.fused, rows))

    def _known_expression(self, section: Section) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
        """Expression of spots and niches, and which spots have any."""
        if has_expression(section, self.genes, self.options.expression_key):
            known = usable_spots(section, self.config["min_counts"])
            return self.expression(section), known
        msg = (
            f"Section {section.name!r} has no expression; its fused embedding comes from the image alone, with a learned "
            "token in place of expression."
        )
        warn(msg)
        nothing = np.zeros((len(section), self.config.get("n_expression", len(self.genes))), dtype=np.float32)
        return (nothing, nothing), np.zeros(len(section), dtype=bool)

    # ------------------------------------------------------------------ networks

    @staticmethod
    def build_network(options: Options, config: Mapping[str, Any], n_genes: int) -> StAlignNetwork:
        """Build an untrained network for the features in `config`."""
        from stpredict.models.nn._tokens import FeatureTokens, PatchTokens
        from stpredict.models.st_align._network import StAlignNetwork

        niche = FeatureTokens(_sizes(config, niche=True), options.width, dropout=options.feature_dropout, norm=False)
        if options.image_encoder:
            spot = PatchTokens(options.image_encoder, size=TILE_PX, depth=options.depth, pretrained=options.pretrained)
        else:
            spot = FeatureTokens(
                _sizes(config, niche=False), options.width, dropout=options.feature_dropout, norm=False
            )
        n_inputs = config.get("n_expression", n_genes)
        return StAlignNetwork(spot, niche, n_inputs=n_inputs, n_genes=n_genes, options=options)


def _sizes(config: Mapping[str, Any], *, niche: bool) -> list[int]:
    """Lengths of the spot features, or of the niche features."""
    return [feature["n_features"] for key, feature in config["features"].items() if is_niche(key) == niche]
