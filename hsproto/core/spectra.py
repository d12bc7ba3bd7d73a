"""Spectra: effective rank, entropy of a Gram matrix, spread of each class, the simplex ETF.

Rounding noise must not look like spread. An effective rank sums -p log p over hundreds of
eigenvalues, so noise of 1e-7 in each, which no other use of a spectrum would notice, changes its
fourth digit. Three measures prevent this. Where the matrix itself is available, its singular values
are used, whose squares are exact to 1e-14 of the largest. Eigenvalues of a Gram matrix are
corrected by what its trace says they have lost. And -p log|p| is summed over negative eigenvalues
too: the noise around zero is symmetric and cancels, whereas clipping would keep its positive half.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding
from jax.typing import ArrayLike

from hsproto.core import class_stats, numerics
from hsproto.core.class_stats import ClassStats
from hsproto.core.meshes import on_any_mesh

# Elements of the rows, or of the Gram matrices, of the classes that are processed at a time.
CHUNK_ELEMENTS = 1 << 23

# Rows of a class that are added to its [D, D] Gram matrix at a time.
GRAM_ROWS = 1024


def _eps(array: jax.Array) -> float:
    return float(jnp.finfo(array.dtype).eps)


@on_any_mesh()
def effective_rank(matrix: ArrayLike) -> jax.Array:
    """Return the effective rank: the number of equal singular values with the same entropy.

    With s the singular values of A::

        erank(A) = exp(-Σ_j p_j log p_j),   p = s / Σ_j s_j;   erank(0) = 0

    It lies between 1 and the rank for any other matrix, whatever its scale. For a covariance
    matrix the singular values are the variances along the principal axes.

    Args:
        matrix: floating [m, n]. Singular values below 4 eps of the largest count as zero.

    Returns:
        float32 scalar; of a float64 matrix (in 64-bit mode) float64.

    Raises:
        ValueError: `matrix` has a wrong rank or dtype.

    Source:
        Roy and Vetterli 2007.

    Example:
        >>> import jax.numpy as jnp
        >>> from hsproto import geometry
        >>> round(float(geometry.effective_rank(2 * jnp.eye(5, 3))), 3)
        3.0
    """
    matrix = numerics.check_features("matrix", matrix)
    if 0 in matrix.shape:
        return jnp.zeros((), numerics.float_dtype(matrix))
    matrix = jnp.asarray(matrix, numerics.float_dtype(matrix))
    return exp_entropy(singular_values(jnp.ldexp(matrix, -binary_exponent(matrix))))


def singular_values(matrix: jax.Array) -> jax.Array:
    """Return the singular values of floats [..., m, n]; zero where below 4 eps of the largest."""
    values = lax.linalg.svd(matrix, full_matrices=False, compute_uv=False)
    return jnp.where(values <= 4 * _eps(values) * values[..., :1], 0.0, values)


def eigenvalues(gram: jax.Array) -> jax.Array:
    """Return the eigenvalues of symmetric [..., n, n], ascending; near zero of either sign."""
    values = jnp.linalg.eigvalsh(gram)
    lost = jnp.trace(gram, axis1=-2, axis2=-1) - jnp.sum(values, axis=-1)
    return values + lost[..., None] / values.shape[-1]


def entropy(p: jax.Array) -> jax.Array:
    """Return -sum p log|p| over the last axis, with 0 log 0 = 0."""
    return -jnp.sum(p * jnp.log(jnp.where(p == 0, 1.0, jnp.abs(p))), axis=-1)


def exp_entropy(weights: jax.Array) -> jax.Array:
    """Return exp of the entropy of weights / sum(weights) over the last axis; 0 if all are 0."""
    total = jnp.sum(weights, axis=-1, keepdims=True)
    rank = jnp.exp(entropy(weights / jnp.where(total == 0, 1.0, total)))
    return jnp.where(total[..., 0] == 0, 0.0, rank)


def whitening(centered: jax.Array, means: jax.Array, counted: jax.Array) -> jax.Array:
    """Return A [D, r], ``|A' x|² = x' S_B^+ x / K``, S_B the covariance of the counted means."""
    _, values, directions = jnp.linalg.svd(centered, full_matrices=False)
    # The means are exact to rounding of their own size, which a shared component makes large.
    size = jnp.linalg.norm(class_stats.masked(means, counted))
    keep = values > 4 * _eps(values) * size
    # K centered means span K-1 dimensions: the last singular value is only rounding.
    order = jnp.arange(values.shape[0], dtype=jnp.int32)
    keep &= order < jnp.sum(counted, dtype=jnp.int32) - 1
    return directions.T * jnp.where(keep, 1 / jnp.where(keep, values, 1.0), 0.0)[None, :]


def matrix_entropy(eigenvalues: jax.Array, trace: jax.Array) -> jax.Array:
    """Return -sum l log l of eigenvalues [..., n] known up to scale, given the matrices' trace."""
    total = jnp.sum(eigenvalues, axis=-1, keepdims=True)
    return entropy(trace[..., None] * ratio(eigenvalues, total))


