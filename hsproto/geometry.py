"""Measures of Neural Collapse: the geometry of features, class means and prototypes.

`neural_collapse` returns all measures of one set of features, `optimum` their values at collapse.
"""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from hsproto.core import numerics, spectra
from hsproto.core.class_stats import class_means
from hsproto.core.host import blas_on_one_thread, class_sharding, count, traced
from hsproto.core.meshes import on_any_mesh
from hsproto.core.nc_metrics import measure
from hsproto.core.simplex import simplex_etf
from hsproto.core.spectra import effective_rank

__all__ = ["class_means", "effective_rank", "neural_collapse", "optimum", "simplex_etf"]


@on_any_mesh()
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
    u_i over class c, m_G and mu_G the means of these over classes, M the centered means m_c - m_G,
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
    count as zero (3.6e-15 in float64).

    Degenerate cases. Where a denominator vanishes, 0/0 is 0 and x/0 is infinity, e.g. ``nc1`` and
    ``cdnv`` where class means coincide and their rows do not. A zero vector has cosine 0 with any
    other. Where there is nothing to average the value is NaN: without rows; without a class of two
    rows, for the within-class measures; with fewer than two classes, for the between-class
    measures. If features or prototypes that count are not finite, all values are NaN.

    Gradients. ``erank_intra`` has no gradient: `jax.grad` of it raises ValueError as soon as a
    class holds (or, with traced labels, might hold) as many rows as there are dimensions. That of
    ``nc4`` and ``classes_counted``, which are counts, is zero.

    Cost. Everything is computed in float32 (in float64 if `features` or `prototypes` are, in 64-bit
    mode), with matrix products in full precision. Features may be
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
        A scalar per key, float32 or float64 as above.

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
    sharding = class_sharding(features)
    if traced(labels):
        labels = numerics.class_ids(labels, num_classes, where)
        counts = np.full(num_classes, rows)
    else:
        # Known labels are counted at once, also where the features are traced.
        with jax.ensure_compile_time_eval():
            labels = numerics.class_ids(labels, num_classes, where)
            counts = count(labels, None if traced(where) else where, num_classes, sharding)
    devices = 1 if sharding is None else sharding.mesh.size
    widths, groups = spectra.plan_classes(counts, dim, devices)
    arrays = (features, labels, where, prototypes, bias)
    with contextlib.nullcontext() if traced(*arrays) else blas_on_one_thread():
        measures = measure(*arrays, groups, widths, sharding, num_classes)
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
    """(features, labels, prototypes, bias, where) as arrays, float64 if one of them is."""
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
    if bias is not None:
        if prototypes is None:
            raise ValueError("bias is that of the prototypes: give prototypes too")
        bias = numerics.as_array("bias", bias)
        if bias.shape != (num_classes,):
            raise ValueError(f"bias must have shape ({num_classes},); got shape {bias.shape}")
    wide_features, wide_prototypes, wide_bias = _as_wide(features, prototypes, bias)
    return wide_features, labels, wide_prototypes, wide_bias, where


def _as_wide(*arrays: Any) -> list[Any]:
    dtype = numerics.float_dtype(*(array for array in arrays if array is not None))
    wide = dtype if dtype == jnp.float64 else None
    return [None if array is None else jnp.asarray(array, wide) for array in arrays]
