"""Measures of Neural Collapse: the geometry of features, class means and prototypes.

`neural_collapse` returns all measures of one set of features, `optimum` their values at collapse.
"""

import contextlib
import functools
import importlib.util
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec
from jax.tree_util import Partial
from jax.typing import ArrayLike

from hsproto.core import class_stats, numerics, spectra
from hsproto.core.class_stats import class_means
from hsproto.core.simplex import simplex_etf
from hsproto.core.spectra import effective_rank

__all__ = ["class_means", "effective_rank", "neural_collapse", "optimum", "simplex_etf"]


@numerics.on_any_mesh()
def neural_collapse(
    features: ArrayLike,
    labels: ArrayLike,
    prototypes: ArrayLike | None = None,
    *,
    num_classes: int,
    bias: ArrayLike | None = None,
    where: ArrayLike | None = None,
) -> dict[str, jax.Array]:
    """Return all measures of Neural Collapse of one set of features.

    Notation: x_i are the features as given, u_i their directions, m_c and mu_c the means of x_i and
    u_i over class c, m_G and mu_G the means of these over classes, M the centred means m_c - m_G,
    w_c the prototypes as given, w^_c and mu^_c directions, K the number of counted classes, Cov a
    covariance, whose singular values are its eigenvalues. "At collapse" means: the features of a
    class are all equal, the class means form a simplex of K <= D+1 corners, and the prototypes are
    proportional to them. The measures are::

        key                     definition                                         at collapse
        ----------------------  -------------------------------------------------  -----------
        erank_intra             mean over classes of erank(Cov of the class's u)   see below
        erank_inter             erank(Cov of the mu_c)                             K-1
        instance_alignment      mean |u_i - u_j|² over pairs i != j of a class     0
        nc1                     Tr(S_W S_B^+)/K, S_W the mean over rows of         0
                                (x-m_y)(x-m_y)', S_B the mean over classes of MM'
        nc2_equinorm            standard deviation / mean of |M_c|                 0
        nc2_equiangular         mean |cos(M_a, M_b) + 1/(K-1)|, a != b             0
        cdnv                    mean (v_a + v_b)/(2 |m_a - m_b|²), a != b, v_c     0
                                the mean |x - m_c|² over the class
        cosine_means_mean       mean of mu^_a · mu^_b, a != b                      -1/(K-1)
        cosine_means_std        standard deviation of the same                     0
        classes_counted         number of classes with a row                       K
        erank_weights           erank(Cov of the w^_c)                             K-1
        weight_alignment        mean |u_i - w^_y|² over rows                       0
        class_alignment         mean |mu^_c - w^_c|² over classes                  0
        mir                     (H(G_W) + H(G_M) - H(G_W o G_M)) / min(H(G_W),     MIR*
                                H(G_M)), H(G) = -sum l log l over the eigenvalues
                                l of G/K; o is entrywise; G_W the Gram matrix of
                                the w^_c, G_M that of unit(mu^_c - mu^_G)
        mir_gap                 mir - MIR*                                         0
        hdr                     |H(G_W) - H(G_M)| / max(H(G_W), H(G_M))            0
        mir_centered,           the same with G_W that of                          MIR*, 0
        hdr_centered            unit(w^_c - mean of w^)
        nc3                     | W/|W| - M/|M| |, Frobenius norms                 0
        nc4                     share of rows where argmax(w_c · x + b_c) is not   0
                                the class mean nearest to x
        cosine_prototypes_mean  mean of w^_a · w^_b, a != b                        -1/(K-1)
        cosine_prototypes_std   standard deviation of the same                     0

        MIR* = 1/(K-1) + (K-2) log(K-2) / ((K-1) log(K-1)), and 0 for K = 2

    The keys from ``erank_weights`` on exist if `prototypes` is given. All measures are
    dimensionless; the effective ranks count dimensions.

    Limits of the measures. An effective rank is at least 1 for any spread, however small, so
    ``erank_intra`` has no value at collapse that training could approach (it is 0 only at exact
    collapse): ``nc1`` and ``cdnv`` measure the size of the spread. The ranks and the centered
    variants do not see a component that all prototypes share: the cosines do. ``nc1`` to ``nc4``
    and ``cdnv`` depend on the lengths of the features as given: for a loss that normalizes, pass
    unit features. The direction of mu_G, which enters G_M, is that of a vector that vanishes at
    collapse: as long as a remainder of it is left, ``hdr`` and ``mir`` depend on its direction, and
    jump from their optimum to an ``hdr`` of about 0.19 (K = 10) or 0.35 (K = 100) for features that
    form a simplex to 3 digits.

    Rows and classes that count. Rows with `where` False or a label outside 0..K-1 are left out,
    whatever they hold. A class without rows is left out of everything, including its prototype; a
    class with a single row is left out of ``erank_intra``, ``instance_alignment``, ``nc1`` and
    ``cdnv``. Differences explained by rounding alone (1.9e-6 of the size of the compared values)
    count as zero.

    Degenerate cases. Where a denominator vanishes, 0/0 is 0 and x/0 is infinity, e.g. ``nc1`` and
    ``cdnv`` where class means coincide and their rows do not. A zero vector has cosine 0 with any
    other. Where there is nothing to average the value is NaN: without rows; without a class of two
    rows, for the within-class measures; with fewer than two classes, for the between-class
    measures. If features or prototypes that count are not finite, all values are NaN.

    Gradients. ``erank_intra`` has no gradient: `jax.grad` of it raises ValueError as soon as a
    class holds (or, with traced labels, might hold) as many rows as there are dimensions. That of
    ``nc4`` and ``classes_counted``, which are counts, is zero.

    Cost. Everything is computed in float32, with matrix products in full precision. Features may be
    sharded over rows, on Auto or Explicit mesh axes. Called outside jit, the numbers of rows per
    class are known and each class is decomposed at its own size; under jit with traced labels any
    class might hold all rows, which costs more the more classes there are: N D² + K D³ for N >= D.
    (On CPU, set ``OPENBLAS_NUM_THREADS=1`` for that; a call outside jit takes care of it itself.)

    Args:
        features: floating [N, D].
        labels: integer [N].
        prototypes: floating [K, D], or None.
        num_classes: Number of classes of `labels` and `prototypes`.
        bias: floating [K], used by ``nc4``; requires `prototypes`.
        where: bool [N], the rows that count; None: all.

    Returns:
        A float32 scalar per key.

    Raises:
        ValueError: An argument has a wrong rank, shape or dtype, or `bias` is given without
            `prototypes`.

    Source:
        Paper, section 4 and appendix; Papyan, Han and Donoho 2020 (nc1 to nc4); Galanti, György
        and Hutter 2021 (cdnv); Song et al. 2024 (MIR, HDR); Roy and Vetterli 2007 (effective rank).

    Example:
        >>> import jax.numpy as jnp
        >>> from hsproto import geometry
        >>> labels = jnp.array([0, 0, 1, 1, 2, 2])
        >>> measures = geometry.neural_collapse(jnp.eye(3)[labels], labels, num_classes=3)
        >>> {key: round(float(measures[key]), 3) for key in ("nc1", "erank_inter", "cdnv")}
        {'nc1': 0.0, 'erank_inter': 2.0, 'cdnv': 0.0}
    """
    features, labels, prototypes, bias, where = _checked(
        features, labels, prototypes, num_classes, bias, where
    )
    rows, dim = features.shape
    sharding = _class_sharding(features)
    if _traced(labels):
        labels = numerics.class_ids(labels, num_classes)
        counts = np.full(num_classes, rows)
    else:
        # Known labels are counted at once, also where the features are traced.
        with jax.ensure_compile_time_eval():
            labels = numerics.class_ids(labels, num_classes)
            counts = _count(labels, None if _traced(where) else where, num_classes, sharding)
    devices = 1 if sharding is None else sharding.mesh.size
    widths, groups = spectra.plan_classes(counts, dim, devices)
    arrays = (features, labels, where, prototypes, bias)
    with contextlib.nullcontext() if _traced(*arrays) else _blas_on_one_thread():
        measures = _measure(*arrays, groups, widths, sharding, num_classes)
        measures = jax.block_until_ready(measures)
    return {key: measures[key] for key in optimum(num_classes) if key in measures}


