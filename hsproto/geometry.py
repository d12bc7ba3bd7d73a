"""Neural Collapse measured: how features, class means and prototypes stand to each other.

`neural_collapse` gives all measures of one set of features, `optimum` their values at collapse.
"""

import contextlib
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import threadpoolctl
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec
from jax.tree_util import Partial

from hsproto import class_stats, numerics, spectra
from hsproto.class_stats import class_means
from hsproto.spectra import effective_rank, simplex_etf

__all__ = ["class_means", "effective_rank", "neural_collapse", "optimum", "simplex_etf"]


def neural_collapse(features, labels, prototypes=None, *, num_classes, bias=None, where=None):
    """All measures of Neural Collapse of one set of features, as float32 scalars.

    With x_i the features as given, u_i = x_i/|x_i|, m_c and mu_c their means over class c,
    m_G and mu_G the means of these over classes, M the centred means m_c - m_G, w_c the
    prototypes as given, w^_c and mu^_c directions, K the number of counted classes. "Cov" are
    covariances, with the eigenvalues as singular values. "At collapse": features of a class all
    equal, class means at a simplex of K <= D+1 corners, prototypes proportional to them.

    ======================  =================================================  ===========
    key                     definition                                         at collapse
    ======================  =================================================  ===========
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
    classes_counted         classes with a row                                 K
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
    ======================  =================================================  ===========

    Keys from erank_weights on exist where `prototypes` are given. All are dimensionless; erank_*
    count dimensions. MIR* = 1/(K-1) + (K-2) log(K-2) / ((K-1) log(K-1)), 0 for K = 2.

    What they do not say. erank is at least 1 for any spread, however small, so that erank_intra
    has no value at collapse that training could approach (it is 0 at exact collapse alone): nc1
    and cdnv measure the size of the spread. The ranks and the centered variants do not see a
    component that all prototypes share: the cosines do. nc1 to nc4 and cdnv depend on the
    lengths of the features as given: for a loss that normalises, give unit features. The
    direction of mu_G, in G_M, is that of a vector that vanishes at collapse: near it, as long as
    a remainder is left, mir and hdr depend on where that remainder points.

    Who counts. Rows with `where` False or a label outside 0..K-1 are left out, whatever they
    hold. A class without rows is left out of everything, its prototype too; one with a single row
    out of erank_intra, instance_alignment, nc1 and cdnv. Differences that rounding alone
    explains (1.9e-6 of the size of what is compared) count as none.
    Where a denominator vanishes: 0/0 is 0, and x/0 infinity, such as nc1 and cdnv where class
    means coincide and their rows do not. A zero vector has cosine 0 with any other.
    Where there is nothing to average the value is NaN: without rows, without a class of two rows
    for the within-class measures, with fewer than two classes for those between classes. So is
    it where features or prototypes that count are not finite.

    features: floating [N, D]. labels: integer [N]. prototypes: floating [K, D]. bias: [K], used
    by nc4. where: bool [N]. num_classes: the K of labels and prototypes.
    Everything is computed in float32, matrix products in full precision. Features may be sharded
    over rows. Called outside of jit the numbers of rows per class are known and each class is
    decomposed at its own size; under jit with traced labels any class might hold all rows, which
    costs the more the more classes there are: N D² + K D³ for N >= D.

    Raises ValueError for wrong shapes or types, and for a bias without prototypes.
    Sources: paper section 4 and appendix; Papyan, Han and Donoho 2020 (nc1-nc4); Galanti, György
    and Hutter 2021 (cdnv); Song et al. 2024 (MIR, HDR); Roy and Vetterli 2007 (erank).
    """
    _check(features, labels, prototypes, num_classes, bias, where)
    rows, dim = jnp.shape(features)
    traced = [isinstance(x, jax.core.Tracer) for x in (labels, where)]
    sharding = _class_sharding(features)
    if traced[0]:
        counts = np.full(num_classes, rows)
    else:
        counts = np.asarray(
            _count(labels, None if traced[1] else where, num_classes, _replicated(sharding))
        )
    devices = 1 if sharding is None else math.prod(sharding.mesh.shape.values())
    widths, groups = spectra.plan_classes(counts, dim, devices)
    arguments = (features, labels, where, prototypes, bias, groups, num_classes, widths, sharding)
    if any(isinstance(x, jax.core.Tracer) for x in arguments[:5]):
        return _measure(*arguments)
    with _blas_on_one_thread():
        return jax.block_until_ready(_measure(*arguments))


