"""Labels of rows, hard and soft: which rows they mask, which class is a row's own."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


def soft_labels(
    labels: ArrayLike, where: ArrayLike | None, dtype: Any
) -> tuple[jax.Array, jax.Array]:
    """(labels with rows of 0 where masked, mask); a row of 0, like a label of -1, is masked."""
    if isinstance(labels, np.ndarray) and (where is None or isinstance(where, np.ndarray)):
        counted = labels if where is None else labels[where]
        sums = counted.astype(np.float64).sum(axis=1)
        if np.any(counted < 0) or np.any((np.abs(sums - 1) > 1e-2) & (sums != 0)):
            raise ValueError(
                "soft labels must have rows >= 0 that sum to 1 (or to 0, for a row that does not "
                f"count); got entries from {counted.min()} and sums {sums.min()} to {sums.max()}"
            )
    labels = jnp.asarray(labels, dtype)
    mask = jnp.any(labels != 0, axis=1)  # also true of NaN, which must show
    mask = mask if where is None else mask & jnp.asarray(where)
    return jnp.where(mask[:, None], labels, 0.0), mask


def check_label_range(labels: ArrayLike, where: ArrayLike | None) -> None:
    """Refuse labels on the host that would have to be masked; others are masked by `class_ids`."""
    if not isinstance(labels, np.ndarray) or jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        return
    counted = labels[where] if isinstance(where, np.ndarray) else labels
    if counted.size and counted.max() >= 2**31 - 1:
        raise ValueError(
            f"labels must be below 2³¹-1, since JAX computes with 32-bit integers; got "
            f"{counted.max()}. Renumber them: np.unique(labels, return_inverse=True)[1]"
        )


def ranks(labels: jax.Array) -> jax.Array:
    """For each label, how many smaller ones there are among the distinct labels."""
    order = jnp.argsort(labels)
    in_order = labels[order]
    steps = jnp.concatenate([jnp.zeros_like(order[:1], bool), in_order[1:] != in_order[:-1]])
    ranks = jnp.cumsum(steps, dtype=order.dtype)
    return jnp.zeros_like(order).at[order].set(ranks)


def own_class(labels: jax.Array, num_classes: int) -> jax.Array:
    """Bool [rows, K]: which class is the row's own."""
    return labels[:, None] == jnp.arange(num_classes, dtype=jnp.int32)[None, :]


def pick(logits: jax.Array, own: jax.Array) -> jax.Array:
    """Logit [B] of the own class of each row: a masked sum, whose gradient is not a scatter."""
    return jnp.sum(jnp.where(own, logits, 0.0), axis=1)


def expected(values: jax.Array, shares: jax.Array) -> jax.Array:
    """Σ_c shares_ic values_ic; what has no share may be infinite."""
    if shares.dtype == jnp.bool_:
        return pick(values, shares)
    return jnp.sum(shares * jnp.where(shares != 0, values, 0.0), axis=1)
