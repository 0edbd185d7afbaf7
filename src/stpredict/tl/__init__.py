"""Train, predict, evaluate and localise."""

from __future__ import annotations

from stpredict.tl._evaluate import evaluate
from stpredict.tl._predict import predict_expression
from stpredict.tl._retrieve import retrieve
from stpredict.tl._train import train
from stpredict.tl._tumor import localize_tumor

__all__ = ["evaluate", "localize_tumor", "predict_expression", "retrieve", "train"]
