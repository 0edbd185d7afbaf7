"""The noise ceiling: how well perfect predictions would score against counts that are noisy themselves."""

from __future__ import annotations

import numpy as np

MEDIAN_SHARE = 0.25
"""Replicates are at most this share of the median spot deep, so that most counts are left to compare with."""

REACHED_BY = 0.95
"""Share of spots that can give two replicates of the common depth."""


def noise_ceiling(counts: np.ndarray, totals: np.ndarray, *, seed: int = 0, n_splits: int = 10) -> np.ndarray:
    """Pearson correlation per gene that the true expression would reach against the measured one.

    What is estimated: the correlation over the section's spots between the true expression, log1p of 10,000 times the
    fraction of the spot's RNA, and the measured log1p CP10k, if counts are Poisson given the truth; whatever varies
    more than that counts as expression. Two independent
    replicates A and B of every spot are drawn by binomial thinning, each down to the *same* depth (a quarter of the
    median total, or less where more than one spot in twenty could not give two such replicates). With T the truth as it is seen at that depth,
    cov(A, B) estimates var(T), and cov(A, rest) estimates cov(T, rest), where the rest are the counts not in A. So
    corr(T, rest) = cov(A, rest) / sqrt(cov(A, B) · var(rest)), which the Spearman–Brown formula brings from the
    depth of the rest to the full one.

    Replicates of equal depth matter. Halves of the counts, the usual choice, keep each spot's depth, and log1p CP10k
    depends on it; the halves then agree on depth too, and the ceiling comes out too high where depth varies.
    By the same token a prediction may exceed this ceiling by predicting depth. On simulated tissue the mean over genes
    is right within 0.05; where depth varies a hundredfold it may come out up to 0.1 too low.

    Parameters
    ----------
    counts
        Raw counts (spots, genes) of the genes of interest.
    totals
        Total counts (spots,) over all genes.
    seed
        Seed of the thinning; the same seed gives the same numbers.
    n_splits
        Thinnings to average over.

    Returns
    -------
    float64 (genes,) between 0 and 1; 0 where no signal is found.

    References
    ----------
    Thinning: Neufeld et al., Inference after latent variable estimation for single-cell RNA sequencing data.
    Biostatistics 25, 270–287 (2024).
    """
    counts = np.asarray(counts).astype(np.int64)
    totals = np.asarray(totals).astype(np.int64)
    others = totals - counts.sum(axis=1)
    depth = min(MEDIAN_SHARE * np.median(totals), np.quantile(totals, 1 - REACHED_BY) / 2)
    share = np.minimum(0.5, depth / np.maximum(totals, 1))
    rng = np.random.default_rng(seed)
    with_rest, between, of_rest = np.zeros((3, counts.shape[1]))
    for _ in range(n_splits):
        a, others_a = _thin(rng, counts, others, share)
        b, others_b = _thin(rng, counts - a, others - others_a, share / (1 - share))
        log_a, log_b = _log(a, others_a), _log(b, others_b)
        between += _covariance(log_a, log_b)
        for log_one, one, others_one in ((log_a, a, others_a), (log_b, b, others_b)):
            rest = _log(counts - one, others - others_one)
            with_rest += _covariance(log_one, rest) / 2
            of_rest += _covariance(rest, rest) / 2
    signal = (with_rest > 0) & (between > 0) & (of_rest > 0)
    squared = np.minimum(np.square(with_rest) / np.where(signal, between * of_rest, 1), 1)
    gain = 1 / (1 - share.mean())
    return np.where(signal, np.sqrt(gain * squared / (1 + (gain - 1) * squared)), 0)


def _thin(
    rng: np.random.Generator, counts: np.ndarray, others: np.ndarray, share: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Keep every count with probability `share` (spots,)."""
    return rng.binomial(counts, share[:, None]), rng.binomial(others, share)


def _log(counts: np.ndarray, others: np.ndarray) -> np.ndarray:
    totals = np.maximum(counts.sum(axis=1) + others, 1)
    return np.log1p(counts * (1e4 / totals)[:, None])


def _covariance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return ((a - a.mean(axis=0)) * (b - b.mean(axis=0))).mean(axis=0)