def optimum(num_classes, dim=None):
    """Value of each measure of `neural_collapse` at collapse; None where there is none to reach.

    num_classes: K. dim: D, of the features; None for D >= K-1. Below that K points form no
    simplex, and only what follows from collapse and alignment alone has a known value.
    Returns a dict of floats and None. Raises ValueError for K < 1.
    """
    numerics.check_classes(num_classes)
    simplex = num_classes >= 2 and (dim is None or dim >= num_classes - 1)
    num_classes = int(num_classes)
    spanned = num_classes - 1.0 if simplex else None
    cosine = -1 / spanned if simplex else None
    best = _mir_optimum(num_classes) if simplex else None
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


def _check(features, labels, prototypes, num_classes, bias, where):
    numerics.check_features("features", features)
    numerics.check_classes(num_classes)
    numerics.check_rows(features, labels, where)
    if prototypes is not None:
        numerics.check_features("prototypes", prototypes, jnp.shape(features)[1])
        if jnp.shape(prototypes)[0] != num_classes:
            raise ValueError(
                f"prototypes must have num_classes = {num_classes} rows; "
                f"got shape {jnp.shape(prototypes)}"
            )
    if bias is not None and prototypes is None:
        raise ValueError("bias is that of the prototypes: give prototypes too")
    if bias is not None and jnp.shape(bias) != (num_classes,):
        raise ValueError(f"bias must have shape ({num_classes},); got shape {jnp.shape(bias)}")


def _class_sharding(features):
    """How classes are laid out where features are sharded over rows: over the same devices."""
    sharding = None if isinstance(features, jax.core.Tracer) else getattr(features, "sharding", 0)
    if not isinstance(sharding, NamedSharding) or sharding.is_fully_replicated:
        return None
    return NamedSharding(sharding.mesh, PartitionSpec(sharding.mesh.axis_names))


def _replicated(sharding):
    return None if sharding is None else NamedSharding(sharding.mesh, PartitionSpec())


@functools.partial(jax.jit, static_argnums=(2, 3))
def _count(labels, where, num_classes, sharding):
    labels = labels.astype(jnp.int32)
    keep = numerics.row_mask(labels, num_classes, where)
    counts = jax.ops.segment_sum(
        keep.astype(jnp.int32), jnp.where(keep, labels, num_classes), num_classes
    )
    # Every process of a run plans by these numbers and so needs them all.
    return counts if sharding is None else lax.with_sharding_constraint(counts, sharding)


@contextlib.contextmanager
def _blas_on_one_thread():
    """On CPU, XLA gives each core a class to decompose; were BLAS to split each decomposition
    over all cores too, the threads would wait for each other: up to 20 times slower."""
    if jax.default_backend() != "cpu":
        yield
        return
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        yield


@functools.partial(jax.jit, static_argnums=(6, 7, 8))
def _measure(
    features, labels, where, prototypes, bias, groups, num_classes, widths, sharding
):
    labels = labels.astype(jnp.int32)
    keep = numerics.row_mask(labels, num_classes, where)
    empty = class_stats.init(num_classes, features.shape[1])
    unit_stats = class_stats.update(empty, features, labels, where, numerics.unit)
    # A power of two: nc1-nc4 and cdnv are free of scale, their squares are not free of overflow.
    exponent = spectra.binary_exponent(class_stats.masked(features, keep))
    to_size = Partial(_to_size, exponent)
    stats = class_stats.update(empty, features, labels, where, to_size)

    measures = _of_directions(unit_stats)
    measures["erank_intra"] = spectra.mean_class_rank(
        features, labels, keep, unit_stats, widths, groups, sharding
    )
    measures |= _of_means(stats)
    if prototypes is not None:
        measures |= _of_prototypes(prototypes, unit_stats, stats)
    measures |= _over_rows(features, labels, keep, to_size, stats, prototypes, bias)

    finite = jnp.isfinite(jnp.sum(stats.scatter))
    if prototypes is not None:
        counted = (stats.counts > 0)[:, None]
        finite &= jnp.all(jnp.isfinite(prototypes) | ~counted)
    measures = {key: jnp.where(finite, value, jnp.nan) for key, value in measures.items()}
    measures["classes_counted"] = jnp.sum(stats.counts > 0).astype(jnp.float32)
    return {key: measures[key].astype(jnp.float32) for key in optimum(num_classes) if key in measures}


