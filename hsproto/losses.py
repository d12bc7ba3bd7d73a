"""The losses: prototype contrast on the unit hypersphere, one pure function each.

Shapes: B rows in this call, K classes, D dimensions. u_i is the direction of feature i, w_c that
of prototype c, y_i the label, S_ic = u_i·w_c their cosine, t the temperature. Whatever the input
dtype, everything is float32, at full matmul precision and in log space.

Every function returns `PerAnchor(values, valid)`; the training loss is `.mean()`. What they share:

where      bool [B]: the rows that count, as anchors and as negatives. A row whose label is not one
           of 0..K-1 counts as masked; it is never taken for another class. Masked rows may hold
           anything, NaN included.
axis_name  the mapped axis (or axes) over which the batch is split, inside `jax.shard_map` or
           `jax.pmap`. Values are those of the whole batch on one device. Gradients too, under
           `jax.grad` around the map, or inside it with `check_vma=True`; with `pmap` or
           `check_vma=False` average the gradients of shared parameters with `lax.pmean`, as usual.
           On global arrays under plain `jax.jit` leave it out: sharded or not, the batch is whole.
           (On meshes with Auto axes. `jax.make_mesh` makes Explicit ones unless told otherwise;
           there JAX raises ShardingTypeError where it is not sure what a gather should give.)

Errors, at trace time: ValueError for wrong ranks, shapes or dtypes and for a temperature that is a
number and not positive. A traced temperature is allowed and has a gradient.

Equation numbers are those of "Neural Collapse by Design: Learning Class Prototypes on the
Hypersphere" (arXiv 2605.20302).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from hsproto.core import numerics
from hsproto.core.numerics import l2_normalize, matmul, row_mask


class PerAnchor(NamedTuple):
    """Loss of each anchor: `values` float32 [B], 0 where not `valid` (bool [B])."""

    values: jax.Array
    valid: jax.Array

    def mean(self, axis_name=None):
        """Mean over the valid anchors, of all devices when `axis_name` is given; 0 without any."""
        total, count = jnp.sum(self.values), jnp.sum(self.valid, dtype=jnp.float32)
        if axis_name is not None:
            total, count = lax.psum((total, count), axis_name)
        return total / jnp.maximum(count, 1.0)


def cross_entropy(features, prototypes, labels, *, bias=None, where=None):
    """Cross entropy of a linear classifier; lengths and bias are free (eq. 1).

    loss_i = -(z_i·w_y + b_y) + log Σ_c exp(z_i·w_c + b_c)

    Args:
      features: float [B, D], as they are.
      prototypes: float [K, D], the classifier's rows, as they are.
      labels: int [B], in 0..K-1.
      bias: float [K] or None.
      where: bool [B] or None.

    Returns:
      PerAnchor; valid are the rows that count. Has no finite minimiser: growing lengths lower it.
    """
    labels, num_classes = _check(features, prototypes, labels, where)
    mask = row_mask(labels, num_classes, where)
    # Masked rows are zeroed, so that what they hold cannot reach a gradient.
    features = jnp.where(mask[:, None], jnp.asarray(features, jnp.float32), 0.0)
    logits = _with_bias(matmul(features, jnp.asarray(prototypes).T), bias)
    own = _own_class(labels, num_classes)
    return _per_anchor(_logsumexp(logits, axis=1)[0] - _pick(logits, own), mask)


def normface(features, prototypes, labels, *, temperature, where=None, bias=None):
    """NormFace, or normalised softmax: the anchor is the instance, negatives are K prototypes (3).

    loss_i = -(S_iy/t + b_y) + log Σ_c exp(S_ic/t + b_c)

    Args:
      features: float [B, D], of any length; normalised here.
      prototypes: float [K, D], of any length; normalised here.
      labels: int [B], in 0..K-1.
      temperature: positive number or scalar array.
      where: bool [B] or None.
      bias: float [K] or None: nothing that is learned, but what logit adjustment adds for long
        tails, the log of the classes' frequencies (Menon et al. 2021).

    Returns:
      PerAnchor; valid are the rows that count. At a simplex equiangular tight frame (ETF) with
      u_i = w_y, without bias: log(1 + (K-1) exp(-a)), a = K/((K-1)t). Wang et al. 2017.
    """
    logits, own, mask = _prototype_logits(features, prototypes, labels, temperature, where)
    logits = _with_bias(logits, bias)
    return _per_anchor(_logsumexp(logits, axis=1)[0] - _pick(logits, own), mask)


def decoupled_normface(features, prototypes, labels, *, temperature, where=None):
    """NormFace with the anchor's own class taken out of the denominator.

    loss_i = -S_iy/t + log Σ_{c≠y} exp(S_ic/t)

    The fourth cell of {K prototypes, M instances} × {coupled, decoupled}, beside `normface`,
    `ntce` and `nonl`. Arguments as `normface`.

    Returns:
      PerAnchor; nothing is valid when K = 1. At a simplex ETF with u_i = w_y: log(K-1) - a.
    """
    logits, own, mask = _prototype_logits(features, prototypes, labels, temperature, where)
    lse, found = _logsumexp(logits, ~own, axis=1)
    return _per_anchor(lse - _pick(logits, own), mask & found)


def ntce(features, prototypes, labels, *, temperature, where=None, axis_name=None, queue=None):
    """NTCE: the anchor is the prototype, its negatives are all M instances of the batch (eq. 4).

    loss_i = -S_iy/t + log Σ_j exp(S_{j,y_i}/t)      j over the whole batch, i included

    The denominator depends on the class alone, so this is one log-sum-exp per class over the batch,
    an M×K matrix instead of the M×M of the formula (the smaller of the two is taken). Devices
    exchange K maxima and K sums, never features.

    Args:
      features: float [B, D], of any length; normalised here.
      prototypes: float [K, D], of any length; normalised here.
      labels: int [B], in 0..K-1.
      temperature: positive number or scalar array.
      where: bool [B] or None.
      axis_name: mapped axis of the batch, or None (see the module's head).
      queue: None, or (features [Q, D], labels [Q]) of further instances, which are negatives like
        those of the batch but no anchors; negative labels count as masked. With `axis_name` each
        device passes its own.

    Returns:
      PerAnchor; valid are the rows that count. A class absent from the batch gives its prototype no
      gradient. At a simplex ETF with n rows a class: log n + log(1 + (K-1) exp(-a)).
    """
    return _prototype_anchored(
        features, prototypes, labels, temperature, where, axis_name, queue, decoupled=False
    )


def nonl(features, prototypes, labels, *, temperature, where=None, axis_name=None, queue=None):
    """NONL: NTCE whose negatives are the instances of the other classes alone (eq. 5).

    loss_i = -S_iy/t + log Σ_{j: y_j≠y_i} exp(S_{j,y_i}/t)      j over the whole batch

    Arguments and cost as `ntce`.

    Returns:
      PerAnchor; a row is valid when the batch (of all devices, with the queue) holds a row of
      another class. At a simplex ETF with n rows a class: log(n(K-1)) - a, a = K/((K-1)t). It may
      be negative.
    """
    return _prototype_anchored(
        features, prototypes, labels, temperature, where, axis_name, queue, decoupled=True
    )


def scl(features, labels, *, temperature, where=None, axis_name=None, block_size=None, queue=None):
    """Supervised contrastive loss, SupCon's L_out (eq. 2).

    loss_i = -mean_{l≠i: y_l=y_i} a_i·a_l/t + log Σ_{j≠i} exp(a_i·a_j/t)

    a_i are the directions of the features, usually projection-head outputs. For two views pass
    both, concatenated, with the labels twice.

    Args:
      features: float [B, D], of any length; normalised here.
      labels: int [B], any numbers below 2³¹-1; negative labels count as masked.
      temperature: positive number or scalar array.
      where: bool [B] or None.
      axis_name: mapped axis of the batch, or None. Features of all devices are gathered.
      block_size: anchors handled at a time, with recomputation in the backward pass: memory is
        O(B·block_size) instead of O(B²). None: all at once.
      queue: None, or (features [Q, D], labels [Q]) of further keys: positives and negatives like
        those of the batch but no anchors; negative labels count as masked. With `axis_name` every
        device passes the whole queue.

    Returns:
      PerAnchor; a row is valid when the batch (of all devices, with the queue) holds another row of
      its class.
      Khosla et al. 2020.
    """
    numerics.check_features("features", features)
    numerics.check_rows(features, labels, where)
    temperature = numerics.check_positive("temperature", temperature)
    if block_size is not None and (not numerics.is_integer(block_size) or block_size < 1):
        raise ValueError(f"block_size must be None or a positive integer; got {block_size!r}")
    labels = numerics.class_ids(labels)
    mask = labels >= 0 if where is None else where & (labels >= 0)
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
        queued = _queued(queue, anchors.shape[1])
        keys, key_labels, key_mask = (
            jnp.concatenate(pair) for pair in zip((keys, key_labels, key_mask), queued, strict=True)
        )

    # Positives through class sums: a_i·(Σ_{y_l=y_i} a_l - a_i), no [B, B] mask. Labels are not
    # bounded by a number of classes here, so they are first numbered in order of size.
    num_keys = keys.shape[0]
    _, ids = jnp.unique(
        jnp.where(key_mask, key_labels, -1), size=num_keys, fill_value=-1, return_inverse=True
    )
    sums = jax.ops.segment_sum(keys, ids, num_segments=num_keys)
    counts = jax.ops.segment_sum(key_mask.astype(jnp.float32), ids, num_segments=num_keys)
    own = ids[rows]
    positives = counts[own] - 1.0

    def values(block_rows, block_own, block_positives):
        block = keys[block_rows]
        others = key_mask[None, :] & (block_rows[:, None] != jnp.arange(num_keys)[None, :])
        lse = _logsumexp(matmul(block, keys.T) / temperature, others, axis=1)[0]
        attraction = jnp.sum(block * (sums[block_own] - block), axis=1)
        return lse - attraction / (jnp.maximum(block_positives, 1.0) * temperature)

    of_anchors = (rows, own, positives)
    if block_size is None or block_size >= anchors.shape[0]:
        found = values(*of_anchors)
    else:
        found = _in_blocks(lambda block: values(*block), of_anchors, block_size)
    return _per_anchor(found, mask & (positives > 0))


def prototype_softmax(features, labels, *, num_classes, temperature, where=None, axis_name=None):
    """SCL rewritten as a softmax over the batch's own class means (eq. 6).

    loss_i = -a_i·m_y/t + log( Σ_c n_c exp(a_i·m_c/t) - exp(a_i·m_y/t) )

    m_c is the mean of the batch's unit features of class c, not renormalised and with the anchor in
    it, n_c their number. SCL and this loss have the same minimisers (theorem 4.2).

    Args:
      features: float [B, D], of any length; normalised here.
      labels: int [B], in 0..num_classes-1.
      num_classes: K.
      temperature: positive number or scalar array.
      where: bool [B] or None.
      axis_name: mapped axis of the batch, or None. K class sums are exchanged, never features.

    Returns:
      PerAnchor; a row is valid when the batch (of all devices) holds another row, of any class.
    """
    numerics.check_features("features", features)
    numerics.check_rows(features, labels, where)
    temperature = numerics.check_positive("temperature", temperature)
    numerics.check_classes(num_classes)
    labels = numerics.class_ids(labels, num_classes)
    mask = row_mask(labels, num_classes, where)
    anchors = l2_normalize(features, mask)
    own = _own_class(labels, num_classes)
    members = (own & mask[:, None]).astype(jnp.float32)
    sums, counts = matmul(members.T, anchors), jnp.sum(members, axis=0)
    if axis_name is not None:
        sums, counts = lax.psum((sums, counts), axis_name)
    means = sums / jnp.maximum(counts, 1.0)[:, None]
    logits = matmul(anchors, means.T) / temperature
    # The subtraction inside the logarithm only lowers the own class's weight by one.
    weights = counts[None, :] - own.astype(jnp.float32)
    present = weights > 0
    weighted = logits + jnp.log(jnp.where(present, weights, 1.0))
    lse, found = _logsumexp(weighted, present, axis=1)
    return _per_anchor(lse - _pick(logits, own), mask & found)


def dot_regression(features, prototypes, labels, *, where=None):
    """Dot-regression loss on fixed prototypes, "ETF + DR" (Yang et al. 2022).

    loss_i = ½ (u_i·m_y - ‖m_y‖)²

    Args:
      features: float [B, D], of any length; normalised here.
      prototypes: float [K, D], fixed at a simplex ETF (`geometry.simplex_etf`) and used as they
        are. For long tails Yang et al. scale row c by sqrt((M/K_batch)/n_c), batch by batch.
      labels: int [B], in 0..K-1.
      where: bool [B] or None.

    Returns:
      PerAnchor; valid are the rows that count. Has no negatives; 0 where u_i points along m_y.
    """
    labels, num_classes = _check(features, prototypes, labels, where)
    mask = row_mask(labels, num_classes, where)
    own = jnp.asarray(prototypes, jnp.float32)[jnp.where(mask, labels, 0)]
    directions = l2_normalize(own)
    length = jnp.sum(own * directions, axis=1)
    cosine = jnp.sum(l2_normalize(features, mask) * directions, axis=1)
    return _per_anchor(0.5 * jnp.square(length * (cosine - 1.0)), mask)


def _prototype_anchored(
    features, prototypes, labels, temperature, where, axis_name, queue, *, decoupled
):
    """NTCE and NONL (`decoupled`): -S_iy/t plus the anchor's class's log-sum-exp over the batch."""
    labels, num_classes = _check(features, prototypes, labels, where)
    temperature = numerics.check_positive("temperature", temperature)
    mask = row_mask(labels, num_classes, where)
    features, prototypes = l2_normalize(features, mask), l2_normalize(prototypes)
    batch, devices = features.shape[0], 1 if axis_name is None else lax.axis_size(axis_name)
    keys, key_labels, key_mask = features, labels, mask
    if queue is not None:
        queued, queued_labels, queued_mask = _queued(queue, features.shape[1], num_classes)
        keys = jnp.concatenate([features, queued])
        key_labels = jnp.concatenate([labels, queued_labels])
        key_mask = jnp.concatenate([mask, queued_mask])

    if num_classes <= batch * devices:  # a column a class
        logits = matmul(keys, prototypes.T) / temperature
        own = _own_class(key_labels, num_classes)
        negatives = key_mask[:, None] & ~own if decoupled else key_mask[:, None]
        lse, found = _logsumexp(logits, negatives, axis=0, axis_name=axis_name)
        column = jnp.where(mask, labels, 0)
        own_logit = _pick(logits[:batch], own[:batch])
        return _per_anchor(lse[column] - own_logit, mask & found[column])

    # More classes than rows: a column an anchor, holding the prototype of the anchor's class.
    rows, column_labels = jnp.arange(batch), labels
    if axis_name is not None:
        column_labels = lax.all_gather(labels, axis_name, tiled=True)
        rows = rows + lax.axis_index(axis_name) * batch
    columns = prototypes[jnp.where(row_mask(column_labels, num_classes), column_labels, 0)]
    logits = matmul(keys, columns.T) / temperature
    negatives = key_mask[:, None]
    if decoupled:
        negatives = negatives & (key_labels[:, None] != column_labels[None, :])
    lse, found = _logsumexp(logits, negatives, axis=0, axis_name=axis_name)
    own_logit = jnp.take_along_axis(logits[:batch], rows[:, None], axis=1)[:, 0]
    return _per_anchor(lse[rows] - own_logit, mask & found[rows])


def _queued(queue, dims, num_classes=None):
    """(directions [Q, D], labels [Q], which count [Q]) of a queue, checked."""
    features, labels = queue
    numerics.check_features("queue features", features, dims=dims)
    numerics.check_rows(features, labels)
    labels = numerics.class_ids(labels, num_classes)
    return l2_normalize(features, labels >= 0), labels, labels >= 0


def _prototype_logits(features, prototypes, labels, temperature, where):
    """S/t [B, K], which column is the own class [B, K], which rows count [B]."""
    labels, num_classes = _check(features, prototypes, labels, where)
    temperature = numerics.check_positive("temperature", temperature)
    mask = row_mask(labels, num_classes, where)
    logits = matmul(l2_normalize(features, mask), l2_normalize(prototypes).T) / temperature
    return logits, _own_class(labels, num_classes), mask


def _with_bias(logits, bias):
    if bias is None:
        return logits
    if jnp.shape(bias) != (num_classes := logits.shape[1],):
        raise ValueError(f"bias must have shape ({num_classes},); got shape {jnp.shape(bias)}")
    return logits + jnp.asarray(bias, jnp.float32)[None, :]


def _check(features, prototypes, labels, where):
    numerics.check_features("features", features)
    numerics.check_features("prototypes", prototypes, dims=jnp.shape(features)[1])
    numerics.check_rows(features, labels, where)
    num_classes = jnp.shape(prototypes)[0]
    return numerics.class_ids(labels, num_classes), num_classes


def _own_class(labels, num_classes):
    return labels[:, None] == jnp.arange(num_classes, dtype=jnp.int32)[None, :]


def _pick(logits, own):
    """The own class's logit of each row, [B]. A masked sum, as its gradient is no scatter."""
    return jnp.sum(jnp.where(own, logits, 0.0), axis=1)


def _logsumexp(logits, include=None, *, axis, axis_name=None):
    """Log of the sum over `axis` (and devices) of exp(logits) where `include`, and whether any is.

    Masking comes before the exponential: after it, an overflow outside the mask would turn the
    gradient into NaN. The result is 0 where nothing is included.
    """
    if include is not None:
        logits = jnp.where(include, logits, -jnp.inf)
    peak = jnp.max(lax.stop_gradient(logits), axis=axis, keepdims=True, initial=-jnp.inf)
    if axis_name is not None:
        peak = lax.pmax(peak, axis_name)
    found = peak != -jnp.inf  # true of NaN, which must show
    peak = jnp.where(found, peak, 0.0)
    total = jnp.sum(jnp.exp(logits - peak), axis=axis, keepdims=True)
    if axis_name is not None:
        total = lax.psum(total, axis_name)
    lse = jnp.where(found, jnp.log(jnp.where(found, total, 1.0)) + peak, 0.0)
    return jnp.squeeze(lse, axis), jnp.squeeze(found, axis)


def _in_blocks(function, rows, block_size):
    """`function` over blocks of rows, one at a time, each recomputed in the backward pass."""
    count = rows[0].shape[0]
    blocks = -(-count // block_size)

    def split(x):
        x = jnp.pad(x, [(0, blocks * block_size - count)] + [(0, 0)] * (x.ndim - 1))
        return x.reshape(blocks, block_size, *x.shape[1:])

    out = lax.map(jax.checkpoint(function), jax.tree.map(split, rows))
    return out.reshape(-1)[:count]


def _per_anchor(values, valid):
    return PerAnchor(jnp.where(valid, values, 0.0), valid)
