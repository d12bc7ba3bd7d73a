"""Supervised losses of class prototypes on the unit hypersphere, one pure function each.

Notation: B is the number of rows in this call, K the number of classes, D the number of
dimensions; u_i is the direction of feature i, w_c the direction of prototype c, y_i the label of
row i, S_ic the cosine of u_i and w_c, t the temperature. Whatever the input dtype, everything is
computed in float32, at full matmul precision and in log space.

Every function returns a `PerAnchor`: one value per anchor and a validity mask. The training loss is
its `mean()`. All functions share these rules:

`where`
    bool [B], the rows that count, both as anchors and as negatives. A row whose label is outside
    0..K-1 counts as masked; it is never assigned to another class. Masked rows may hold anything,
    including NaN.

`axis_name`
    The mapped axis (or axes) over which the batch is split, inside `jax.shard_map` or `jax.pmap`.
    Values are those of the whole batch on one device. So are gradients, under `jax.grad` around
    the map, or inside it with ``check_vma=True``; with `pmap` or ``check_vma=False``, average the
    gradients of shared parameters with `jax.lax.pmean`, as usual. Omit it for global arrays under
    plain `jax.jit`: sharded or not, the batch is whole there. (This holds on meshes with Auto
    axes. `jax.make_mesh` creates Explicit axes unless told otherwise; on those, JAX raises
    ``ShardingTypeError`` where it cannot infer the sharding of a gather.)

Errors are raised at trace time: ValueError for wrong ranks, shapes or dtypes, and for a temperature
that is a number and not positive. A traced temperature is allowed and has a gradient.

Equation numbers are those of "Neural Collapse by Design: Learning Class Prototypes on the
Hypersphere" (arXiv 2605.20302).
"""

from collections.abc import Callable, Hashable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from hsproto.core import numerics
from hsproto.core.numerics import l2_normalize, matmul, row_mask

__all__ = [
    "PerAnchor",
    "cross_entropy",
    "decoupled_normface",
    "dot_regression",
    "normface",
    "ntce",
    "nonl",
    "prototype_softmax",
    "scl",
]

# The name of a mapped axis, or a tuple of such names.
AxisName: TypeAlias = Hashable

# Features and labels of further instances.
Queue: TypeAlias = tuple[ArrayLike, ArrayLike]


class PerAnchor(NamedTuple):
    """Loss of each anchor.

    Attributes:
        values: float32 [B], 0 where not `valid`.
        valid: bool [B], the anchors for which the loss is defined.
    """

    values: jax.Array
    valid: jax.Array

    def mean(self, axis_name: AxisName | None = None) -> jax.Array:
        """Return the mean over valid anchors.

        Args:
            axis_name: Mapped axis (or axes) of the batch; the mean is then over the anchors of all
                devices. None: over the anchors of this call.

        Returns:
            float32 scalar; 0 if no anchor is valid.

        Example:
            >>> import jax.numpy as jnp
            >>> from hsproto import losses
            >>> loss = losses.PerAnchor(jnp.array([1.0, 3.0, 0.0]), jnp.array([True, True, False]))
            >>> float(loss.mean())
            2.0
        """
        total, count = jnp.sum(self.values), jnp.sum(self.valid, dtype=jnp.float32)
        if axis_name is not None:
            total, count = lax.psum((total, count), axis_name)
        return total / jnp.maximum(count, 1.0)


