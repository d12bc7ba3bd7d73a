"""The measures of Neural Collapse of features that are read block by block.

They are those of `hsproto.geometry.neural_collapse`, in a few passes over the rows; memory is for a
block, the class means, and the spectra of some classes at a time, whatever the number of rows.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from hsproto import geometry, prototypes
from hsproto.core import class_stats, nc_metrics, nearest, numerics, spectra
from hsproto.core.class_stats import ClassStats
from hsproto.core.host import blas_on_one_thread
from hsproto.data.features import NotFinite, Rows

SPECTRA_BYTES = 2**30  # of the classes whose spectra are gathered in a pass


class Statistics(NamedTuple):
    """Of the classes of a set of features.

    Attributes:
        unit: Of the directions of the rows.
        scaled: Of the rows over a power of two.
        exponent: That power's.
    """

    unit: ClassStats
    scaled: ClassStats
    exponent: int


class Measured(NamedTuple):
    """What a set of features measures.

    Attributes:
        measures: As of `geometry.neural_collapse`; further `accuracy`, with prototypes,
            `accuracy_class_means`, and `spread_ratio`: the root mean square distance of rows from
            their class mean, over that of class means from their centre.
        means: float32 [K, D], the means of unit features.
        counts: int [K].
        within: float64 [d], the shares of a class's variance along its principal axes, in
            descending order, the mean over classes.
    """

    measures: dict[str, float]
    means: np.ndarray
    counts: np.ndarray
    within: np.ndarray


def measure(
    rows: Rows,
    num_classes: int,
    weights: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    class_means: np.ndarray | None = None,
) -> Measured:
    """Measure features in files.

    Args:
        rows: The features and their labels.
        num_classes: K.
        weights: Prototypes [K, D], or None.
        bias: [K] of the prototypes, or None.
        class_means: [K, D] that classify for `accuracy_class_means`; None: those of the rows.

    Raises:
        UserError: Features are not finite; with their number.
    """
    statistics = _statistics(rows, num_classes)
    unit, scaled, exponent = statistics
    measures, between = nc_metrics.of_classes(unit, scaled, weights)
    ranks, within = _ranks(rows, unit)
    means = unit.means if class_means is None else class_means
    sums = _of_blocks(rows, statistics, between, weights, bias, means)
    paired = np.asarray(unit.counts) >= 2
    measures |= sums | {"erank_intra": ranks[paired].mean() if paired.any() else np.nan}
    of_rows = float(jnp.sum(class_stats.spread(scaled))) / len(rows)
    counted = np.asarray(scaled.counts) > 0
    of_means = float(jnp.sum(between[0] ** 2)) / counted.sum()
    undefined = np.inf if of_rows else np.nan
    measures["spread_ratio"] = np.sqrt(of_rows / of_means) if of_means else undefined
    keys = [k for k in ("accuracy", "accuracy_class_means", "spread_ratio") if k in measures]
    order = [*keys, *(k for k in geometry.optimum(num_classes) if k in measures)]
    values = {key: float(measures[key]) for key in order}
    return Measured(values, np.asarray(unit.means), np.asarray(unit.counts), within)


def _statistics(rows, num_classes):
    largest, not_finite = 0.0, NotFinite(rows)
    for start, block in rows.blocks():
        if not not_finite.look(start, block):
            largest = max(largest, float(np.abs(block).max()))
    not_finite.refuse()
    exponent = spectra.binary_exponent(jnp.float32(largest))
    unit = scaled = class_stats.init(num_classes, rows.shape[1])
    for block, labels in _same_size(rows):
        unit = class_stats.update(unit, block, labels, transform=numerics.l2_normalize)
        to_size = Partial(nc_metrics.to_size, exponent)
        scaled = class_stats.update(scaled, block, labels, transform=to_size)
    return Statistics(unit, scaled, exponent)


def _same_size(rows):
    """Blocks and their labels, the last one filled up with rows that do not count."""
    size = None
    for start, block in rows.blocks():
        labels = rows.labels[start : start + len(block)]
        missing = (size or len(block)) - len(block)
        size = size or len(block)
        if missing:
            block = np.pad(block, ((0, missing), (0, 0)))
            labels = np.pad(labels, (0, missing), constant_values=-1)
        yield block, labels


def _of_blocks(rows, statistics, between, weights, bias, means):
    """What needs the rows once the means are known: nc1, nc4, accuracies."""
    scale = Partial(nc_metrics.to_size, statistics.exponent)
    sums: dict[str, Any] = {}
    for block, labels in _same_size(rows):
        # They are sums over rows, divided by what all rows have in common.
        found = nc_metrics.of_rows(
            block, labels, None, scale, statistics.scaled, between, weights, bias
        )
        right = _right(block, labels, means, weights, bias)
        found |= {key: int(value) / len(rows) for key, value in right.items()}
        sums = {key: sums.get(key, 0.0) + float(value) for key, value in found.items()}
    return sums


@jax.jit
def _right(rows, labels, means, weights, bias):
    """The number of rows that class means, and prototypes if given, classify correctly."""

    def count(predicted):
        return jnp.sum((predicted == labels) & (labels >= 0), dtype=jnp.int32)

    block = nearest.class_block_for(len(rows), len(means))
    nearest_mean = prototypes.predict(rows, means, class_block=block)
    counts = {"accuracy_class_means": count(nearest_mean)}
    if weights is not None:

        def logits_of(columns):
            weights, bias = columns
            logits = numerics.matmul(rows, weights.T)
            return logits if bias is None else logits + bias[None, :]

        counts["accuracy"] = count(nearest.best_class(logits_of, (weights, bias), block))
    return counts


def _ranks(rows, stats):
    """(effective rank of each class [K], mean spectrum) of the unit rows around their class mean.

    A class of n rows is decomposed through these, or through its [D, D] Gram matrix, whichever is
    smaller. Sums are in float64.
    """
    dim, counts = rows.shape[1], np.asarray(stats.counts)
    means = np.asarray(stats.means)
    # A class without spread has rank 0.
    wanted = np.flatnonzero((np.asarray(class_stats.spread(stats)) > 0) & (counts >= 2))
    ranks, spectrum = np.zeros(len(counts)), np.zeros(dim)
    for group in _groups(wanted, 8 * dim * np.minimum(counts, dim)):
        gathered = {c: np.zeros((min(counts[c], dim), dim)) for c in group}
        filled = dict.fromkeys(group, 0)
        for start, block in rows.blocks():
            labels = rows.labels[start : start + len(block)]
            order = np.argsort(labels, kind="stable")
            bounds = np.searchsorted(labels[order], [group, np.asarray(group) + 1])
            for label, first, last in zip(group, *bounds, strict=True):
                if first == last:
                    continue
                picked = _unit(block[order[first:last]]) - means[label]
                if counts[label] < dim:
                    gathered[label][filled[label] : filled[label] + len(picked)] = picked
                    filled[label] += len(picked)
                else:
                    gathered[label] += picked.T @ picked
        with blas_on_one_thread():
            for label, matrix in gathered.items():
                gram = matrix @ matrix.T if counts[label] < dim else matrix
                values = np.maximum(np.linalg.eigvalsh(gram)[::-1], 0)
                shares = values / values.sum()
                ranks[label] = np.exp(-np.sum(shares * np.log(np.where(shares > 0, shares, 1))))
                spectrum[: len(shares)] += shares / len(wanted)
    return ranks, spectrum[: np.flatnonzero(spectrum > 1e-12)[-1] + 1] if len(wanted) else spectrum


def _groups(classes, sizes):
    """Consecutive classes whose sizes add up to SPECTRA_BYTES, at least one."""
    group, size = [], 0
    for label in classes.tolist():
        if group and size + sizes[label] > SPECTRA_BYTES:
            yield group
            group, size = [], 0
        group.append(label)
        size += int(sizes[label])
    if group:
        yield group


def _unit(rows):
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return (rows / np.where(lengths == 0, 1, lengths)).astype(np.float32)
