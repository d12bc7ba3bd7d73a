"""The class of the highest score, in blocks of classes and over devices that share them."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from hsproto.core.contrast import block_size, blocks_of
from hsproto.core.meshes import AxisName
from hsproto.core.numerics import inlined

# Scores [B, K] up to this many are computed at once: 1 GB.
MOST_SCORES = 1 << 28


def class_block_for(rows: int, num_classes: int) -> int | None:
    """Return how many classes to handle at a time so that scores stay bounded; None: all."""
    # A symbolic number of rows, of `jax.export`, is not compared.
    if not isinstance(rows, int) or rows * num_classes <= MOST_SCORES:
        return None
    return max(1, MOST_SCORES // rows)


@inlined
def best_column(scores: jax.Array) -> jax.Array:
    """Return the column of the highest of scores [B, K], the first of equals, int32 [B].

    NaN and -inf never win; -1 where nothing else is there.
    """
    scores = jnp.where(jnp.isnan(scores), -jnp.inf, scores)
    best = jnp.argmax(scores, axis=1).astype(jnp.int32)
    return jnp.where(jnp.max(scores, axis=1) == -jnp.inf, -1, best)


def best_class(
    scores_of: Callable[[Any], jax.Array],
    columns: Any,
    class_block: int | None = None,
    model_axis: AxisName | None = None,
) -> jax.Array:
    """Return the class of the highest score of each row, the first of equals, int32 [B].

    Args:
        scores_of: Maps a block of `columns` to its scores [B, b]; NaN and -inf never win.
        columns: A tree of arrays whose first axis is that of the classes, of this device's where
            `model_axis` is given.
        class_block: Largest number of classes handled at a time; None: all.
        model_axis: Mapped axis over which the classes are split, or None.

    Returns:
        The numbers of the classes, counted over all devices; -1 where no class can win.
    """
    count = jax.tree.leaves(columns)[0].shape[0]
    size = block_size(count, class_block or count)
    number = -(-count // size)

    def best_of(first: Any, block: Any) -> tuple[jax.Array, jax.Array]:
        ids = first + jnp.arange(size, dtype=jnp.int32)
        scores = lax.stop_gradient(scores_of(block))
        scores = jnp.where((ids < count)[None, :] & ~jnp.isnan(scores), scores, -jnp.inf)
        return jnp.max(scores, axis=1), ids[jnp.argmax(scores, axis=1)]

    def step(best: Any, block: Any) -> tuple[Any, None]:
        found = best_of(*block)
        higher = found[0] > best[0]
        return tuple(
            jnp.where(higher, new, old) for new, old in zip(found, best, strict=True)
        ), None

    if number == 1:
        peak, label = best_of(0, columns)
    else:
        firsts = size * jnp.arange(number, dtype=jnp.int32)
        split = functools.partial(blocks_of, number=number, size=size)
        blocks = firsts, jax.tree.map(split, columns)
        start = best_of(*jax.tree.map(lambda x: x[0], blocks))
        (peak, label), _ = lax.scan(step, start, jax.tree.map(lambda x: x[1:], blocks))
    if model_axis is not None:
        here, peak = peak, lax.pmax(peak, model_axis)
        label = label + count * lax.axis_index(model_axis)
        label = lax.pmin(jnp.where(here == peak, label, jnp.iinfo(jnp.int32).max), model_axis)
    return jnp.where(peak == -jnp.inf, -1, label)
