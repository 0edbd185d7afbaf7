"""ALIGN-ST: genes that were never measured, predicted from nuclei-aware tiles and what is known of genes."""

from stpredict.models.align_st._model import AlignSt
from stpredict.models.align_st._options import Options

__all__ = ["AlignSt", "Options"]