def _to_size(exponent, rows):
    return jnp.ldexp(rows, -exponent)


def _of_directions(stats):
    """What unit features alone determine."""
    counted, paired = stats.counts > 0, stats.counts >= 2
    scatter = class_stats.spread(stats)
    size = stats.counts.astype(jnp.float32)
    # sum over ordered pairs of |u_i - u_j|² = 2 n_c scatter_c
    pairs = jnp.sum(size * (size - 1))
    alignment = jnp.sum(2 * size * scatter) / jnp.where(paired.any(), pairs, jnp.nan)
    cosine_mean, cosine_std = _cosines(class_stats.directions(stats.means), counted)
    return {
        "erank_inter": _between(counted, _rank_of_centred(stats.means, counted)),
        "instance_alignment": alignment,
        "cosine_means_mean": cosine_mean,
        "cosine_means_std": cosine_std,
    }


def _of_means(stats):
    """What the means and variances of the features as given determine."""
    counted, paired = stats.counts > 0, stats.counts >= 2
    centred, _ = _centred(stats.means, counted)
    lengths = jnp.linalg.norm(centred, axis=1)
    mean_length = _mean(lengths, counted)
    deviation = jnp.sqrt(_mean((lengths - mean_length) ** 2, counted))
    directions = numerics.unit(centred)
    cosines = numerics.matmul(directions, directions.T)
    simplex_cosine = -1 / jnp.maximum(jnp.sum(counted) - 1, 1)
    return {
        "nc2_equinorm": _between(counted, _ratio(deviation, mean_length)),
        "nc2_equiangular": _mean(jnp.abs(cosines - simplex_cosine), _pairs(counted)),
        "cdnv": _mean(_normalised_variances(stats), _pairs(paired)),
    }


def _normalised_variances(stats):
    """(v_a + v_b) / (2 |m_a - m_b|²) of each pair of classes, [K, K]."""
    variances = class_stats.spread(stats) / jnp.maximum(stats.counts, 1)
    sizes = jnp.sum(stats.means**2, axis=1)

    def of_class(own):
        mean, variance, size = own
        # Differences one by one: |a|² + |b|² - 2ab would lose the digits of close means.
        distances = jnp.sum((stats.means - mean) ** 2, axis=1)
        distances = jnp.where(distances <= class_stats.ROUNDING * (sizes + size), 0.0, distances)
        return _ratio(variances + variance, 2 * distances)

    return lax.map(of_class, (stats.means, variances, sizes))


def _of_prototypes(prototypes, unit_stats, stats):
    """What prototypes and class means determine."""
    counts = stats.counts
    counted = counts > 0
    prototypes = class_stats.masked(prototypes, counted)
    directions = numerics.unit(prototypes)
    mean_directions = class_stats.directions(unit_stats.means)

    # |u_i - w|² summed over a class is its scatter and n_c |mu_c - w|²: no second look at rows.
    offsets = jnp.sum((unit_stats.means - directions) ** 2, axis=1)
    total = jnp.sum(class_stats.spread(unit_stats) + counts * offsets)
    alignment = total / jnp.where(counted.any(), jnp.sum(counts), jnp.nan)
    cosine_mean, cosine_std = _cosines(directions, counted)

    means, _ = _centred(stats.means, counted)
    difference = _to_unit_norm(prototypes) - _to_unit_norm(means)
    centred_directions = numerics.unit(_centred(directions, counted)[0])
    mean_rows = _mean_rows(unit_stats.means, mean_directions, counted)
    number = jnp.sum(counted)
    mir, hdr = _information(directions, mean_rows, number)
    mir_centered, hdr_centered = _information(centred_directions, mean_rows, number)
    between = {
        "erank_weights": _rank_of_centred(directions, counted),
        "mir": mir,
        "mir_gap": mir - _mir_optimum(number),
        "mir_centered": mir_centered,
        "hdr": hdr,
        "hdr_centered": hdr_centered,
        "nc3": jnp.linalg.norm(difference),
    }
    return {key: _between(counted, value) for key, value in between.items()} | {
        "weight_alignment": alignment,
        "class_alignment": _mean(jnp.sum((mean_directions - directions) ** 2, axis=1), counted),
        "cosine_prototypes_mean": cosine_mean,
        "cosine_prototypes_std": cosine_std,
    }


