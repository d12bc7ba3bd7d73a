"""The simplex equiangular tight frame, the optimum of the losses."""

import jax
import jax.numpy as jnp
import numpy as np

from hsproto.core import numerics


def simplex_etf(key, num_classes, dim):
    """Simplex equiangular tight frame: K unit vectors of equal, least possible cosine.

    w_a · w_b = -1/(K-1) for a != b,  |w_c| = 1,  sum of w_c = 0; turned by a random rotation.
    (Papyan, Han and Donoho 2020.) The common minimum of the method's losses on balanced data.

    key: a PRNG key. num_classes: K >= 1. dim: D >= K-1.
    Returns float32 [K, D]. Raises ValueError for D < K-1, where there is no such frame.
    """
    numerics.check_classes(num_classes)
    if not numerics.is_integer(dim):
        raise ValueError(f"dim must be an integer; got {dim!r}")
    if dim < max(num_classes - 1, 1):
        raise ValueError(
            f"dim must be at least num_classes - 1 = {num_classes - 1}: {num_classes} vectors of "
            f"pairwise cosine -1/{num_classes - 1} span that many dimensions; got {dim}"
        )
    if num_classes == 1:
        return numerics.l2_normalize(jax.random.normal(key, (1, dim)))
    # Helmert's orthonormal basis of the vectors of sum zero: its rows are the corners.
    row, column = np.mgrid[:num_classes, 1:num_classes]
    corners = np.where(row < column, 1.0, np.where(row == column, -column, 0.0))
    corners = corners / np.sqrt(column * (column + 1.0))
    basis, triangle = jnp.linalg.qr(jax.random.normal(key, (dim, num_classes - 1)))
    # With this sign the basis is uniform over all rotations (Mezzadri 2007).
    basis = basis * jnp.where(jnp.diagonal(triangle) < 0, -1.0, 1.0)[None, :]
    return numerics.l2_normalize(numerics.matmul(corners, basis.T))