def information(
    of_prototypes: jax.Array, of_means: jax.Array, joint: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return the matrix mutual information ratio and the entropy difference ratio."""
    least = jnp.minimum(of_prototypes, of_means)
    # With one entropy zero the joint one equals the other: the ratio is 0/0.
    mutual = jnp.where(least == 0, 0.0, ratio(of_prototypes + of_means - joint, least))
    most = jnp.maximum(of_prototypes, of_means)
    return mutual, ratio(jnp.abs(of_prototypes - of_means), most)


@overload
def mir_at_collapse(number: int) -> float: ...
@overload
def mir_at_collapse(number: jax.Array) -> jax.Array: ...
def mir_at_collapse(number: int | jax.Array) -> float | jax.Array:
    """Return the MIR at collapse of `number` classes, a Python int or a traced float.

    It is 0 for two classes, where both entropies are 0; the formula diverges towards K = 2.
    """
    if isinstance(number, int):
        return 0.0 if number <= 2 else _mir_formula(number - 1.0, math.log)
    others = jnp.maximum(number - 1, 2)
    return jnp.where(number <= 2, 0.0, _mir_formula(others, jnp.log))


def _mir_formula(others: Any, log: Callable[[Any], Any]) -> Any:
    return 1 / others + (others - 1) * log(others - 1) / (others * log(others))


def ratio(a: ArrayLike, b: ArrayLike) -> jax.Array:
    """Return a / b of nonnegative values, with 0/0 = 0 and x/0 = infinity."""
    return jnp.where(b == 0, jnp.where(a == 0, 0.0, jnp.inf), a / jnp.where(b == 0, 1.0, b))


def binary_exponent(x: jax.Array) -> jax.Array:
    """Return integer e with the largest entry of `x` between 2^(e-1) and 2^e; 0 if not finite.

    Divided by 2^e, x keeps all its digits, and its squares neither overflow nor underflow.
    """
    largest = jnp.max(jnp.abs(x), initial=0.0)
    exponent = jnp.frexp(jnp.where(jnp.isfinite(largest), largest, 0.0))[1]
    least = int(jnp.finfo(x.dtype).minexp)
    return jnp.clip(exponent, least, -least)


def plan_classes(
    counts: np.ndarray, dim: int, devices: int = 1
) -> tuple[tuple[int, ...], tuple[np.ndarray, ...]]:
    """Return groups of classes to decompose together, from the rows (or bounds) of each.

    Args:
        counts: integer [K], the number of rows of each class, or an upper bound.
        dim: Number of dimensions, D.
        devices: Number of devices among which the classes of a group are divided.

    Returns:
        (widths, groups). A class of n < D rows is decomposed through its rows, padded to the
        largest class of its group, within which class sizes differ by at most a factor of two;
        `widths` holds that size. The other classes, of width 0, are decomposed through their
        [D, D] Gram matrix. `groups` holds int32 arrays [chunks, classes], padded with K, with the
        same number of classes for each device.
    """
    counts = np.asarray(counts)
    wide = counts >= dim
    octave = np.ceil(np.log2(np.maximum(counts, 32))).astype(int)
    octave[wide] = 0
    octave[counts < 2] = -1
    widths, groups = [], []
    for group in np.unique(octave[octave >= 0]):
        members = np.flatnonzero(octave == group)
        width = 0 if group == 0 else min(-(-int(counts[members].max()) // 8) * 8, dim)
        most = max(CHUNK_ELEMENTS // ((width or dim) * dim), devices)
        if jax.default_backend() == "cpu":
            # LAPACK of a batch waits in XLA's thread pool for tasks of that same pool: if as many
            # calls wait as the pool has threads, as on simulated devices, it deadlocks.
            most = devices
        chunks = math.ceil(len(members) / most)
        per_chunk = math.ceil(math.ceil(len(members) / chunks) / devices) * devices
        padded = np.full(chunks * per_chunk, len(counts), np.int32)
        padded[: len(members)] = members
        widths.append(width)
        groups.append(padded.reshape(chunks, per_chunk))
    return tuple(widths), tuple(groups)


@functools.partial(jax.jit, static_argnames=("widths", "sharding"))
def mean_class_rank(
    features: jax.Array,
    labels: jax.Array,
    where: jax.Array | None,
    stats: ClassStats,
    groups: tuple[np.ndarray, ...],
    *,
    widths: tuple[int, ...],
    sharding: NamedSharding | None = None,
) -> jax.Array:
    """Return the mean over classes of at least two rows of erank(Cov of the class's unit rows).

    Args:
        features: floating [N, D].
        labels: integer [N].
        where: bool [N] or None.
        stats: The statistics of the unit rows.
        groups: From `plan_classes`.
        widths: From `plan_classes`.
        sharding: How a chunk [classes, ...] of classes is laid out over devices, each of which
            decomposes its own.

    Returns:
        Scalar of the statistics' dtype; NaN if no class has two rows.
    """
    rows, num_classes = labels.shape[0], stats.counts.shape[0]
    keep = numerics.row_mask(labels, num_classes, where)
    by_class = jnp.argsort(jnp.where(keep, labels, num_classes), stable=True)
    first_rows = jnp.cumsum(stats.counts, dtype=jnp.int32) - stats.counts
    # A class without spread has rank 0, so none of its rows are needed.
    row_counts = jnp.where(class_stats.spread(stats) == 0, 0, stats.counts)

    def residuals(label, first, width):
        """Unit rows first..first+width of a class, minus its mean; zeros past its last row."""
        member = first + jnp.arange(width, dtype=jnp.int32)
        within = member < jnp.take(row_counts, label, mode="fill", fill_value=0)
        position = jnp.take(first_rows, label, mode="clip") + member
        chosen = jnp.take(by_class, position, mode="clip")
        # Rows are gathered before they are normalized: no [N, D] array of directions is created.
        picked = class_stats.masked(jnp.take(features, chosen, axis=0, mode="clip"), within)
        centre = jnp.take(stats.means, label, axis=0, mode="clip")
        return jnp.where(within[:, None], numerics.l2_normalize(picked) - centre[None, :], 0.0)

    def dims_gram(label):
        def add(i, gram):
            part = residuals(label, i * width, width)
            return gram + numerics.matmul(part.T, part)

        dim, width = features.shape[1], min(GRAM_ROWS, rows)
        blocks = -(-jnp.take(row_counts, label, mode="fill", fill_value=0) // width)
        return lax.fori_loop(0, blocks, add, jnp.zeros((dim, dim), stats.means.dtype))

    def ranks_of_chunk(labels_of_chunk, width):
        if width:
            parts = jax.vmap(lambda label: residuals(label, 0, width))(labels_of_chunk)
            spectrum = rows_spectrum
        else:
            parts = lax.map(dims_gram, labels_of_chunk)
            spectrum = eigenvalues
        if sharding is not None:
            parts = lax.with_sharding_constraint(parts, sharding)
        return exp_entropy(spectrum(parts))

    ranks = jnp.zeros((num_classes,), stats.means.dtype)
    for width, group in zip(widths, groups, strict=True):
        of_group = lax.map(functools.partial(ranks_of_chunk, width=width), group)
        ranks = ranks.at[group.reshape(-1)].set(of_group.reshape(-1), mode="drop")
    paired = stats.counts >= 2
    number = jnp.sum(paired, dtype=ranks.dtype)
    return jnp.sum(jnp.where(paired, ranks, 0.0)) / jnp.where(number > 0, number, jnp.nan)


def rows_spectrum(rows: jax.Array) -> jax.Array:
    """Return eigenvalues of rows @ rows.T, for centered rows [..., n, D], n <= D, in any order."""
    # On CPU the singular values cost less than `eigvalsh`, which computes the vectors too, and
    # are more accurate; accelerators have no fast SVD of a batch.
    return lax.platform_dependent(
        rows,
        cpu=lambda rows: singular_values(rows) ** 2,
        default=lambda rows: eigenvalues(numerics.matmul(rows, rows.mT)),
    )
