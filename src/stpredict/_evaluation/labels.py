"""Labels of a pathologist: which spots have one, and which labels name tumour."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stpredict._core.labels import as_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd

UNDECIDED = frozenset(
    {"", "nan", "na", "n a", "none", "null", "undetermined", "undecided", "unknown", "unassigned", "unlabeled"}
    | {"unlabelled", "unannotated", "not annotated", "no label", "other unknown"}
)
"""Labels, in lower case and without punctuation, of spots that nobody named; they are left out."""

TUMOR_WORDS = frozenset(
    {"tumor", "tumors", "tumour", "tumours", "tumoral", "tumoural", "cancer", "cancers", "cancerous", "carcinoma"}
    | {"carcinomas", "adenocarcinoma", "adenocarcinomas", "malignant", "malignancy", "neoplasm", "neoplastic"}
    | {"melanoma", "sarcoma", "lymphoma", "glioma", "glioblastoma", "metastasis", "metastases", "metastatic"}
    | {"invasive", "idc", "ilc", "dcis", "lcis", "pdac", "hcc", "gbm", "nsclc", "luad", "lusc", "crc", "rcc", "scc"}
    | {"cscc", "hnscc", "bcc"}
)
"""Words that name tumour."""

TUMOR_PHRASES = re.compile(r"\bin situ|\b(?:peri|pre|para|juxta)(?:tumou?r|cancer|malignan|neoplas)")
"""What names tumour too, within a label."""

NOT_TUMOR = re.compile(
    r"\b(?:no|not|without|free of|negative for)\s+(?:\w+\s+)?(?:tumou?r|cancer|carcinoma|malignan|neoplas|invasive|melanoma)\w*"
    r"|\bnon ?(?:tumou?r|cancer|\w*carcinoma|melanoma|malignan|neoplas|dcis)\w*"
    r"|\b(?:tumou?r|cancer|carcinoma)s?\s+(?:free|negative)\b"
)
"""Phrases that say in plain words that there is none."""

DOUBTFUL = re.compile(
    r"\b(?:adjacent|near|next|edge|border|boundary|margin|interface|periphery|peri|surrounding|normal|healthy|benign|uncertain"
    r"|possible|possibly|probable|probably|suspicious|suspected|mixed|mixture|stroma|stromal|associated|infiltrat\w*|reactive"
    r"|fibroblast\w*|lymphocyte\w*|immune|tils?|caf|necro\w*|precancerous|premalignant|bed|regression|scar)\b"
    r"|\b(?:peri|pre|para|juxta)(?:tumou?r|cancer|malignan|neoplas)\w*|\bnon ?invasive\b"
)
"""Words that leave two readings beside one that names tumour: "tumor edge", "tumor-adjacent normal", "tumor stroma", "non-invasive"."""


def read_labels(column: pd.Series) -> np.ndarray:
    """Object array (n,) of labels as text, None where a spot has none; for every dtype and generation of pandas."""
    texts = [None if text is None else text.strip() for text in as_text(column)]
    return np.array([None if text is None or _words(text) in UNDECIDED else text for text in texts], dtype=object)


@dataclass(frozen=True)
class TumorLabels:
    """Labels that were taken for tumour and those that were taken for other tissue, sorted."""

    tumor: list[str]
    other: list[str]


def split_tumor_labels(present: Iterable[str], wanted: Iterable[str] | None, what: str) -> TumorLabels:
    """Which of the labels that are `present` name tumour: those `wanted`, else those that say so in plain words.

    Parameters
    ----------
    present
        Labels of the spots.
    wanted
        Labels that the user names, compared exactly.
    what
        Where the labels are, for messages.

    Raises
    ------
    ValueError
        If no label names tumour, one has two readings and `wanted` is None, or a wanted one is written otherwise.
    """
    labels = sorted(set(present))
    listed = ", ".join(labels) or "none"
    if wanted is not None:
        chosen = {str(wanted)} if isinstance(wanted, str) or not hasattr(wanted, "__iter__") else set(map(str, wanted))
        absent = {_spelt(label): label for label in chosen - set(labels)}
        if meant := next((label for label in labels if label not in chosen and _spelt(label) in absent), None):
            msg = f"{what} has no {absent[_spelt(meant)]!r}, which tumor_labels= names, but {meant!r}. Write it in the same way."
            raise ValueError(msg)
    else:
        chosen = {label for label in labels if _names_tumor(label)}
        if unclear := [label for label in labels if label not in chosen and _mentions_tumor(label)]:
            msg = (
                f"{what}: {', '.join(map(repr, unclear))} can be read as tumour or not. Pass tumor_labels= with the labels "
                f"that are tumour; there are {listed}."
            )
            raise ValueError(msg)
    if not chosen & set(labels):
        msg = f"None of the labels in {what} ({listed}) is a tumour's; pass tumor_labels=."
        raise ValueError(msg)
    return TumorLabels([x for x in labels if x in chosen], [x for x in labels if x not in chosen])


def _words(label: str) -> str:
    """The label in lower case, with single spaces between its words."""
    return " ".join(re.findall(r"\w+", label.lower().replace("_", " ")))


def _spelt(label: str) -> str:
    """The label in lower case with single spaces, its signs kept: HER2+ is not HER2-."""
    return " ".join(label.lower().replace("_", " ").split())


def _mentions_tumor(label: str) -> bool:
    """Whether it has a word of tumour, and does not say that there is none."""
    words = _words(label)
    has_word = TUMOR_WORDS.intersection(words.split()) or TUMOR_PHRASES.search(words)
    return bool(has_word) and not NOT_TUMOR.search(words)


def _names_tumor(label: str) -> bool:
    return _mentions_tumor(label) and not DOUBTFUL.search(_words(label))
