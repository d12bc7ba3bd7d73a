"""The simplex equiangular tight frame, the optimum of the losses."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hsproto.core import numerics


def simplex_etf(
    key: jax.Array, num_classes: int, dim: int, *, dtype: Any = jnp.float32
) -> jax.Array:
    """Return a simplex equiangular tight frame: K unit vectors of equal, least possible cosine.

    Up to a random rotation, which `key` determines, the rows are given by::

        w_a · w_b = -1/(K-1) for a != b,   |w_c| = 1,   Σ_c w_c = 0

    The frame is the common minimum of the losses of the method on balanced data.

    Args:
        key: A PRNG key.
        num_classes: Number of classes, K >= 1.
        dim: Number of dimensions, D >= K-1.
        dtype: float32, or float64 in 64-bit mode.

    Returns:
        [K, D] of `dtype`.

    Raises:
        ValueError: D < K-1, where no such frame exists.

    Source:
        Papyan, Han and Donoho 2020.

    Example:
        >>> import jax
        >>> from hsproto import geometry
        >>> frame = geometry.simplex_etf(jax.random.key(0), num_classes=5, dim=8)
        >>> frame.shape, round(float(frame[0] @ frame[1]), 3)
        ((5, 8), -0.25)
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
        return numerics.l2_normalize(jax.random.normal(key, (1, dim))).astype(dtype)
    # Helmert's orthonormal basis of the vectors of sum zero: its rows are the corners.
    row, column = np.mgrid[:num_classes, 1:num_classes]
    corners = np.where(row < column, 1.0, np.where(row == column, -column, 0.0))
    corners = corners / np.sqrt(column * (column + 1.0))
    basis, triangle = jnp.linalg.qr(jax.random.normal(key, (dim, num_classes - 1)))
    # With this sign the basis is uniformly distributed over all rotations (Mezzadri 2007).
    basis = basis * jnp.where(jnp.diagonal(triangle) < 0, -1.0, 1.0)[None, :]
    return numerics.l2_normalize(numerics.matmul(corners, basis.T)).astype(dtype)