def cross_entropy(
    features: ArrayLike,
    prototypes: ArrayLike,
    labels: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    where: ArrayLike | None = None,
) -> PerAnchor:
    """Cross entropy of a linear classifier with free lengths and bias.

    The loss of anchor i is::

        loss_i = -(z_i·w_y + b_y) + log Σ_c exp(z_i·w_c + b_c)

    with features z_i and prototypes w_c as given. It has no finite minimizer: growing lengths
    always lower it.

    Args:
        features: floating [B, D], used as given.
        prototypes: floating [K, D], the rows of the classifier, used as given.
        labels: integer [B], in 0..K-1.
        bias: floating [K], or None for no bias.
        where: bool [B], the rows that count; None: all.

    Returns:
        One value per anchor and a validity mask; every row that counts is valid.

    Raises:
        ValueError: An argument has a wrong rank, shape or dtype.

    Source:
        Equation 1.

    Example:
        >>> import jax.numpy as jnp
        >>> from hsproto import losses
        >>> prototypes = jnp.eye(3)
        >>> labels = jnp.array([0, 1, 2, 0])
        >>> features = prototypes[labels]
        >>> loss = losses.cross_entropy(features, prototypes, labels)
        >>> round(float(loss.mean()), 4)
        0.5514
    """
    labels, num_classes = _check(features, prototypes, labels, where)
    mask = row_mask(labels, num_classes, where)
    # Masked rows are zeroed, so that what they hold cannot reach a gradient.
    features = jnp.where(mask[:, None], jnp.asarray(features, jnp.float32), 0.0)
    logits = _with_bias(matmul(features, jnp.asarray(prototypes).T), bias)
    own = _own_class(labels, num_classes)
    return _per_anchor(_logsumexp(logits, axis=1)[0] - _pick(logits, own), mask)


def normface(
    features: ArrayLike,
    prototypes: ArrayLike,
    labels: ArrayLike,
    *,
    temperature: ArrayLike,
    where: ArrayLike | None = None,
    bias: ArrayLike | None = None,
) -> PerAnchor:
    """NormFace, or normalized softmax: the anchor is the instance, the negatives are K prototypes.

    The loss of anchor i is::

        loss_i = -(S_iy/t + b_y) + log Σ_c exp(S_ic/t + b_c)

    At a simplex equiangular tight frame (ETF) with u_i = w_y and without a bias it equals
    log(1 + (K-1) exp(-a)), where a = K/((K-1)t).

    Args:
        features: floating [B, D], of any length; normalized here.
        prototypes: floating [K, D], of any length; normalized here.
        labels: integer [B], in 0..K-1.
        temperature: Positive number or scalar array.
        where: bool [B], the rows that count; None: all.
        bias: floating [K], or None. This is not a learned parameter but the term that logit
            adjustment adds for long-tailed data: the log of the class frequencies (Menon et al.
            2021).

    Returns:
        One value per anchor and a validity mask; every row that counts is valid.

    Raises:
        ValueError: An argument has a wrong rank, shape or dtype, or `temperature` is not positive.

    Source:
        Equation 3; Wang et al. 2017.

    Example:
        >>> import jax.numpy as jnp
        >>> from hsproto import losses
        >>> prototypes = jnp.eye(3)
        >>> labels = jnp.array([0, 1, 2, 0])
        >>> features = prototypes[labels]
        >>> loss = losses.normface(features, prototypes, labels, temperature=0.5)
        >>> round(float(loss.mean()), 4)
        0.2395
    """
    logits, own, mask = _prototype_logits(features, prototypes, labels, temperature, where)
    logits = _with_bias(logits, bias)
    return _per_anchor(_logsumexp(logits, axis=1)[0] - _pick(logits, own), mask)


def decoupled_normface(
    features: ArrayLike,
    prototypes: ArrayLike,
    labels: ArrayLike,
    *,
    temperature: ArrayLike,
    where: ArrayLike | None = None,
) -> PerAnchor:
    """NormFace without the anchor's own class in the denominator.

    The loss of anchor i is::

        loss_i = -S_iy/t + log Σ_{c≠y} exp(S_ic/t)

    This is the fourth combination of {K prototypes, M instances} and {coupled, decoupled}, next to
    `normface`, `ntce` and `nonl`. At a simplex ETF with u_i = w_y it equals log(K-1) - a, where
    a = K/((K-1)t); it may be negative.

    Args:
        features: floating [B, D], of any length; normalized here.
        prototypes: floating [K, D], of any length; normalized here.
        labels: integer [B], in 0..K-1.
        temperature: Positive number or scalar array.
        where: bool [B], the rows that count; None: all.

    Returns:
        One value per anchor and a validity mask; every row that counts is valid if K > 1, none
        otherwise.

    Raises:
        ValueError: An argument has a wrong rank, shape or dtype, or `temperature` is not positive.

    Source:
        Not in the paper; it completes equations 3 to 5.

    Example:
        >>> import jax.numpy as jnp
        >>> from hsproto import losses
        >>> prototypes = jnp.eye(3)
        >>> labels = jnp.array([0, 1, 2, 0])
        >>> features = prototypes[labels]
        >>> loss = losses.decoupled_normface(features, prototypes, labels, temperature=0.5)
        >>> round(float(loss.mean()), 4)
        -1.3069
    """
    logits, own, mask = _prototype_logits(features, prototypes, labels, temperature, where)
    lse, any_included = _logsumexp(logits, ~own, axis=1)
    return _per_anchor(lse - _pick(logits, own), mask & any_included)


