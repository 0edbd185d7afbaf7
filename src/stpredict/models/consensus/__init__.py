"""Several models whose predictions are added, with weights learned on held-out spots: what `tl.train` trains by default."""

from stpredict.models.consensus.model import Consensus

__all__ = ["Consensus"]
