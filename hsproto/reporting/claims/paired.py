"""Differences between two methods, paired by seed and test image: intervals and corrected tests.

The bootstrap draws seeds and images anew, with replacement and independently of each other, so that
its samples vary as a repetition of the study with other seeds and another test set of the same size
would (Owen 2007, "The pigeonhole bootstrap"). S things drawn with replacement vary by (S-1)/S too
little, much for a few seeds: what seeds contribute is stretched by sqrt(S/(S-1)) (Rao and Wu 1988,
"Resampling inference with complex survey data"). The same draws serve all comparisons. Measures
with one value per seed are compared by Student's t.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

SAMPLES = 4000
_SEED = 0


class Difference(NamedTuple):
    """The mean of a method's values less another's.

    Attributes:
        mean: The difference.
        low: The lower end of its 95 % interval.
        high: The upper end.
        p: Two-sided; of samples at least 1/SAMPLES.
        seeds: The number of seeds.
    """

    mean: float
    low: float
    high: float
    p: float
    seeds: int


def of_images(first: np.ndarray, second: np.ndarray, of: int = 1) -> Difference:
    """Return the difference of accuracies of bool or uint8 [S, N], of seeds and test images.

    A number says how many of the `of` variants of an image are classified correctly.

    Raises:
        ValueError: They are of different shapes, or of less than two seeds.
    """
    if np.shape(first) != np.shape(second):
        raise ValueError(f"shapes {np.shape(first)} and {np.shape(second)} are no pairs")
    seeds, images = _at_least_two_seeds(np.asarray(first)).shape
    # [SAMPLES, S], in whole numbers, so that differences of 0 are exactly that.
    by_seed = _on_drawn_images(_key(first)) - _on_drawn_images(_key(second))
    each_once = by_seed.sum(axis=1)
    deviations = (by_seed * _counts(seeds)).sum(axis=1) - each_once
    samples = (each_once + math.sqrt(seeds / (seeds - 1)) * deviations) / (seeds * images * of)
    mean = float(np.mean(first, dtype=float) - np.mean(second, dtype=float)) / of
    return _summary(mean, samples, seeds)


def _key(right):
    return np.asarray(right, np.uint8).tobytes(), np.shape(right)


@functools.lru_cache(maxsize=256)  # 210 kB each; a method is compared with many
def _on_drawn_images(key):
    """How many of the images of each sample each seed has right, int64 [SAMPLES, S]."""
    right, (seeds, images) = key
    right = np.frombuffer(right, np.uint8).reshape(seeds, images).astype(np.float32)
    # Below 2**24 float32 is exact.
    return (_image_counts(images) @ right.T).astype(int)


@functools.lru_cache(maxsize=1)  # 160 MB for 10,000 images
def _image_counts(images):
    return _counts(images).astype(np.float32)


def of_seeds(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Return the difference of the means of one value per seed, by Student's paired t test.

    Raises:
        ValueError: They are not as many, or less than two.
    """
    from scipy.stats import t  # comes with jax; a second to import

    gaps = _at_least_two_seeds(np.asarray(first, float) - np.asarray(second, float))
    freedom, mean = len(gaps) - 1, float(gaps.mean())
    error = float(gaps.std(ddof=1)) / math.sqrt(len(gaps))
    reach = error * float(t.ppf(0.975, freedom))
    p = 2 * float(t.sf(abs(mean) / error, freedom)) if error else float(mean == 0)
    return Difference(mean, mean - reach, mean + reach, p, len(gaps))


def _at_least_two_seeds(gaps):
    if len(gaps) < 2:
        raise ValueError("an interval over seeds needs at least two of them")
    return gaps


@functools.lru_cache(maxsize=4)  # 40 MB for 10,000 images
def _counts(size):
    """How often each of `size` things is drawn in each sample, uint8 [SAMPLES, size]."""
    random = np.random.default_rng((_SEED, size))
    draws = (random.integers(size, size=size) for _ in range(SAMPLES))
    return np.stack([np.bincount(drawn, minlength=size) for drawn in draws]).astype(np.uint8)


def _summary(mean, samples, seeds):
    low, high = np.quantile(samples, (0.025, 0.975))
    below, above = np.mean(samples <= 0), np.mean(samples >= 0)
    p = min(1.0, max(2 * min(below, above), 1 / SAMPLES))
    return Difference(mean, float(low), float(high), float(p), seeds)


def holm(ps: Sequence[float]) -> list[float]:
    """Return p values corrected for their number, in the same order (Holm 1979)."""
    order = np.argsort(ps, kind="stable")
    corrected, worst = [0.0] * len(ps), 0.0
    for place, index in enumerate(order):
        worst = max(worst, min(1.0, (len(ps) - place) * ps[index]))
        corrected[index] = worst
    return corrected