def ntce(
    features: ArrayLike,
    prototypes: ArrayLike,
    labels: ArrayLike,
    *,
    temperature: ArrayLike,
    where: ArrayLike | None = None,
    axis_name: AxisName | None = None,
    queue: Queue | None = None,
) -> PerAnchor:
    """NTCE: the anchor is the prototype, its negatives are all M instances of the batch.

    The loss of anchor i, with j over the whole batch, i included, is::

        loss_i = -S_iy/t + log Σ_j exp(S_{j,y_i}/t)

    The denominator depends only on the class, so one log-sum-exp per class over the batch suffices:
    an M×K matrix instead of the M×M of the formula (whichever is smaller is used). Devices exchange
    K maxima and K sums, never features. A class absent from the batch gives its prototype no
    gradient.

    At a simplex ETF with n rows per class and u_i = w_y the loss equals
    log n + log(1 + (K-1) exp(-a)), where a = K/((K-1)t).

    Args:
        features: floating [B, D], of any length; normalized here.
        prototypes: floating [K, D], of any length; normalized here.
        labels: integer [B], in 0..K-1.
        temperature: Positive number or scalar array.
        where: bool [B], the rows that count; None: all.
        axis_name: Mapped axis (or axes) of the batch, or None (see the head of this module).
        queue: None, or (features [Q, D], labels [Q]) of further instances, which are negatives like
            those of the batch but not anchors; negative labels count as masked. With `axis_name`
            each device passes its own.

    Returns:
        One value per anchor and a validity mask; every row that counts is valid.

    Raises:
        ValueError: An argument has a wrong rank, shape or dtype, or `temperature` is not positive.

    Source:
        Equation 4.

    Example:
        >>> import jax.numpy as jnp
        >>> from hsproto import losses
        >>> prototypes = jnp.eye(3)
        >>> labels = jnp.array([0, 1, 2, 0])
        >>> features = prototypes[labels]
        >>> loss = losses.ntce(features, prototypes, labels, temperature=0.5)
        >>> round(float(loss.mean()), 4)
        0.5804
    """
    return _prototype_anchored(
        features, prototypes, labels, temperature, where, axis_name, queue, decoupled=False
    )


def nonl(
    features: ArrayLike,
    prototypes: ArrayLike,
    labels: ArrayLike,
    *,
    temperature: ArrayLike,
    where: ArrayLike | None = None,
    axis_name: AxisName | None = None,
    queue: Queue | None = None,
) -> PerAnchor:
    """NONL: NTCE with only the instances of other classes as negatives.

    The loss of anchor i, with j over the whole batch, is::

        loss_i = -S_iy/t + log Σ_{j: y_j≠y_i} exp(S_{j,y_i}/t)

    It costs as much as `ntce` and is computed the same way. At a simplex ETF with n rows per class
    and u_i = w_y it equals log(n(K-1)) - a, where a = K/((K-1)t); it may be negative.

    Args:
        features: floating [B, D], of any length; normalized here.
        prototypes: floating [K, D], of any length; normalized here.
        labels: integer [B], in 0..K-1.
        temperature: Positive number or scalar array.
        where: bool [B], the rows that count; None: all.
        axis_name: Mapped axis (or axes) of the batch, or None (see the head of this module).
        queue: None, or (features [Q, D], labels [Q]) of further instances, which are negatives like
            those of the batch but not anchors; negative labels count as masked. With `axis_name`
            each device passes its own.

    Returns:
        One value per anchor and a validity mask; a row that counts is valid if the batch (of all
        devices, including the queue) holds a row of another class.

    Raises:
        ValueError: An argument has a wrong rank, shape or dtype, or `temperature` is not positive.

    Source:
        Equation 5.

    Example:
        >>> import jax.numpy as jnp
        >>> from hsproto import losses
        >>> prototypes = jnp.eye(3)
        >>> labels = jnp.array([0, 1, 2, 0])
        >>> features = prototypes[labels]
        >>> loss = losses.nonl(features, prototypes, labels, temperature=0.5)
        >>> round(float(loss.mean()), 4)
        -1.1041
    """
    return _prototype_anchored(
        features, prototypes, labels, temperature, where, axis_name, queue, decoupled=True
    )


