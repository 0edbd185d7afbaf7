"""The noise ceiling: how well perfect predictions would score against counts that are noisy themselves."""

from __future__ import annotations

import numpy as np

MEDIAN_SHARE = 0.25
"""Replicates are at most this share of the median spot deep, so that most counts are left to compare with."""

REACHED_BY = 0.95
"""Share of spots that can give two replicates of the common depth."""

N_SPLITS = 10
"""Thinnings of one draw."""

LEAST_DRAWS, MOST_DRAWS = 2, 10
"""Independent draws to average over."""

SPOTS_DRAWN = 15_000
"""Small sections are drawn until this many spots were thinned: chance moves them most, and a draw costs least."""


def noise_ceiling(counts: np.ndarray, totals: np.ndarray, *, seed: int = 0) -> np.ndarray:
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
    Several such draws are averaged, since one alone moves with its seed where counts are few.

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

    Returns
    -------
    float64 (genes,) between 0 and 1; 0 where no signal is found.

    References
    ----------
    Thinning: Neufeld et al., Inference after latent variable estimation for single-cell RNA sequencing data.
    Biostatistics 25, 270–287 (2024).
    """
    return ceiling_draws(counts, totals, seed=seed).mean(axis=0)


def ceiling_draws(counts: np.ndarray, totals: np.ndarray, *, seed: int) -> np.ndarray:
    """Independent draws of the noise ceiling, (draws, genes): two on large sections, up to ten on small ones."""
    counts = np.asarray(counts).astype(np.int64)
    totals = np.asarray(totals).astype(np.int64)
    others = totals - counts.sum(axis=1)
    depth = min(MEDIAN_SHARE * np.median(totals), np.quantile(totals, 1 - REACHED_BY) / 2)
    share = np.minimum(0.5, depth / np.maximum(totals, 1))
    rng = np.random.default_rng(seed)
    n_draws = int(np.clip(SPOTS_DRAWN // (N_SPLITS * len(totals)), LEAST_DRAWS, MOST_DRAWS))
    return np.stack([_one_draw(rng, counts, others, share) for _ in range(n_draws)])


def spread(means: np.ndarray) -> float:
    """Standard deviation by which another seed moves the mean of several draws, of the mean of each draw."""
    return float(np.std(means, ddof=1) / np.sqrt(len(means)))


def _one_draw(rng: np.random.Generator, counts: np.ndarray, others: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Noise ceiling of every gene from `N_SPLITS` thinnings."""
    with_rest, between, of_rest = np.zeros((3, counts.shape[1]))
    for _ in range(N_SPLITS):
        a, others_a = _thin(rng, counts, others, share)
        b, others_b = _thin(rng, counts - a, others - others_a, share / (1 - share))
        log_a, log_b = _log(a, others_a), _log(b, others_b)
        between += _covariance(log_a, log_b)
        for log_one, one, others_one in ((log_a, a, others_a), (log_b, b, others_b)):
            rest = _log(counts - one, others - others_one)
            with_rest += _covariance(log_one, rest) / 2
            of_rest += _covariance(rest, rest) / 2
    signal = (with_rest > 0) & (between > 0)
    squared = np.divide(np.square(with_rest), between * of_rest, out=np.zeros_like(between), where=signal)
    squared = np.minimum(squared, 1)
    gain = 1 / (1 - share.mean())
    return np.sqrt(gain * squared / (1 + (gain - 1) * squared))


def _thin(
    rng: np.random.Generator, counts: np.ndarray, others: np.ndarray, share: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Keep every count with probability `share` (spots,)."""
    return rng.binomial(counts, share[:, None]), rng.binomial(others, share)


def _log(counts: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Centred log1p CP10k."""
    totals = np.maximum(counts.sum(axis=1) + others, 1)
    values = counts * (1e4 / totals)[:, None]
    np.log1p(values, out=values)
    values -= values.mean(axis=0)
    return values


def _covariance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("ng,ng->g", a, b) / len(a)
