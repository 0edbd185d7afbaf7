"""How well domains agree with labels: two numbers over all spots, and one per label so that rare ones count."""

from __future__ import annotations

from typing import Any

import numpy as np


def agreement(domains: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Adjusted Rand index, normalised mutual information, and the recall of every label.

    A domain stands for the label that most of its spots have. The recall of a label is the share of its spots that lie
    in domains which stand for it: 0 for a label that no domain stands for.
    """
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix

    table = contingency_matrix(labels, domains)
    stands_for = table.argmax(axis=0)
    found = [int(row[stands_for == i].sum()) for i, row in enumerate(table)]
    return {
        "ari": float(adjusted_rand_score(labels, domains)),
        "nmi": float(normalized_mutual_info_score(labels, domains)),
        "labels": [str(label) for label in np.unique(labels)],
        "recall": np.array(found) / table.sum(axis=1),
        "n_labelled": len(labels),
    }