def scl(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    temperature: ArrayLike,
    where: ArrayLike | None = None,
    axis_name: AxisName | None = None,
    block_size: int | None = None,
    queue: Queue | None = None,
) -> PerAnchor:
    """Supervised contrastive loss, L_out of SupCon.

    With a_i the direction of feature i, the loss of anchor i is::

        loss_i = -mean_{l≠i: y_l=y_i} a_i·a_l/t + log Σ_{j≠i} exp(a_i·a_j/t)

    The features are usually the outputs of a projection head. For two views, pass both,
    concatenated, with the labels repeated.

    Args:
        features: floating [B, D], of any length; normalized here.
        labels: integer [B], any values below 2³¹-1; negative labels count as masked.
        temperature: Positive number or scalar array.
        where: bool [B], the rows that count; None: all.
        axis_name: Mapped axis (or axes) of the batch, or None (see the head of this module). The
            features of all devices are gathered.
        block_size: Number of anchors handled at a time, with recomputation in the backward pass:
            memory is O(B·block_size) instead of O(B²). None: all at once.
        queue: None, or (features [Q, D], labels [Q]) of further keys, which are positives and
            negatives like those of the batch but not anchors; negative labels count as masked.
            With `axis_name` every device passes the whole queue.

    Returns:
        One value per anchor and a validity mask; a row that counts is valid if the batch (of all
        devices, including the queue) holds another row of its class.

    Raises:
        ValueError: An argument has a wrong rank, shape or dtype, `temperature` is not positive, or
            `block_size` is not a positive integer.

    Source:
        Equation 2; Khosla et al. 2020.

    Example:
        >>> import jax.numpy as jnp
        >>> from hsproto import losses
        >>> labels = jnp.array([0, 1, 2, 0])
        >>> features = jnp.eye(3)[labels]
        >>> loss = losses.scl(features, labels, temperature=0.5)
        >>> round(float(loss.mean()), 4)
        0.2395
        >>> loss.valid.tolist()
        [True, False, False, True]
    """
    numerics.check_features("features", features)
    numerics.check_rows(features, labels, where)
    temperature = numerics.check_positive("temperature", temperature)
    if block_size is not None and (not numerics.is_integer(block_size) or block_size < 1):
        raise ValueError(f"block_size must be None or a positive integer; got {block_size!r}")
    labels = numerics.class_ids(labels)
    mask = labels >= 0 if where is None else jnp.asarray(where) & (labels >= 0)
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

    def values(
        block_rows: jax.Array, block_own: jax.Array, block_positives: jax.Array
    ) -> jax.Array:
        block = keys[block_rows]
        others = key_mask[None, :] & (block_rows[:, None] != jnp.arange(num_keys)[None, :])
        lse = _logsumexp(matmul(block, keys.T) / temperature, others, axis=1)[0]
        attraction = jnp.sum(block * (sums[block_own] - block), axis=1)
        return lse - attraction / (jnp.maximum(block_positives, 1.0) * temperature)

    of_anchors = (rows, own, positives)
    if block_size is None or block_size >= anchors.shape[0]:
        losses = values(*of_anchors)
    else:
        losses = _in_blocks(lambda block: values(*block), of_anchors, block_size)
    return _per_anchor(losses, mask & (positives > 0))


