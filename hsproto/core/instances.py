"""Losses of features without prototypes: SCL, and its softmax over the class means of a batch."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from hsproto.core.batch import Queue, with_queue
from hsproto.core.contrast import in_blocks, logsumexp
from hsproto.core.labels import own_class, pick, ranks
from hsproto.core.meshes import AxisName
from hsproto.core.numerics import l2_normalize, matmul
from hsproto.core.per_anchor import PerAnchor, per_anchor


def between_instances(
    features: jax.Array | np.ndarray,
    labels: jax.Array,
    mask: jax.Array,
    temperature: jax.Array,
    axis_name: AxisName | None,
    block_size: int | None,
    queue: Queue | None,
) -> PerAnchor:
    """SCL: less the mean over positives, plus the log-sum-exp over all other instances."""
    anchors = l2_normalize(features, mask)
    rows = jnp.arange(anchors.shape[0])
    if axis_name is None:
        keys, key_labels, key_mask = anchors, labels, mask
    else:
        keys, key_labels, key_mask = (
            lax.all_gather(x, axis_name, tiled=True) for x in (anchors, labels, mask)
        )
        rows = rows + lax.axis_index(axis_name) * anchors.shape[0]
    if queue is not None:
        keys, key_labels, key_mask = with_queue(queue, keys, key_labels, key_mask)

    # Positives through class sums: a_i·(Σ_{y_l=y_i} a_l - a_i), no [B, B] mask. Labels are not
    # bounded by a number of classes here, so they are first numbered in order of size.
    num_keys = keys.shape[0]
    ids = ranks(jnp.where(key_mask, key_labels, -1))
    sums = jax.ops.segment_sum(keys, ids, num_segments=num_keys)
    counts = jax.ops.segment_sum(key_mask.astype(keys.dtype), ids, num_segments=num_keys)
    own = ids[rows]
    positives = counts[own] - 1.0

    def values(
        block_rows: jax.Array, block_own: jax.Array, block_positives: jax.Array
    ) -> jax.Array:
        block = keys[block_rows]
        others = key_mask[None, :] & (block_rows[:, None] != jnp.arange(num_keys)[None, :])
        lse = logsumexp(matmul(block, keys.T) / temperature, others, axis=1)[0]
        attraction = jnp.sum(block * (sums[block_own] - block), axis=1)
        return lse - attraction / (jnp.maximum(block_positives, 1.0) * temperature)

    of_anchors = (rows, own, positives)
    if block_size is None or (isinstance(num_keys, int) and block_size >= anchors.shape[0]):
        losses = values(*of_anchors)
    else:
        losses = in_blocks(lambda block: values(*block), of_anchors, block_size)
    return per_anchor(losses, mask & (positives > 0))


def with_class_means(
    features: jax.Array | np.ndarray,
    labels: jax.Array,
    mask: jax.Array,
    num_classes: int,
    temperature: jax.Array,
    axis_name: AxisName | None,
) -> PerAnchor:
    """SCL with the instances of a class replaced by their mean."""
    anchors = l2_normalize(features, mask)
    own = own_class(labels, num_classes)
    members = (own & mask[:, None]).astype(anchors.dtype)
    sums, counts = matmul(members.T, anchors), jnp.sum(members, axis=0)
    if axis_name is not None:
        sums, counts = lax.psum((sums, counts), axis_name)
    means = sums / jnp.maximum(counts, 1.0)[:, None]
    logits = matmul(anchors, means.T) / temperature
    # The subtraction inside the logarithm only lowers the own class's weight by one.
    weights = counts[None, :] - own.astype(anchors.dtype)
    present = weights > 0
    weighted = logits + jnp.log(jnp.where(present, weights, 1.0))
    lse, any_included = logsumexp(weighted, present, axis=1)
    return per_anchor(lse - pick(logits, own), mask & any_included)
