"""CMRCNet behind the contract: what its networks see and how they are built."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from stpredict.models._aligned.inputs import Tensors
from stpredict.models._aligned.model import TILE_PX, Aligned
from stpredict.models._data.pixels import pixels_of, read_tiles
from stpredict.models._data.rows import chunks
from stpredict.models.cmrcnet._options import PRESETS, Options

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np

    from stpredict._sections.section import Section
    from stpredict.models._aligned.expression import GeneScale
    from stpredict.models._data.rows import Rows, RowStore
    from stpredict.models._data.table import Table
    from stpredict.models.cmrcnet._network import CmrcnetNetwork


class CmrcNet(Aligned):
    """Contrastive alignment of image and expression, with cross-modal mask reconstruction.

    Parameters are those of `stpredict.models._aligned.model.Aligned`; the options are
    `stpredict.models.cmrcnet._options.Options`.

    References
    ----------
    Liu et al., Spatial Transcriptomics Expression Prediction from Histopathology Based on Cross-Modal Mask
    Reconstruction and Contrastive Learning. Medical Image Analysis 108:103889 (2025), arXiv 2506.08854.
    """

    method: ClassVar[str] = "cmrcnet"
    presets: ClassVar[Mapping[str, Options]] = PRESETS

    @property
    def uses_features(self) -> bool:
        """Whether the model learns from frozen features rather than pixels."""
        return self.options.image_encoder is None

    def tensors(self, table: Table, sections: Sequence[Section], scale: GeneScale, store: RowStore) -> Tensors:
        """Features or pixels, and scaled expression."""
        images = table.design if self.uses_features else pixels_of(table, sections, TILE_PX, store)
        expression = store.collect()
        for chunk in chunks(table.expression):
            expression.append(scale.scaled(chunk))
        return Tensors.of((images,), (expression.done(),))

    def designer(self, section: Section) -> Callable[[slice], tuple[Rows, ...]]:
        """What gives frozen features (rows, d), or tiles uint8 (rows, 3, size, size) for a trained image encoder."""
        if self.uses_features:
            return super().designer(section)
        return lambda rows: (read_tiles(section, TILE_PX, rows=rows),)

    def expression(self, section: Section) -> tuple[np.ndarray, ...]:
        """Scaled expression (n_spots, genes)."""
        return (self._scale.scaled(self._at_level(section)[0]),)

    @staticmethod
    def build_network(options: Options, config: Mapping[str, Any], n_genes: int) -> CmrcnetNetwork:
        """Build an untrained network for the features in `config`."""
        from stpredict.models.cmrcnet._network import CmrcnetNetwork
        from stpredict.models.nn._tokens import FeatureTokens, PatchTokens

        if options.image_encoder is None:
            sizes = [feature["n_features"] for feature in config["features"].values()]
            tokens = FeatureTokens(sizes, options.width, dropout=options.feature_dropout)
        else:
            tokens = PatchTokens(
                options.image_encoder,
                size=TILE_PX,
                depth=options.depth,
                heads=options.heads,
                pretrained=options.pretrained,
            )
        return CmrcnetNetwork(tokens, n_genes, options)