def prototype_softmax(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    num_classes: int,
    temperature: ArrayLike,
    where: ArrayLike | None = None,
    axis_name: AxisName | None = None,
) -> PerAnchor:
    """SCL rewritten as a softmax over the class means of the batch.

    With a_i the direction of feature i, m_c the mean of the unit features of class c in the batch
    (anchor included, not renormalized) and n_c their number, the loss of anchor i is::

        loss_i = -a_i·m_y/t + log( Σ_c n_c exp(a_i·m_c/t) - exp(a_i·m_y/t) )

    SCL and this loss have the same minimizers (theorem 4.2).

    Args:
        features: floating [B, D], of any length; normalized here.
        labels: integer [B], in 0..num_classes-1.
        num_classes: Number of classes, K.
        temperature: Positive number or scalar array.
        where: bool [B], the rows that count; None: all.
        axis_name: Mapped axis (or axes) of the batch, or None (see the head of this module). K
            class sums are exchanged, never features.

    Returns:
        One value per anchor and a validity mask; a row that counts is valid if the batch (of all
        devices) holds another row, of any class.

    Raises:
        ValueError: An argument has a wrong rank, shape or dtype, `temperature` is not positive, or
            `num_classes` is not a positive integer.

    Source:
        Equation 6.

    Example:
        >>> import jax.numpy as jnp
        >>> from hsproto import losses
        >>> labels = jnp.array([0, 1, 2, 0])
        >>> features = jnp.eye(3)[labels]
        >>> loss = losses.prototype_softmax(features, labels, num_classes=3, temperature=0.5)
        >>> round(float(loss.mean()), 4)
        -0.3309
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
    lse, any_included = _logsumexp(weighted, present, axis=1)
    return _per_anchor(lse - _pick(logits, own), mask & any_included)


def dot_regression(
    features: ArrayLike,
    prototypes: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
) -> PerAnchor:
    """Dot-regression loss on fixed prototypes, "ETF + DR".

    The loss of anchor i is::

        loss_i = ½ (u_i·m_y - ‖m_y‖)²

    It has no negatives and is 0 where u_i points along m_y.

    Args:
        features: floating [B, D], of any length; normalized here.
        prototypes: floating [K, D], the m_c: fixed at a simplex ETF (`geometry.simplex_etf`) and
            used as given. For long-tailed data Yang et al. scale row c by sqrt((M/K_batch)/n_c) in
            each batch.
        labels: integer [B], in 0..K-1.
        where: bool [B], the rows that count; None: all.

    Returns:
        One value per anchor and a validity mask; every row that counts is valid.

    Raises:
        ValueError: An argument has a wrong rank, shape or dtype.

    Source:
        Yang et al. 2022.

    Example:
        >>> import jax.numpy as jnp
        >>> from hsproto import losses
        >>> prototypes = jnp.eye(3)
        >>> labels = jnp.array([0, 1, 2, 0])
        >>> features = prototypes[labels]
        >>> loss = losses.dot_regression(features, 2 * prototypes[::-1], labels)
        >>> round(float(loss.mean()), 4)
        1.5
    """
    labels, num_classes = _check(features, prototypes, labels, where)
    mask = row_mask(labels, num_classes, where)
    own = jnp.asarray(prototypes, jnp.float32)[jnp.where(mask, labels, 0)]
    directions = l2_normalize(own)
    length = jnp.sum(own * directions, axis=1)
    cosine = jnp.sum(l2_normalize(features, mask) * directions, axis=1)
    return _per_anchor(0.5 * jnp.square(length * (cosine - 1.0)), mask)


def _prototype_anchored(
    features: ArrayLike,
    prototypes: ArrayLike,
    labels: ArrayLike,
    temperature: ArrayLike,
    where: ArrayLike | None,
    axis_name: AxisName | None,
    queue: Queue | None,
    *,
    decoupled: bool,
) -> PerAnchor:
    """NTCE and NONL (`decoupled`): -S_iy/t plus the log-sum-exp of the anchor's class."""
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

    if num_classes <= batch * devices:  # one column per class
        logits = matmul(keys, prototypes.T) / temperature
        own = _own_class(key_labels, num_classes)
        negatives = key_mask[:, None] & ~own if decoupled else key_mask[:, None]
        lse, any_included = _logsumexp(logits, negatives, axis=0, axis_name=axis_name)
        column = jnp.where(mask, labels, 0)
        own_logit = _pick(logits[:batch], own[:batch])
        return _per_anchor(lse[column] - own_logit, mask & any_included[column])

    # More classes than rows: one column per anchor, with the prototype of the anchor's class.
    rows, column_labels = jnp.arange(batch), labels
    if axis_name is not None:
        column_labels = lax.all_gather(labels, axis_name, tiled=True)
        rows = rows + lax.axis_index(axis_name) * batch
    columns = prototypes[jnp.where(row_mask(column_labels, num_classes), column_labels, 0)]
    logits = matmul(keys, columns.T) / temperature
    negatives = key_mask[:, None]
    if decoupled:
        negatives = negatives & (key_labels[:, None] != column_labels[None, :])
    lse, any_included = _logsumexp(logits, negatives, axis=0, axis_name=axis_name)
    own_logit = jnp.take_along_axis(logits[:batch], rows[:, None], axis=1)[:, 0]
    return _per_anchor(lse[rows] - own_logit, mask & any_included[rows])


