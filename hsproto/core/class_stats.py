"""Per-class counts, means and scatter: streaming, mergeable in any order, exact to rounding."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial
from jax.typing import ArrayLike

from hsproto.core import numerics
from hsproto.core.meshes import on_any_mesh

# Squared spread, relative to squared size, that rounding alone gives a class of equal rows; less
# counts as no spread. 16 units in the last place are far above what the corrected means leave
# (about 1) and far below what training reaches.
_ROUNDING = (16 * float(jnp.finfo(jnp.float32).eps)) ** 2
_ROUNDING_FLOAT64 = (16 * float(jnp.finfo(jnp.float64).eps)) ** 2

# Elements of a block of rows: 16 MB in float32, large enough to keep a device busy.
BLOCK_ELEMENTS = 1 << 22

# Maximum number of rows of a block: a float32 sum of n equal numbers drifts by up to n·eps of
# itself, and a correction leaves the square of that.
BLOCK_ROWS = 4096


class ClassStats(NamedTuple):
    """Statistics of each class after any number of rows; zeros for a class without rows.

    Floats are float32, or float64 once a float64 row was added (in 64-bit mode).

    Attributes:
        counts: int32 [K], the number of rows of each class.
        means: floating [K, D], their means.
        scatter: floating [K], the sum over the rows of a class of the squared distance to its mean.
    """

    counts: jax.Array
    means: jax.Array
    scatter: jax.Array


def init(num_classes: int, dim: int, dtype: Any = jnp.float32) -> ClassStats:
    """Return the `ClassStats` of no rows."""
    numerics.check_classes(num_classes)
    return ClassStats(
        jnp.zeros((num_classes,), jnp.int32),
        jnp.zeros((num_classes, dim), dtype),
        jnp.zeros((num_classes,), dtype),
    )


def merge(a: ClassStats, b: ClassStats) -> ClassStats:
    """Return the `ClassStats` of the rows of `a` and `b` together.

    Per class::

        mean    = mean_a + (mean_b - mean_a) n_b/n
        scatter = s_a + s_b + |mean_b - mean_a|² n_a n_b/n

    Source:
        Chan, Golub and LeVeque 1983.
    """
    counts = a.counts + b.counts
    a, b = (_as_dtype(x, numerics.float_dtype(a.means, b.means)) for x in (a, b))
    of_a, of_b, number = (x.astype(a.means.dtype) for x in (a.counts, b.counts, counts))
    share = of_b / jnp.maximum(number, 1)
    step = b.means - a.means
    between = jnp.sum(step * step, axis=1) * of_a * share
    return ClassStats(counts, a.means + step * share[:, None], a.scatter + b.scatter + between)


def update(
    stats: ClassStats,
    features: ArrayLike,
    labels: ArrayLike,
    where: ArrayLike | None = None,
    transform: Callable[[jax.Array], jax.Array] | None = None,
) -> ClassStats:
    """Return `stats` with the rows of `features` added.

    Rows are processed in blocks, so that no second array of the size of `features` is created.

    Args:
        stats: The statistics so far.
        features: floating [B, D]; computed with in float64 if it is, or else in float32.
        labels: integer [B].
        where: bool [B], the rows that count; None: all. Rows with a label outside 0..K-1 do not
            count either.
        transform: Maps a block of rows [b, D] to the rows that are counted, e.g.
            `numerics.l2_normalize`: a function defined in a module, or a `jax.tree_util.Partial`.
            Rows that do not count are zeroed before it sees them. None: the rows as given.

    Returns:
        The statistics of all rows.

    Raises:
        ValueError: An argument has a wrong rank, shape or dtype.
    """
    num_classes, dim = stats.means.shape
    features = numerics.check_features("features", features, dim)
    labels = numerics.check_labels(features.shape[0], labels)
    where = numerics.check_where(features.shape[0], where)
    labels = numerics.class_ids(labels, num_classes, where)
    if transform is None or not isinstance(transform, Partial):
        transform = Partial(transform or _as_given)
    stats = _as_dtype(stats, numerics.float_dtype(stats.means, features))
    return _update(stats, features, labels, where, transform)


def _as_given(rows: jax.Array) -> jax.Array:
    return rows


def _as_dtype(stats: ClassStats, dtype: Any) -> ClassStats:
    return ClassStats(stats.counts, stats.means.astype(dtype), stats.scatter.astype(dtype))


# Outside of jit a loop would be compiled anew at each call.
@jax.jit
def _update(stats, features, labels, where, transform):
    num_classes, dim = stats.means.shape
    keep = numerics.row_mask(labels, num_classes, where)
    # A block costs a few passes over [K, D], so it must hold enough rows to outweigh them.
    blocks = row_blocks(labels.shape[0], dim, at_least=2 * num_classes)

    def add(i, stats):
        rows, label, kept = (blocks.take(x, i) for x in (features, labels, keep))
        return merge(stats, _of_block(rows, label, kept & blocks.fresh(i), num_classes, transform))

    # Inside shard_map the carry of a loop must vary over devices from the start.
    nothing = jnp.sum(features[:0], dtype=jnp.float32) + jnp.sum(keep[:0], dtype=jnp.float32)
    stats = jax.tree.map(lambda x: x + nothing.astype(x.dtype), stats)
    return lax.fori_loop(0, blocks.count, add, stats)


def _of_block(rows, labels, keep, num_classes, transform):
    rows = transform(masked(rows, keep))
    labels = jnp.where(keep, labels, num_classes)
    total = functools.partial(jax.ops.segment_sum, segment_ids=labels, num_segments=num_classes)
    counts = total(keep.astype(jnp.int32))
    size = jnp.maximum(counts, 1).astype(rows.dtype)[:, None]

    def residuals(rows, means):
        return masked(rows - jnp.take(means, labels, axis=0, mode="clip"), keep)

    means = total(rows) / size
    rows = residuals(rows, means)
    # A float32 sum over thousands of rows drifts; the mean of the residuals corrects it.
    correction = total(rows) / size
    rows = residuals(rows, correction)
    return ClassStats(counts, means + correction, total(jnp.sum(rows * rows, axis=1)))


def spread(stats: ClassStats) -> jax.Array:
    """Return `stats.scatter` with 0 for classes whose rows differ only by rounding."""
    counts = stats.counts.astype(stats.means.dtype)
    size = counts * jnp.sum(stats.means * stats.means, axis=1) + stats.scatter
    return jnp.where(stats.scatter <= rounding(size) * size, 0.0, stats.scatter)


def directions(means: jax.Array) -> jax.Array:
    """Return the directions of means [K, D] of unit rows; 0 for a mean of rounding noise or 0."""
    noise = jnp.sum(means * means, axis=-1, keepdims=True) <= rounding(means)
    return jnp.where(noise, 0.0, numerics.l2_normalize(means))


def rounding(array: jax.Array) -> float:
    """Return the squared spread, relative to squared size, that rounding gives such floats."""
    return _ROUNDING_FLOAT64 if array.dtype == jnp.float64 else _ROUNDING


def centered(rows: jax.Array, counted: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return counted rows minus their mean (0 where they differ only by rounding), and the mean."""
    number = jnp.maximum(jnp.sum(counted, dtype=numerics.float_dtype(rows)), 1)
    mean = jnp.sum(masked(rows, counted), axis=0) / number
    mean += jnp.sum(masked(rows - mean[None, :], counted), axis=0) / number
    rest = masked(rows - mean[None, :], counted)
    size = jnp.max(jnp.sum(masked(rows, counted) ** 2, axis=1))
    noise = jnp.sum(rest * rest, axis=1, keepdims=True) <= rounding(size) * size
    return jnp.where(noise, 0.0, rest), mean


