"""Log-sum-exps over classes and over the rows of a batch, in one piece or in blocks."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from hsproto.core.batch import Batch
from hsproto.core.meshes import AxisName


def logsumexp(
    logits: jax.Array,
    include: jax.Array | None = None,
    *,
    axis: int,
    axis_name: AxisName | None = None,
) -> tuple[jax.Array, jax.Array]:
    """(log Σ exp(logits) over `axis` and devices where `include`, whether anything is included).

    Masking comes before the exponential: after it, an overflow outside the mask would turn the
    gradient into NaN. The result is 0 where nothing is included.
    """
    if include is not None:
        logits = jnp.where(include, logits, -jnp.inf)
    peak = jnp.max(lax.stop_gradient(logits), axis=axis, keepdims=True, initial=-jnp.inf)
    if axis_name is not None:
        peak = lax.pmax(peak, axis_name)
    any_included = peak != -jnp.inf  # also true of NaN, which must show
    peak = jnp.where(any_included, peak, 0.0)
    total = jnp.sum(jnp.exp(logits - peak), axis=axis, keepdims=True)
    if axis_name is not None:
        total = lax.psum(total, axis_name)
    lse = jnp.where(any_included, jnp.log(jnp.where(any_included, total, 1.0)) + peak, 0.0)
    return jnp.squeeze(lse, axis), jnp.squeeze(any_included, axis)


def peak_and_total(
    logits: jax.Array, include: jax.Array, *, axis: int
) -> tuple[jax.Array, jax.Array]:
    """Maximum, -inf of nothing, and the sum of exp(logits - maximum); `axis` stays."""
    logits = jnp.where(include, logits, -jnp.inf)
    peak = jnp.max(lax.stop_gradient(logits), axis=axis, keepdims=True, initial=-jnp.inf)
    total = jnp.sum(jnp.exp(logits - _finite(peak)), axis=axis, keepdims=True)
    return peak, total


def _finite(peak: jax.Array) -> jax.Array:
    return jnp.where(peak == -jnp.inf, 0.0, peak)


def combine(
    peak: jax.Array, total: jax.Array, axis_name: AxisName | None = None
) -> tuple[jax.Array, jax.Array]:
    """As `logsumexp`, from the peaks and totals of this device."""
    # That peaks have no gradient is exact: the sum is free of them.
    peak = lax.stop_gradient(peak)
    if axis_name is not None:
        common = lax.pmax(peak, axis_name)
        total = lax.psum(total * jnp.exp(peak - _finite(common)), axis_name)
        peak = common
    any_included = peak != -jnp.inf
    lse = jnp.log(jnp.where(any_included, total, 1.0)) + _finite(peak)
    return jnp.where(any_included, lse, 0.0), any_included


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RowSums:
    """Log-sum-exp of each row over the classes so far, as its peak and total."""

    peak: jax.Array
    total: jax.Array

    @classmethod
    def init(cls, zeros: jax.Array) -> "RowSums":
        return cls(zeros - jnp.inf, zeros)

    def add(self, logits: jax.Array, include: jax.Array) -> "RowSums":
        """With further columns; peaks have no gradient, see `combine`."""
        block_peak, block_total = (x[:, 0] for x in peak_and_total(logits, include, axis=1))
        old = lax.stop_gradient(self.peak)
        peak = jnp.maximum(old, block_peak)
        parts = (
            self.total * jnp.exp(old - _finite(peak)),
            block_total * jnp.exp(block_peak - _finite(peak)),
        )
        return RowSums(peak, parts[0] + parts[1])

    def logsumexp(self, axis_name: AxisName | None = None) -> tuple[jax.Array, jax.Array]:
        return combine(self.peak, self.total, axis_name)


class ClassBlock(NamedTuple):
    """A block of columns: their numbers, which are no padding, whose labels, and what they hold."""

    ids: jax.Array  # int32 [b]
    counted: jax.Array  # bool [1, b]
    labels: jax.Array  # [rows, b]: the share of the column's class in each row, or whether it is it
    columns: tuple[Any, ...]


def over_classes(
    step: Callable[[Any, ClassBlock], tuple[Any, Any]],
    carry: Any,
    columns: tuple[Any, ...],
    batch: Batch,
) -> tuple[Any, Any]:
    """`lax.scan` of `step` over blocks of columns, which the backward pass recomputes.

    It begins with the last block, which is kept instead where that costs little: where columns are
    no more than rows, whose copy, without the last block, is then small. That takes the memory of
    one more array of a block, and of few blocks saves much of the time.

    Returns the last carry, and what the steps return, joined along the columns.
    """
    count = columns[0].shape[0]
    size = block_size(count, batch.class_block or count)
    number = -(-count // size)

    def of_block(carry: Any, block: tuple[jax.Array, jax.Array | None, Any]) -> tuple[Any, Any]:
        ids, soft, columns = block
        labels = batch.labels[:, None] == ids[None, :] if soft is None else soft.T
        return step(carry, ClassBlock(ids, (ids < count)[None, :], labels, columns))

    ids = jnp.arange(number * size, dtype=jnp.int32)
    soft = batch.labels.T if batch.soft else None
    if number == 1:
        return of_block(carry, (ids, soft, columns))
    split = functools.partial(blocks_of, number=number, size=size)
    blocks = ids.reshape(number, size), *jax.tree.map(split, (soft, columns))
    again, rows = jax.checkpoint(of_block, prevent_cse=False), batch.features.shape[0]
    if not isinstance(rows, int) or count > rows:
        carry, parts = lax.scan(again, carry, blocks)
        return carry, jax.tree.map(lambda x: x.reshape(-1)[:count], parts)
    carry, parts = lax.scan(again, carry, jax.tree.map(lambda x: x[:-1], blocks))
    carry, part = of_block(carry, jax.tree.map(lambda x: x[-1], blocks))
    return carry, jax.tree.map(
        lambda x, y: jnp.concatenate([x.reshape(-1), y])[:count], parts, part
    )


def blocks_of(x: jax.Array, number: int, size: int) -> jax.Array:
    """Return an array [count, ...] as [number, size, ...], filled up with zeros."""
    x = jnp.pad(x, [(0, number * size - x.shape[0])] + [(0, 0)] * (x.ndim - 1))
    return x.reshape(number, size, *x.shape[1:])


def block_size(count: int, most: int) -> int:
    """A size of at most `most` that leaves little or, better, nothing to fill up in blocks.

    Filling up copies all columns, which for a million prototypes takes gigabytes.
    """
    if not isinstance(count, int) or count <= most:
        return count
    even = -(-count // -(-count // most))
    return next((size for size in range(most, most // 2, -1) if count % size == 0), even)


def zeros_of_rows(rows: int, *arrays: jax.Array | None) -> jax.Array:
    """Zeros [rows]. Inside shard_map they vary over devices as the arrays do, as a carry must."""
    given = [x for x in arrays if x is not None]
    zeros = jnp.zeros((rows,), given[0].dtype)
    for x in given:
        zeros += jnp.sum(x.reshape(-1)[:0], dtype=jnp.float32).astype(zeros.dtype)
    return zeros


def in_blocks(
    function: Callable[[tuple[jax.Array, ...]], jax.Array],
    rows: tuple[jax.Array, ...],
    block_size: int,
) -> jax.Array:
    """`function` over blocks of rows, one at a time, each recomputed in the backward pass."""
    count = rows[0].shape[0]
    blocks = -(-count // block_size)

    split = functools.partial(blocks_of, number=blocks, size=block_size)
    out = lax.map(jax.checkpoint(function), jax.tree.map(split, rows))
    return out.reshape(-1)[:count]