def optimum(num_classes: int, dim: int | None = None) -> dict[str, float | None]:
    """Return the value of each measure of `neural_collapse` at collapse.

    Args:
        num_classes: Number of classes, K.
        dim: Number of dimensions of the features, D; None for any D >= K-1. For smaller D, K points
            form no simplex, and only the measures of collapse and alignment have known values.

    Returns:
        A float per key, or None where there is no attainable or no known value.

    Raises:
        ValueError: `num_classes` is not a positive integer.

    Example:
        >>> from hsproto import geometry
        >>> geometry.optimum(11)["cosine_means_mean"]
        -0.1
    """
    numerics.check_classes(num_classes)
    simplex = num_classes >= 2 and (dim is None or dim >= num_classes - 1)
    num_classes = int(num_classes)
    spanned = num_classes - 1.0 if simplex else None
    cosine = -1 / spanned if spanned else None
    best = spectra.mir_at_collapse(num_classes) if simplex else None
    zero = 0.0 if simplex else None
    apart = 0.0 if num_classes >= 2 else None
    return {
        "erank_intra": None,
        "erank_inter": spanned,
        "instance_alignment": 0.0,
        "nc1": apart,
        "nc2_equinorm": zero,
        "nc2_equiangular": zero,
        "cdnv": apart,
        "cosine_means_mean": cosine,
        "cosine_means_std": zero,
        "classes_counted": float(num_classes),
        "erank_weights": spanned,
        "weight_alignment": 0.0,
        "class_alignment": 0.0,
        "mir": best,
        "mir_gap": zero,
        "mir_centered": best,
        "hdr": zero,
        "hdr_centered": zero,
        "nc3": zero,
        "nc4": 0.0,
        "cosine_prototypes_mean": cosine,
        "cosine_prototypes_std": zero,
    }


