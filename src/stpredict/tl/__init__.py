"""Train, predict, evaluate and localise."""

from __future__ import annotations

from stpredict._core.offered import offers
from stpredict.tl._adapt import adapt
from stpredict.tl._calibrate import calibrate
from stpredict.tl._compare_methods import compare_methods
from stpredict.tl._cross_validate import cross_validate
from stpredict.tl._domains import domains
from stpredict.tl._embed import embed
from stpredict.tl._evaluate import evaluate
from stpredict.tl._learning_curve import learning_curve
from stpredict.tl._predict import predict_expression
from stpredict.tl._predict_many import predict_many
from stpredict.tl._recall import recall
from stpredict.tl._retrieve import retrieve
from stpredict.tl._train import train
from stpredict.tl._tumor import localize_tumor

__all__ = [
    "adapt",
    "calibrate",
    "compare_methods",
    "cross_validate",
    "domains",
    "embed",
    "evaluate",
    "learning_curve",
    "localize_tumor",
    "predict_expression",
    "predict_many",
    "recall",
    "retrieve",
    "train",
]

__getattr__, __dir__ = offers(__name__, __all__)