@on_any_mesh()
def class_means(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    num_classes: int,
    where: ArrayLike | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Return the mean and the number of the rows of each class, of the features as given.

    The mean of class c is::

        mean_c = 1/n_c Σ_{i: y_i=c} x_i

    Args:
        features: floating [N, D].
        labels: integer [N]. A row with a label outside 0..num_classes-1 does not count.
        num_classes: Number of classes, K.
        where: bool [N], the rows that count; None: all.

    Returns:
        (means float32 [K, D], counts int32 [K]); a class without rows has a zero mean. The means of
        float64 features (in 64-bit mode) are float64.

    Raises:
        ValueError: An argument has a wrong rank, shape or dtype.

    Example:
        >>> import jax.numpy as jnp
        >>> from hsproto import geometry
        >>> features = jnp.array([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0]])
        >>> means, counts = geometry.class_means(features, jnp.array([0, 0, 1]), num_classes=2)
        >>> means.tolist(), counts.tolist()
        ([[2.0, 0.0], [0.0, 5.0]], [2, 1])
    """
    features = numerics.check_features("features", features)
    numerics.check_classes(num_classes)
    stats = update(init(num_classes, features.shape[1]), features, labels, where)
    return stats.means, stats.counts


def masked(rows: jax.Array, keep: jax.Array) -> jax.Array:
    """Return `rows` [N, D] as floats, with zeros where `keep` [N] is False, whatever they held."""
    return jnp.where(keep[:, None], rows.astype(numerics.float_dtype(rows)), 0.0)


@dataclasses.dataclass(frozen=True)
class RowBlocks:
    """A division of arrays of `rows` rows into `count` blocks of `size` rows, without a copy."""

    rows: int
    size: int
    count: int
    strided: bool

    def take(self, array: jax.Array, i: ArrayLike) -> jax.Array:
        """Return block `i` of `array` [rows, ...]: [size, ...]."""
        if self.strided:
            split = array.reshape(self.size, self.count, *array.shape[1:])
            return lax.dynamic_index_in_dim(split, i, axis=1, keepdims=False)
        return lax.dynamic_slice_in_dim(array, self._start(i), self.size)

    def fresh(self, i: ArrayLike) -> jax.Array:
        """Return which rows of block `i` no earlier block held, bool [size]."""
        if self.strided:
            return jnp.ones((self.size,), bool)
        return self._start(i) + jnp.arange(self.size) >= i * self.size

    def _start(self, i: ArrayLike) -> jax.Array:
        # The last block overlaps the one before, so that all have the same size.
        return jnp.minimum(i * self.size, self.rows - self.size)


def row_blocks(rows: int, dim: int, at_least: int = 1) -> RowBlocks:
    """Return blocks of about BLOCK_ELEMENTS elements and at least `at_least` rows.

    If the number of rows has a suitable divisor, block i holds every count-th row from i on: a
    device with a share of consecutive rows then holds the same share of each block, and no row
    crosses devices. Otherwise a block holds consecutive rows.
    """
    if not isinstance(rows, int):  # a symbolic number of rows, of `jax.export`
        return RowBlocks(rows, rows, 1, True)
    if rows == 0:
        return RowBlocks(0, 0, 0, False)
    target = min(rows, max(min(BLOCK_ELEMENTS // dim, BLOCK_ROWS), at_least, 1))
    least = math.ceil(rows / target)
    devices = jax.device_count()
    share = rows // devices if rows % devices == 0 else rows
    for count in range(least, 4 * least):
        if share % count == 0:
            return RowBlocks(rows, rows // count, count, True)
    return RowBlocks(rows, math.ceil(rows / least), least, False)