def _queued(
    queue: Queue, dims: int, num_classes: int | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(directions [Q, D], labels [Q], mask [Q]) of a queue, checked."""
    features, labels = queue
    numerics.check_features("queue features", features, dims=dims)
    numerics.check_rows(features, labels)
    labels = numerics.class_ids(labels, num_classes)
    return l2_normalize(features, labels >= 0), labels, labels >= 0


def _prototype_logits(
    features: ArrayLike,
    prototypes: ArrayLike,
    labels: ArrayLike,
    temperature: ArrayLike,
    where: ArrayLike | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(S/t [B, K], mask of the own class [B, K], mask of the rows that count [B])."""
    labels, num_classes = _check(features, prototypes, labels, where)
    temperature = numerics.check_positive("temperature", temperature)
    mask = row_mask(labels, num_classes, where)
    logits = matmul(l2_normalize(features, mask), l2_normalize(prototypes).T) / temperature
    return logits, _own_class(labels, num_classes), mask


def _with_bias(logits: jax.Array, bias: ArrayLike | None) -> jax.Array:
    if bias is None:
        return logits
    if jnp.shape(bias) != (num_classes := logits.shape[1],):
        raise ValueError(f"bias must have shape ({num_classes},); got shape {jnp.shape(bias)}")
    return logits + jnp.asarray(bias, jnp.float32)[None, :]


def _check(
    features: ArrayLike, prototypes: ArrayLike, labels: ArrayLike, where: ArrayLike | None
) -> tuple[jax.Array, int]:
    """(int32 labels, -1 where out of range; number of classes) of checked arguments."""
    numerics.check_features("features", features)
    numerics.check_features("prototypes", prototypes, dims=jnp.shape(features)[1])
    numerics.check_rows(features, labels, where)
    num_classes = jnp.shape(prototypes)[0]
    return numerics.class_ids(labels, num_classes), num_classes


def _own_class(labels: jax.Array, num_classes: int) -> jax.Array:
    return labels[:, None] == jnp.arange(num_classes, dtype=jnp.int32)[None, :]


def _pick(logits: jax.Array, own: jax.Array) -> jax.Array:
    """Logit [B] of the own class of each row: a masked sum, whose gradient is not a scatter."""
    return jnp.sum(jnp.where(own, logits, 0.0), axis=1)


def _logsumexp(
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


def _in_blocks(
    function: Callable[[tuple[jax.Array, ...]], jax.Array],
    rows: tuple[jax.Array, ...],
    block_size: int,
) -> jax.Array:
    """`function` over blocks of rows, one at a time, each recomputed in the backward pass."""
    count = rows[0].shape[0]
    blocks = -(-count // block_size)

    def split(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, [(0, blocks * block_size - count)] + [(0, 0)] * (x.ndim - 1))
        return x.reshape(blocks, block_size, *x.shape[1:])

    out = lax.map(jax.checkpoint(function), jax.tree.map(split, rows))
    return out.reshape(-1)[:count]


def _per_anchor(values: jax.Array, valid: jax.Array) -> PerAnchor:
    return PerAnchor(jnp.where(valid, values, 0.0), valid)