def _checked(
    features: ArrayLike,
    labels: ArrayLike,
    prototypes: ArrayLike | None,
    num_classes: int,
    bias: ArrayLike | None,
    where: ArrayLike | None,
) -> tuple[jax.Array, Any, jax.Array | None, jax.Array | None, Any]:
    """(features, labels, prototypes, bias, where) as arrays, the floats among them not float64."""
    features = numerics.check_features("features", features)
    if features.shape[1] == 0:
        raise ValueError(f"features must have at least one column; got shape {features.shape}")
    numerics.check_classes(num_classes)
    labels = numerics.check_labels(features.shape[0], labels)
    where = numerics.check_where(features.shape[0], where)
    if prototypes is not None:
        prototypes = numerics.check_features("prototypes", prototypes, features.shape[1])
        if prototypes.shape[0] != num_classes:
            raise ValueError(
                f"prototypes must have num_classes = {num_classes} rows; "
                f"got shape {prototypes.shape}"
            )
        prototypes = _short(prototypes)
    if bias is not None:
        if prototypes is None:
            raise ValueError("bias is that of the prototypes: give prototypes too")
        bias = numerics.as_array("bias", bias)
        if bias.shape != (num_classes,):
            raise ValueError(f"bias must have shape ({num_classes},); got shape {bias.shape}")
        bias = _short(bias)
    return _short(features), labels, prototypes, bias, where


def _short(array: jax.Array | np.ndarray) -> jax.Array:
    array = jnp.asarray(array)
    return array.astype(jnp.float32) if array.dtype == jnp.float64 else array


def _class_sharding(features: jax.Array) -> NamedSharding | None:
    """Layout of classes for features sharded over rows: over the same devices."""
    sharding = None if isinstance(features, Tracer) else getattr(features, "sharding", 0)
    if not isinstance(sharding, NamedSharding) or sharding.is_fully_replicated:
        return None
    return NamedSharding(sharding.mesh, PartitionSpec(sharding.mesh.axis_names))


def _traced(*arrays: object) -> bool:
    return any(isinstance(array, Tracer) for array in arrays)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _count(labels, where, num_classes, sharding):
    keep = numerics.row_mask(labels, num_classes, where)
    counts = jax.ops.segment_sum(
        keep.astype(jnp.int32), jnp.where(keep, labels, num_classes), num_classes
    )
    if sharding is not None:
        # Every process of a run plans with these numbers and so needs all of them.
        everywhere = NamedSharding(sharding.mesh, PartitionSpec())
        counts = lax.with_sharding_constraint(counts, everywhere)
    return counts


