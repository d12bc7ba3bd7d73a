"""The measures of Neural Collapse, from rows, class statistics and spectra."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial

from hsproto.core import class_stats, numerics, spectra


def measure(features, labels, where, prototypes, bias, groups, widths, sharding, num_classes):
    """All measures of `geometry.neural_collapse`; `groups`, `widths`: `spectra.plan_classes`."""
    # Compiled in parts: the part between classes is reused for any number of rows.
    scale, unit_stats, stats = _statistics(features, labels, where, num_classes)
    measures, between = of_classes(unit_stats, stats, prototypes)
    measures["erank_intra"] = spectra.mean_class_rank(
        features, labels, where, unit_stats, groups, widths=widths, sharding=sharding
    )
    measures |= of_rows(features, labels, where, scale, stats, between, prototypes, bias)
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
def _statistics(features, labels, where, num_classes):
    """What brings rows to size 1, and the statistics of their directions and of them so scaled."""
    empty = class_stats.init(num_classes, features.shape[1])
    scale = Partial(to_size, _exponent(features, labels, where, num_classes))
    unit_stats = class_stats.update(empty, features, labels, where, numerics.l2_normalize)
    return scale, unit_stats, class_stats.update(empty, features, labels, where, scale)


def _exponent(features, labels, where, num_classes):
    """Exponent of the largest entry of the rows that count."""
    keep = numerics.row_mask(labels, num_classes, where)
    blocks = class_stats.row_blocks(*features.shape)

    def larger(i, largest):
        rows = class_stats.masked(blocks.take(features, i), blocks.take(keep, i))
        return jnp.maximum(largest, jnp.max(jnp.abs(rows), initial=0.0))

    none = jnp.zeros((), numerics.float_dtype(features))
    return spectra.binary_exponent(lax.fori_loop(0, blocks.count, larger, none))


def to_size(exponent, rows):
    """`rows` over a power of two: their ratios are free of scale, their squares may overflow."""
    return jnp.ldexp(rows, -exponent)


@jax.jit
def of_classes(unit_stats, stats, prototypes):
    """Measures determined by the statistics of classes and the prototypes; and the centered means,
    their centre and `spectra.whitening`, which `of_rows` compares the rows with."""
    counted = stats.counts > 0
    centered, centre = class_stats.centered(stats.means, counted)
    directions = None
    if prototypes is not None:
        prototypes = class_stats.masked(prototypes, counted)
        directions = numerics.l2_normalize(prototypes)
    measures = {"classes_counted": _number(counted, centered.dtype)}
    measures |= _of_directions(unit_stats) | _of_means(stats, centered)
    measures |= _of_spectra(unit_stats.means, directions, counted)
    if prototypes is not None:
        measures |= _of_prototypes(prototypes, directions, unit_stats, centered)
    return measures, (centered, centre, spectra.whitening(centered, stats.means, counted))


def _of_directions(stats):
    """Measures determined by the means and variances of unit features."""
    counted, paired = stats.counts > 0, stats.counts >= 2
    size = stats.counts.astype(stats.means.dtype)
    # Over the ordered pairs of a class, |u_i - u_j|² adds up to 2 n_c times its scatter.
    squares = jnp.sum(2 * size * class_stats.spread(stats))
    pairs = jnp.where(paired.any(), jnp.sum(size * (size - 1)), jnp.nan)
    cosine_mean, cosine_std = _cosines(class_stats.directions(stats.means), counted)
    return {
        "instance_alignment": squares / pairs,
        "cosine_means_mean": cosine_mean,
        "cosine_means_std": cosine_std,
    }


def _of_means(stats, centered):
    """Measures determined by the means and variances of the features as given."""
    counted, paired = stats.counts > 0, stats.counts >= 2
    lengths = jnp.linalg.norm(centered, axis=1)
    mean_length = _mean(lengths, counted)
    deviation = jnp.sqrt(_mean((lengths - mean_length) ** 2, counted))
    directions = numerics.l2_normalize(centered)
    cosines = numerics.matmul(directions, directions.T)
    simplex_cosine = -1 / jnp.maximum(_number(counted, centered.dtype) - 1, 1)
    return {
        "nc2_equinorm": _between(counted, _relative(deviation, mean_length)),
        "nc2_equiangular": _mean(jnp.abs(cosines - simplex_cosine), _pairs(counted)),
        "cdnv": _mean(_normalized_variances(stats), _pairs(paired)),
    }


def _normalized_variances(stats):
    """``(v_a + v_b) / (2 |m_a - m_b|²)`` of each pair of classes, [K, K]."""
    counts = stats.counts.astype(stats.means.dtype)
    variances = class_stats.spread(stats) / jnp.maximum(counts, 1)
    sizes = jnp.sum(stats.means**2, axis=1)

    def of_class(own):
        mean, variance, size = own
        # Differences one by one: |a|² + |b|² - 2ab would lose the digits of close means.
        distances = jnp.sum((stats.means - mean[None, :]) ** 2, axis=1)
        noise = class_stats.rounding(distances) * (sizes + size)
        distances = jnp.where(distances <= noise, 0.0, distances)
        return _relative(variances + variance, 2 * distances)

    return lax.map(of_class, (stats.means, variances, sizes))


def _of_prototypes(prototypes, directions, stats, centered_means):
    """Measures determined by prototypes and class means but spectra; `stats` of unit features."""
    counts, counted = stats.counts.astype(stats.means.dtype), stats.counts > 0
    # |u_i - w|² summed over a class is its scatter plus n_c |mu_c - w|²: no second pass over rows.
    offsets = jnp.sum((stats.means - directions) ** 2, axis=1)
    squares = jnp.sum(class_stats.spread(stats) + counts * offsets)
    from_mean = jnp.sum((class_stats.directions(stats.means) - directions) ** 2, axis=1)
    cosine_mean, cosine_std = _cosines(directions, counted)
    difference = _to_unit_norm(prototypes) - _to_unit_norm(centered_means)
    return {
        "weight_alignment": squares / jnp.where(counted.any(), jnp.sum(counts), jnp.nan),
        "class_alignment": _mean(from_mean, counted),
        "nc3": _between(counted, jnp.linalg.norm(difference)),
        "cosine_prototypes_mean": cosine_mean,
        "cosine_prototypes_std": cosine_std,
    }


def _of_spectra(means, directions, counted):
    """Ranks between classes of the means of unit features; with prototypes, MIR and HDR."""
    number = _number(counted, means.dtype)
    if directions is None:
        squares = spectra.singular_values(class_stats.centered(means, counted)[0]) ** 2
        return {"erank_inter": _between(counted, spectra.exp_entropy(squares))}
    both = jnp.stack([means, directions])
    centered, centre = jax.vmap(class_stats.centered, in_axes=(0, None))(both, counted)
    from_centre = class_stats.directions(means) - class_stats.directions(centre[0])[None, :]
    from_centre = class_stats.masked(from_centre, counted)
    squares = jnp.sum(from_centre**2, axis=1, keepdims=True)
    noise = squares <= class_stats.rounding(squares)
    rows = jnp.stack([directions, centered[1], jnp.where(noise, 0.0, from_centre)])
    rows = numerics.l2_normalize(rows)
    # One by one, not as a batch: see `spectra.plan_classes`.
    squares = lax.map(spectra.singular_values, jnp.concatenate([centered, rows])) ** 2
    ranks = spectra.exp_entropy(squares[:2])

    nonzero = jnp.any(rows != 0, axis=2)
    grams = numerics.matmul(rows, rows.mT)
    entropies = spectra.matrix_entropy(squares[2:], _number(nonzero, means.dtype) / number)
    joint = spectra.matrix_entropy(
        lax.map(spectra.eigenvalues, grams[:2] * grams[2:]),
        _number(nonzero[:2] & nonzero[2:], means.dtype) / number,
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
def of_rows(features, labels, where, scale, stats, between, prototypes, bias):
    """nc1, and nc4 if there are prototypes: what needs the rows once the means are known."""
    counted, paired = stats.counts > 0, stats.counts >= 2
    keep = numerics.row_mask(labels, counted.shape[0], where)
    centered, centre, whiten = between
    scatter = class_stats.spread(stats)
    half_squares = jnp.where(counted, jnp.sum(centered * centered, axis=1) / 2, jnp.inf)
    blocks = class_stats.row_blocks(features.shape[0], max(features.shape[1], counted.shape[0]))

    def add(i, sums):
        inside, disagree = sums
        rows, label, kept = (blocks.take(x, i) for x in (features, labels, keep))
        kept &= blocks.fresh(i)
        rows = class_stats.masked(rows, kept)
        shifted = scale(rows) - centre[None, :]
        residuals = shifted - jnp.take(centered, label, axis=0, mode="clip")
        within = kept & (jnp.take(scatter, label, mode="clip") != 0)
        squares = jnp.sum(numerics.matmul(residuals, whiten) ** 2, axis=1)
        inside += jnp.sum(jnp.where(within, squares, 0.0))
        if prototypes is not None:
            distances = half_squares[None, :] - numerics.matmul(shifted, centered.T)
            logits = numerics.matmul(rows, prototypes.T)
            if bias is not None:
                logits += jnp.asarray(bias, logits.dtype)[None, :]
            chosen = jnp.argmax(jnp.where(counted[None, :], logits, -jnp.inf), axis=1)
            differs = kept & (jnp.argmin(distances, axis=1) != chosen)
            disagree += jnp.sum(differs, dtype=jnp.int32)
        return inside, disagree

    none = jnp.zeros((), centered.dtype), jnp.zeros((), jnp.int32)
    inside, disagree = lax.fori_loop(0, blocks.count, add, none)
    counts = stats.counts.astype(centered.dtype)
    inside /= jnp.maximum(jnp.sum(jnp.where(paired, counts, 0.0)), 1)
    # S_B = 0 inverts to 0, but spread around means that coincide is not collapse.
    inside = jnp.where(jnp.any(centered != 0), inside, _relative(jnp.sum(scatter), 0.0))
    measures = {"nc1": jnp.where(paired.any(), _between(counted, inside), jnp.nan)}
    if prototypes is not None:
        rows = jnp.where(counted.any(), jnp.sum(counts), jnp.nan)
        measures["nc4"] = disagree.astype(rows.dtype) / rows
    return measures


def _relative(a, b):
    """a / b of nonnegative values: infinite where only b is 0, NaN where both are.

    Features that are all the same have no classes that could have collapsed.
    """
    return jnp.where((a == 0) & (b == 0), jnp.nan, spectra.ratio(a, b))


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
    number = jnp.sum(some, dtype=values.dtype)
    return jnp.sum(jnp.where(some, values, 0.0)) / jnp.where(number > 0, number, jnp.nan)


def _number(some, dtype):
    """Number of True entries along the last axis, as a float."""
    return jnp.sum(some, axis=-1, dtype=dtype)


def _between(counted, value):
    """`value` where there are classes to compare, NaN below two."""
    return jnp.where(jnp.sum(counted) >= 2, value, jnp.nan)
