"""Losses whose anchors are prototypes and whose negatives are instances: NTCE and NONL."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from hsproto.core import numerics
from hsproto.core.batch import Batch, Queue, with_queue
from hsproto.core.contrast import (
    ClassBlock,
    combine,
    logsumexp,
    over_classes,
    peak_and_total,
    zeros_of_rows,
)
from hsproto.core.labels import expected, own_class, pick
from hsproto.core.meshes import AxisName
from hsproto.core.numerics import l2_normalize, matmul, row_mask
from hsproto.core.per_anchor import PerAnchor, per_anchor


def prototype_anchored(
    batch: Batch,
    temperature: ArrayLike,
    axis_name: AxisName | None,
    queue: Queue | None,
    *,
    decoupled: bool,
) -> PerAnchor:
    """NTCE and NONL (`decoupled`): -S_iy/t plus the log-sum-exp of the anchor's class."""
    temperature = numerics.check_positive("temperature", temperature, batch.dtype)
    mask, labels, num_classes = batch.mask, batch.labels, batch.num_classes
    features = l2_normalize(batch.features, mask)
    rows, devices = features.shape[0], 1 if axis_name is None else lax.axis_size(axis_name)
    keys, key_labels, key_mask = features, labels, mask
    if queue is not None:
        keys, key_labels, key_mask = _with_queue(queue, batch, keys)

    # A symbolic number of rows (of `jax.export`) may be larger.
    one_column_per_class = batch.soft or not isinstance(rows, int) or num_classes <= rows * devices
    if one_column_per_class and not batch.in_blocks:
        logits = matmul(keys, numerics.unit_or_zero(batch.prototypes).T) / temperature
        own = own_class(key_labels, num_classes)
        negatives = key_mask[:, None] & ~own if decoupled else key_mask[:, None]
        lse, any_included = logsumexp(logits, negatives, axis=0, axis_name=axis_name)
        column = jnp.where(mask, labels, 0)
        own_logit = pick(logits[:rows], own[:rows])
        return per_anchor(lse[column] - own_logit, mask & any_included[column])

    if one_column_per_class:
        own_column, columns = labels, batch.prototypes
        column_labels = jnp.arange(num_classes, dtype=jnp.int32)
    else:
        # More classes than rows: one column per anchor, with the prototype of the anchor's class.
        own_column, column_labels = jnp.arange(rows, dtype=jnp.int32), labels
        if axis_name is not None:
            column_labels = lax.all_gather(labels, axis_name, tiled=True)
            own_column = own_column + lax.axis_index(axis_name) * rows
        wanted = jnp.where(row_mask(column_labels, num_classes), column_labels, 0)
        if not batch.in_blocks:
            columns = numerics.unit_or_zero(batch.prototypes)[wanted]
            logits = matmul(keys, columns.T) / temperature
            negatives = key_mask[:, None]
            if decoupled:
                negatives = negatives & (key_labels[:, None] != column_labels[None, :])
            lse, any_included = logsumexp(logits, negatives, axis=0, axis_name=axis_name)
            own_logit = jnp.take_along_axis(logits[:rows], own_column[:, None], axis=1)[:, 0]
            return per_anchor(lse[own_column] - own_logit, mask & any_included[own_column])
        # Gathered first: directions of all prototypes would take as much memory as these.
        columns = batch.prototypes[wanted]

    def sums_of_block(
        own_logit: jax.Array, block: ClassBlock
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        columns, column_labels = block.columns
        logits = matmul(keys, numerics.unit_or_zero(columns).T) / temperature
        negatives = key_mask[:, None] & block.counted
        if batch.soft and decoupled:
            # Row j counts by 1 - Y_jc in the sum of class c.
            weights = 1.0 - block.labels
            negatives = negatives & (weights > 0)
            weighted = logits + jnp.log(jnp.where(negatives, weights, 1.0))
        else:
            weighted = logits
            if decoupled:
                negatives = negatives & (key_labels[:, None] != column_labels[None, :])
        own = block.labels[:rows] if batch.soft else own_column[:, None] == block.ids[None, :]
        peak, total = peak_and_total(weighted, negatives, axis=0)
        return own_logit + expected(logits[:rows], own), (peak[0], total[0])

    start = zeros_of_rows(rows, keys, batch.prototypes, temperature, key_labels)
    own_logit, (peak, total) = over_classes(
        sums_of_block, start, (columns, column_labels), batch._replace(labels=key_labels)
    )
    lse, any_included = combine(peak, total, axis_name)
    if batch.soft:
        undefined = jnp.any((labels > 0) & ~any_included[None, :], axis=1)
        return per_anchor(expected(lse[None, :], labels) - own_logit, mask & ~undefined)
    # The device that holds a row's class has its value.
    here = mask & (labels >= 0)
    column = jnp.where(here, own_column, 0)
    found = per_anchor(lse[column] - own_logit, here & any_included[column])
    if batch.model_axis is None:
        return found
    values, valid = lax.psum((found.values, found.valid.astype(jnp.int32)), batch.model_axis)
    return PerAnchor(values, valid > 0)


def _with_queue(
    queue: Queue, batch: Batch, keys: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(directions, labels, mask) of the rows and of a queue, whose labels count over all devices.

    The rows of other devices' classes keep their mask: they are negatives here.
    """
    rows = keys.shape[0]
    keys, labels, mask = with_queue(queue, keys, batch.labels, batch.mask, batch.all_classes)
    if batch.model_axis is not None:
        labels = jnp.concatenate([labels[:rows], batch.local(labels[rows:])])
    return keys, labels, mask