@contextlib.contextmanager
def _blas_on_one_thread() -> Iterator[None]:
    """Limit BLAS on CPU to one thread.

    BLAS splits even a decomposition of 500 rows over all cores. That gains nothing, and since its
    threads wait for each other in a loop, it takes up to 20 times as long wherever another program,
    or XLA itself, runs a thread on one of these cores. threadpoolctl sets the limit; a light
    install lacks it, and then only that time is lost.
    """
    if jax.default_backend() != "cpu" or importlib.util.find_spec("threadpoolctl") is None:
        yield
        return
    import threadpoolctl

    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        yield


def _measure(features, labels, where, prototypes, bias, groups, widths, sharding, num_classes):
    # Compiled in parts: the part between classes is reused for any number of rows.
    empty = class_stats.init(num_classes, jnp.shape(features)[1])
    to_size = Partial(_to_size, _exponent(features, labels, where, num_classes))
    unit_stats = class_stats.update(empty, features, labels, where, numerics.l2_normalize)
    stats = class_stats.update(empty, features, labels, where, to_size)
    measures, between = _of_classes(unit_stats, stats, prototypes)
    measures["erank_intra"] = spectra.mean_class_rank(
        features, labels, where, unit_stats, groups, widths=widths, sharding=sharding
    )
    measures |= _of_rows(features, labels, where, to_size, stats, between, prototypes, bias)
    return _where_finite(measures, unit_stats, stats, prototypes)


@jax.jit
def _where_finite(measures, unit_stats, stats, prototypes):
    """`measures` with NaN for all of them where rows or prototypes that count are not finite."""
    numbers = [unit_stats.scatter, stats.scatter]
    if prototypes is not None:
        numbers.append(class_stats.masked(prototypes, stats.counts > 0))
    finite = jnp.all(jnp.array([jnp.all(jnp.isfinite(x)) for x in numbers]))
    known = {key: jnp.where(finite, value, jnp.nan) for key, value in measures.items()}
    return known | {"classes_counted": measures["classes_counted"]}


@functools.partial(jax.jit, static_argnums=3)
def _exponent(features, labels, where, num_classes):
    """Exponent of the largest entry of the rows that count."""
    keep = numerics.row_mask(labels, num_classes, where)
    blocks = class_stats.row_blocks(*features.shape)

    def larger(i, largest):
        rows = class_stats.masked(blocks.take(features, i), blocks.take(keep, i))
        return jnp.maximum(largest, jnp.max(jnp.abs(rows), initial=0.0))

    return spectra.binary_exponent(
        lax.fori_loop(0, blocks.count, larger, jnp.zeros((), jnp.float32))
    )


def _to_size(exponent, rows):
    """`rows` over a power of two: their ratios are free of scale, their squares may overflow."""
    return jnp.ldexp(rows, -exponent)


@jax.jit
def _of_classes(unit_stats, stats, prototypes):
    """Measures determined by the statistics of classes and the prototypes; and the centred means,
    their centre and `spectra.whitening`, which `_of_rows` compares the rows with."""
    counted = stats.counts > 0
    centred, centre = class_stats.centred(stats.means, counted)
    directions = None
    if prototypes is not None:
        prototypes = class_stats.masked(prototypes, counted)
        directions = numerics.l2_normalize(prototypes)
    measures = {"classes_counted": jnp.sum(counted).astype(jnp.float32)}
    measures |= _of_directions(unit_stats) | _of_means(stats, centred)
    measures |= _of_spectra(unit_stats.means, directions, counted)
    if prototypes is not None:
        measures |= _of_prototypes(prototypes, directions, unit_stats, centred)
    return measures, (centred, centre, spectra.whitening(centred, stats.means, counted))


def _of_directions(stats):
    """Measures determined by the means and variances of unit features."""
    counted, paired = stats.counts > 0, stats.counts >= 2
    size = stats.counts.astype(jnp.float32)
    # Over the ordered pairs of a class, |u_i - u_j|² adds up to 2 n_c times its scatter.
    squares = jnp.sum(2 * size * class_stats.spread(stats))
    pairs = jnp.where(paired.any(), jnp.sum(size * (size - 1)), jnp.nan)
    cosine_mean, cosine_std = _cosines(class_stats.directions(stats.means), counted)
    return {
        "instance_alignment": squares / pairs,
        "cosine_means_mean": cosine_mean,
        "cosine_means_std": cosine_std,
    }