def _mean_rows(means, directions, counted):
    """unit(mu^_c - mu^_G) [K, D], zero where the difference is."""
    centre = jnp.where(
        jnp.sum(counted) > 0, jnp.sum(means, axis=0) / jnp.maximum(jnp.sum(counted), 1), 0.0
    )
    centre = class_stats.directions(centre)
    rows = jnp.where(counted[:, None], directions - centre, 0.0)
    noise = jnp.sum(rows * rows, axis=1, keepdims=True) <= class_stats.ROUNDING
    return jnp.where(noise, 0.0, numerics.unit(rows))


def _information(prototype_rows, mean_rows, number):
    """Matrix mutual information ratio and entropy difference ratio of two sets of unit rows."""
    nonzero = [jnp.any(rows != 0, axis=1) for rows in (prototype_rows, mean_rows)]
    of_prototypes, of_means = (
        _matrix_entropy(spectra.singular_values(rows) ** 2, jnp.sum(some) / number)
        for rows, some in zip((prototype_rows, mean_rows), nonzero, strict=True)
    )
    product = numerics.matmul(prototype_rows, prototype_rows.T)
    product = product * numerics.matmul(mean_rows, mean_rows.T)
    both = jnp.sum(nonzero[0] & nonzero[1]) / number
    joint = _matrix_entropy(spectra.eigenvalues(product), both)
    least = jnp.minimum(of_prototypes, of_means)
    # With one entropy zero the joint one equals the other: the ratio is 0/0.
    mutual = jnp.where(least == 0, 0.0, _ratio(of_prototypes + of_means - joint, least))
    most = jnp.maximum(of_prototypes, of_means)
    return mutual, _ratio(jnp.abs(of_prototypes - of_means), most)


def _matrix_entropy(eigenvalues, trace):
    """-sum l log l of eigenvalues known up to a factor, of a matrix whose trace is known."""
    return spectra.entropy(trace * _ratio(eigenvalues, jnp.sum(eigenvalues)))


def _mir_optimum(number):
    """MIR at collapse of `number` classes, a Python int or a traced integer.

    0 for two classes, where both entropies are 0; the formula falls without bound towards K = 2.
    """
    if isinstance(number, int):
        return 0.0 if number <= 2 else _mir_formula(number - 1.0, math.log)
    others = jnp.maximum(number - 1, 2).astype(jnp.float32)
    return jnp.where(number <= 2, 0.0, _mir_formula(others, jnp.log))


def _mir_formula(others, log):
    return 1 / others + (others - 1) * log(others - 1) / (others * log(others))


