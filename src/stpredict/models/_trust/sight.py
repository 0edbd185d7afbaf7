"""What of the image of a spot tells how far it lies from those of training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict._core.device import resolve_device
from stpredict._sections.spread import ROWS
from stpredict.models._data.features import column_names, raw_features
from stpredict.models._data.pixels import SPOT_UM
from stpredict.pp._encoders import morphology
from stpredict.pp._encoders.morphology_encoder import MorphologyEncoder
from stpredict.pp._encoders.windows import Windows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from stpredict._sections.section import Section


@dataclass(frozen=True)
class Sight:
    """Features as they were encoded, and, where a network looks at pixels, a weight-free description of the tiles.

    Features of the network itself would not do: it learned to see alike what differs in stain and scanner.

    Attributes
    ----------
    features
        Records of the encoded features, by key.
    tiles
        Record of the description of tiles; empty where none are looked at.
    """

    features: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tiles: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """What a model of this configuration looks at."""
        return cls(config.get("features", {}), config.get("tiles", {}))

    @property
    def width(self) -> int:
        """Number of columns."""
        return int(sum(made["n_features"] for made in (*self.features.values(), self.tiles) if made))

    @property
    def is_outdated(self) -> bool:
        """Whether this version describes tiles in another way."""
        return bool(self.tiles) and self.tiles.get("encoder_hash") != MorphologyEncoder.hash

    def part(self, section: Section, rows: slice) -> np.ndarray:
        """float32 (rows, width): what is seen of some spots in a row."""
        seen = raw_features(section, list(self.features), rows)
        if not self.tiles:
            return seen
        return np.concatenate([seen, self._described(section, np.arange(len(section))[rows])], axis=1)

    def of_rows(self, section: Section, rows: np.ndarray) -> np.ndarray:
        """The same of any `rows`, in order, of a section that may be on disk."""
        found = [np.zeros((0, self.width), dtype=np.float32)]
        for start in range(0, len(section), ROWS):
            own = rows[(rows >= start) & (rows < start + ROWS)]
            if len(own):
                seen = raw_features(section, list(self.features), slice(start, start + ROWS))[own - start]
                found.append(np.concatenate([seen, self._described(section, own)], axis=1) if self.tiles else seen)
        return np.concatenate(found)

    def names(self, section: Section) -> list[str]:
        """Of the columns."""
        own = column_names(section, list(self.features))
        return [*own, *(f"tile:{name}" for name in self._encoder.feature_names)] if self.tiles else own

    @property
    def _encoder(self) -> MorphologyEncoder:
        return MorphologyEncoder(resolve_device(), mpp=float(self.tiles["mpp"]))

    def _described(self, section: Section, rows: np.ndarray) -> np.ndarray:
        """float32 (rows, features): the tiles of spots, described; `rows` are in order."""
        encoder, windows = self._encoder, [Windows(SPOT_UM, section.centres)]
        parts = (part[np.isin(part, rows)] for part in encoder.parts(section, windows))
        wanted = [part for part in parts if len(part)]
        out = np.empty((len(rows), int(self.tiles["n_features"])), dtype=np.float32)
        for own, (features,) in zip(wanted, encoder.encode(section, wanted, windows, lambda _: None), strict=True):
            out[np.searchsorted(rows, own)] = features
        return out


def tiles_record(sections: Sequence[Section]) -> dict[str, Any]:
    """How tiles of the training `sections` are described: as fine as the coarsest of them allows, as `pp.encode` would say."""
    mpp = max(morphology.MPP, *(section.mpp for section in sections))
    encoder = MorphologyEncoder(resolve_device(), mpp=mpp)
    return {
        "encoder": encoder.name,
        "encoder_hash": encoder.hash,
        "spot_um": SPOT_UM,
        "mpp": float(mpp),
        "n_features": len(encoder.feature_names),
    }