def _of_means(stats, centred):
    """Measures determined by the means and variances of the features as given."""
    counted, paired = stats.counts > 0, stats.counts >= 2
    lengths = jnp.linalg.norm(centred, axis=1)
    mean_length = _mean(lengths, counted)
    deviation = jnp.sqrt(_mean((lengths - mean_length) ** 2, counted))
    directions = numerics.l2_normalize(centred)
    cosines = numerics.matmul(directions, directions.T)
    simplex_cosine = -1 / jnp.maximum(_number(counted) - 1, 1)
    return {
        "nc2_equinorm": _between(counted, spectra.ratio(deviation, mean_length)),
        "nc2_equiangular": _mean(jnp.abs(cosines - simplex_cosine), _pairs(counted)),
        "cdnv": _mean(_normalised_variances(stats), _pairs(paired)),
    }


def _normalised_variances(stats):
    """``(v_a + v_b) / (2 |m_a - m_b|²)`` of each pair of classes, [K, K]."""
    variances = class_stats.spread(stats) / jnp.maximum(stats.counts.astype(jnp.float32), 1)
    sizes = jnp.sum(stats.means**2, axis=1)

    def of_class(own):
        mean, variance, size = own
        # Differences one by one: |a|² + |b|² - 2ab would lose the digits of close means.
        distances = jnp.sum((stats.means - mean[None, :]) ** 2, axis=1)
        distances = jnp.where(distances <= class_stats.ROUNDING * (sizes + size), 0.0, distances)
        return spectra.ratio(variances + variance, 2 * distances)

    return lax.map(of_class, (stats.means, variances, sizes))


def _of_prototypes(prototypes, directions, stats, centred_means):
    """Measures determined by prototypes and class means but spectra; `stats` of unit features."""
    counts, counted = stats.counts.astype(jnp.float32), stats.counts > 0
    # |u_i - w|² summed over a class is its scatter plus n_c |mu_c - w|²: no second pass over rows.
    offsets = jnp.sum((stats.means - directions) ** 2, axis=1)
    squares = jnp.sum(class_stats.spread(stats) + counts * offsets)
    from_mean = jnp.sum((class_stats.directions(stats.means) - directions) ** 2, axis=1)
    cosine_mean, cosine_std = _cosines(directions, counted)
    difference = _to_unit_norm(prototypes) - _to_unit_norm(centred_means)
    return {
        "weight_alignment": squares / jnp.where(counted.any(), jnp.sum(counts), jnp.nan),
        "class_alignment": _mean(from_mean, counted),
        "nc3": _between(counted, jnp.linalg.norm(difference)),
        "cosine_prototypes_mean": cosine_mean,
        "cosine_prototypes_std": cosine_std,
    }


def _of_spectra(means, directions, counted):
    """Ranks between classes of the means of unit features; with prototypes, MIR and HDR."""
    number = _number(counted)
    if directions is None:
        squares = spectra.singular_values(class_stats.centred(means, counted)[0]) ** 2
        return {"erank_inter": _between(counted, spectra.exp_entropy(squares))}
    both = jnp.stack([means, directions])
    centred, centre = jax.vmap(class_stats.centred, in_axes=(0, None))(both, counted)
    from_centre = class_stats.directions(means) - class_stats.directions(centre[0])[None, :]
    from_centre = class_stats.masked(from_centre, counted)
    noise = jnp.sum(from_centre**2, axis=1, keepdims=True) <= class_stats.ROUNDING
    rows = jnp.stack([directions, centred[1], jnp.where(noise, 0.0, from_centre)])
    rows = numerics.l2_normalize(rows)
    # One by one, not as a batch: see `spectra.plan_classes`.
    squares = lax.map(spectra.singular_values, jnp.concatenate([centred, rows])) ** 2
    ranks = spectra.exp_entropy(squares[:2])

    nonzero = jnp.any(rows != 0, axis=2)
    grams = numerics.matmul(rows, rows.mT)
    entropies = spectra.matrix_entropy(squares[2:], _number(nonzero) / number)
    joint = spectra.matrix_entropy(
        lax.map(spectra.eigenvalues, grams[:2] * grams[2:]),
        _number(nonzero[:2] & nonzero[2:]) / number,
    )
    mir, hdr = spectra.information(entropies[:2], entropies[2], joint)
    measures = {
        "erank_inter": ranks[0],
        "erank_weights": ranks[1],
        "mir": mir[0],
        "mir_gap": mir[0] - spectra.mir_at_collapse(number),
        "mir_centered": mir[1],
        "hdr": hdr[0],
        "hdr_centered": hdr[1],
    }
    return {key: _between(counted, value) for key, value in measures.items()}