def _over_rows(features, labels, keep, to_size, stats, prototypes, bias):
    """nc1, and nc4 where there are prototypes: what needs the rows once the means are known."""
    counted, paired = stats.counts > 0, stats.counts >= 2
    centred, centre = _centred(stats.means, counted)
    whiten = _whitening(centred, stats.means, counted)
    scatter = class_stats.spread(stats)
    half_squares = jnp.where(counted, jnp.sum(centred * centred, axis=1) / 2, jnp.inf)
    blocks = class_stats.row_blocks(features.shape[0], max(features.shape[1], counted.shape[0]))

    def add(i, sums):
        inside, disagree = sums
        rows, label, kept = (blocks.take(x, i) for x in (features, labels, keep))
        kept &= blocks.fresh(i)
        rows = class_stats.masked(rows, kept)
        shifted = to_size(rows) - centre
        residuals = shifted - jnp.take(centred, label, axis=0, mode="clip")
        within = kept & (jnp.take(scatter, label, mode="clip") > 0)
        squares = jnp.sum(numerics.matmul(residuals, whiten) ** 2, axis=1)
        inside += jnp.sum(jnp.where(within, squares, 0.0))
        if prototypes is not None:
            distances = half_squares - numerics.matmul(shifted, centred.T)
            logits = numerics.matmul(rows, prototypes.T) + (0.0 if bias is None else bias)
            chosen = jnp.argmax(jnp.where(counted, logits, -jnp.inf), axis=1)
            disagree += jnp.sum(kept & (jnp.argmin(distances, axis=1) != chosen))
        return inside, disagree

    inside, disagree = lax.fori_loop(0, blocks.count, add, (jnp.zeros(()), jnp.zeros((), int)))
    inside /= jnp.maximum(jnp.sum(jnp.where(paired, stats.counts, 0)), 1)
    # S_B = 0 inverts to 0, but spread around means that coincide is no collapse.
    inside = jnp.where(jnp.any(centred != 0), inside, _ratio(jnp.sum(scatter), 0.0))
    measures = {"nc1": jnp.where(paired.any(), _between(counted, inside), jnp.nan)}
    if prototypes is not None:
        measures["nc4"] = disagree / jnp.where(counted.any(), jnp.sum(stats.counts), jnp.nan)
    return measures


def _whitening(centred, means, counted):
    """A [D, r] with |A' x|² = x' S_B^+ x / K, S_B the covariance of the counted means."""
    _, values, directions = jnp.linalg.svd(centred, full_matrices=False)
    # The means are exact to rounding of their own size, which a shared component makes large.
    size = jnp.linalg.norm(class_stats.masked(means, counted))
    keep = values > 4 * jnp.finfo(jnp.float32).eps * size
    # Centred, K means span K-1 dimensions: the last singular value is nothing but rounding.
    keep &= jnp.arange(values.shape[0]) < jnp.sum(counted) - 1
    return directions.T * jnp.where(keep, 1 / jnp.where(keep, values, 1.0), 0.0)


def _centred(rows, counted):
    """Counted rows less their mean, and that mean; zero where rounding alone parts the two."""
    number = jnp.maximum(jnp.sum(counted), 1)
    mean = jnp.sum(class_stats.masked(rows, counted), axis=0) / number
    mean += jnp.sum(class_stats.masked(rows - mean, counted), axis=0) / number
    rest = class_stats.masked(rows - mean, counted)
    size = jnp.max(jnp.sum(class_stats.masked(rows, counted) ** 2, axis=1))
    noise = jnp.sum(rest * rest, axis=1, keepdims=True) <= class_stats.ROUNDING * size
    return jnp.where(noise, 0.0, rest), mean


def _rank_of_centred(rows, counted):
    centred, _ = _centred(rows, counted)
    values = spectra.singular_values(centred, rank=jnp.sum(counted) - 1)
    return spectra.exp_entropy(values**2)


def _cosines(directions, counted):
    """Mean and standard deviation of the cosines between different counted classes."""
    cosines, pairs = numerics.matmul(directions, directions.T), _pairs(counted)
    mean = _mean(cosines, pairs)
    return mean, jnp.sqrt(_mean((cosines - mean) ** 2, pairs))


def _to_unit_norm(matrix):
    return numerics.unit(matrix.reshape(-1)).reshape(matrix.shape)


def _pairs(some):
    return some[:, None] & some[None, :] & ~jnp.eye(some.shape[0], dtype=bool)


def _mean(values, some):
    """Mean of `values` over `some`; NaN over none."""
    number = jnp.sum(some)
    return jnp.sum(jnp.where(some, values, 0.0)) / jnp.where(number > 0, number, jnp.nan)


def _ratio(a, b):
    """a / b of values from 0 up, with 0/0 = 0 and x/0 = infinity."""
    return jnp.where(
        b == 0, jnp.where(a == 0, 0.0, jnp.inf), a / jnp.where(b == 0, 1.0, b)
    )


def _between(counted, value):
    """`value` where there are classes to compare, NaN below two."""
    return jnp.where(jnp.sum(counted) >= 2, value, jnp.nan)