@jax.jit
def _of_rows(features, labels, where, to_size, stats, between, prototypes, bias):
    """nc1, and nc4 if there are prototypes: what needs the rows once the means are known."""
    counted, paired = stats.counts > 0, stats.counts >= 2
    keep = numerics.row_mask(labels, counted.shape[0], where)
    centred, centre, whiten = between
    scatter = class_stats.spread(stats)
    half_squares = jnp.where(counted, jnp.sum(centred * centred, axis=1) / 2, jnp.inf)
    blocks = class_stats.row_blocks(features.shape[0], max(features.shape[1], counted.shape[0]))

    def add(i, sums):
        inside, disagree = sums
        rows, label, kept = (blocks.take(x, i) for x in (features, labels, keep))
        kept &= blocks.fresh(i)
        rows = class_stats.masked(rows, kept)
        shifted = to_size(rows) - centre[None, :]
        residuals = shifted - jnp.take(centred, label, axis=0, mode="clip")
        within = kept & (jnp.take(scatter, label, mode="clip") != 0)
        squares = jnp.sum(numerics.matmul(residuals, whiten) ** 2, axis=1)
        inside += jnp.sum(jnp.where(within, squares, 0.0))
        if prototypes is not None:
            distances = half_squares[None, :] - numerics.matmul(shifted, centred.T)
            logits = numerics.matmul(rows, prototypes.T)
            if bias is not None:
                logits += jnp.asarray(bias, jnp.float32)[None, :]
            chosen = jnp.argmax(jnp.where(counted[None, :], logits, -jnp.inf), axis=1)
            differs = kept & (jnp.argmin(distances, axis=1) != chosen)
            disagree += jnp.sum(differs, dtype=jnp.int32)
        return inside, disagree

    none = jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32)
    inside, disagree = lax.fori_loop(0, blocks.count, add, none)
    counts = stats.counts.astype(jnp.float32)
    inside /= jnp.maximum(jnp.sum(jnp.where(paired, counts, 0.0)), 1)
    # S_B = 0 inverts to 0, but spread around means that coincide is not collapse.
    inside = jnp.where(jnp.any(centred != 0), inside, spectra.ratio(jnp.sum(scatter), 0.0))
    measures = {"nc1": jnp.where(paired.any(), _between(counted, inside), jnp.nan)}
    if prototypes is not None:
        rows = jnp.where(counted.any(), jnp.sum(counts), jnp.nan)
        measures["nc4"] = disagree.astype(jnp.float32) / rows
    return measures


def _cosines(directions, counted):
    """Mean and standard deviation of the cosines between different counted classes."""
    cosines, pairs = numerics.matmul(directions, directions.T), _pairs(counted)
    mean = _mean(cosines, pairs)
    return mean, jnp.sqrt(_mean((cosines - mean) ** 2, pairs))


def _to_unit_norm(matrix):
    return numerics.l2_normalize(matrix.reshape(-1)).reshape(matrix.shape)


def _pairs(some):
    return some[:, None] & some[None, :] & ~jnp.eye(some.shape[0], dtype=bool)


def _mean(values, some):
    """Mean of `values` over `some`; NaN over none."""
    number = jnp.sum(some, dtype=jnp.float32)
    return jnp.sum(jnp.where(some, values, 0.0)) / jnp.where(number > 0, number, jnp.nan)


def _number(some):
    """Number of True entries along the last axis, as float32."""
    return jnp.sum(some, axis=-1, dtype=jnp.float32)


def _between(counted, value):
    """`value` where there are classes to compare, NaN below two."""
    return jnp.where(jnp.sum(counted) >= 2, value, jnp.nan)
