"""Supervised losses of class prototypes on the unit hypersphere, one pure function each.

Notation: B is the number of rows in this call, K the number of classes, D the number of
dimensions; u_i is the direction of feature i, w_c the direction of prototype c, y_i the label of
row i, S_ic the cosine of u_i and w_c, t the temperature.

Every function returns a `PerAnchor`: one value per anchor and a validity mask. The training loss is
its `mean()`. All functions share these rules:

Inputs
    Arrays may be anything that JAX or NumPy can read: JAX and NumPy arrays, lists, objects such as
    `flax.nnx.Param`, torch tensors on the CPU. Labels are integers of shape [B] or [B, 1].

Dtypes
    Everything is computed in float32, at full matmul precision and in log space, whatever the
    input dtype; in JAX's 64-bit mode, float64 features or prototypes give float64 values and
    gradients.

`where`
    bool [B], the rows that count, both as anchors and as negatives. A row whose label is outside
    0..K-1 counts as masked; it is never assigned to another class. Masked rows may hold anything,
    including NaN.

Soft labels
    The losses with prototypes (but `dot_regression`) also take labels Y that are floating [B, K],
    with rows >= 0 that sum to 1, as mixup and label smoothing give them. The loss of row i is then
    the sum over classes c of Y_ic times the loss for class c; one-hot rows give the values of hard
    labels. A row of zeros, which `jax.nn.one_hot` returns for a label outside 0..K-1, counts as
    masked. Labels on the host (NumPy, lists) are checked.

`class_block`
    Number of classes handled at a time, with recomputation in the backward pass: memory is
    O(B·class_block) instead of O(B·K). None: all at once.

`axis_name`
    The mapped axis (or axes) over which the batch is split, inside `jax.shard_map` or `jax.pmap`.
    Values are those of the whole batch on one device. So are gradients, under `jax.grad` around
    the map, or inside it with ``check_vma=True``; with `pmap` or ``check_vma=False``, average the
    gradients of shared parameters with `jax.lax.pmean`, as usual. Omit it for global arrays under
    plain `jax.jit`: sharded or not, over Auto or Explicit mesh axes, the batch is whole there.

Zero vectors
    A feature of length zero has cosine 0 with everything and no gradient. So has a prototype of
    length zero, but its gradient is that of one of length 1, so that a head that starts at zero
    trains.

Symbolic shapes
    The number of rows may be symbolic (`jax.export`), the number of classes may not.

Errors are raised at trace time: ValueError for wrong ranks, shapes or dtypes, and for a temperature
that is a number and not positive. A traced temperature is allowed and has a gradient.

Equation numbers are those of "Neural Collapse by Design: Learning Class Prototypes on the
Hypersphere" (arXiv 2605.20302).
"""

import dataclasses
from collections.abc import Callable, Hashable, Iterator
from typing import Any, NamedTuple, NoReturn, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class PerAnchor:
    """Loss of each anchor: a pytree that unpacks into its two fields, ``values, valid = loss``.

    It is not an array: arithmetic, comparison and conversion raise TypeError, since a plain mean
    or sum of `values` would count anchors without a loss.

    Attributes:
        values: floating [B], 0 where not `valid`.
        valid: bool [B], the anchors for which the loss is defined.
    """

    values: jax.Array
    valid: jax.Array

    def mean(
        self, axis_name: AxisName | None = None, *, weights: ArrayLike | None = None
    ) -> jax.Array:
        """Return the mean, or weighted mean, over valid anchors.

        With weights, that is::

            Σ_{i valid} weights_i values_i / Σ_{i valid} weights_i

        Args:
            axis_name: Mapped axis (or axes) of the batch; the mean is then over the anchors of all
                devices. None: over the anchors of this call.
            weights: Nonnegative [B], one weight per anchor, which counts if the anchor is valid.
                None: all anchors weigh the same.

        Returns:
            Floating scalar; 0 if no anchor is valid or all weights are 0.

        Raises:
            ValueError: `weights` has another shape, or is a NumPy array or list with a negative
                weight.

        Example:
            >>> import jax.numpy as jnp
            >>> from hsproto import losses
            >>> loss = losses.PerAnchor(jnp.array([1.0, 3.0, 0.0]), jnp.array([True, True, False]))
            >>> float(loss.mean())
            2.0
            >>> float(loss.mean(weights=jnp.array([1.0, 3.0, 5.0])))
            2.5
        """
        if weights is None:
            total, count = jnp.sum(self.values), jnp.sum(self.valid, dtype=self.values.dtype)
        else:
            weights = numerics.as_array("weights", weights)
            if weights.shape != self.values.shape:
                raise ValueError(
                    f"weights must have shape {self.values.shape}; got shape {weights.shape}"
                )
            if not isinstance(weights, jax.Array) and np.any(weights < 0):
                raise ValueError(f"weights must not be negative; got {weights}")
            weights = jnp.where(self.valid, jnp.asarray(weights, self.values.dtype), 0.0)
            total, count = jnp.sum(weights * self.values), jnp.sum(weights)
        if axis_name is not None:
            total, count = lax.psum((total, count), axis_name)
        if weights is None:
            return total / jnp.maximum(count, 1.0)
        return total / jnp.where(count == 0, 1.0, count)

    def __iter__(self) -> Iterator[jax.Array]:
        return iter((self.values, self.valid))

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError("PerAnchor is not an array: use .values or .mean(weights=...)")

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __matmul__ = __rmatmul__ = (
        _refuse
    )
    __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = _refuse
    __pow__ = __rpow__ = __neg__ = __pos__ = __abs__ = __round__ = _refuse
    __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = __getitem__ = _refuse
    __hash__ = object.__hash__
    __bool__ = __int__ = __float__ = __complex__ = __index__ = _refuse
    __array__ = __jax_array__ = __array_ufunc__ = _refuse


@numerics.on_any_mesh("features")
def cross_entropy(
    features: ArrayLike,
    prototypes: ArrayLike,
    labels: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    where: ArrayLike | None = None,
    class_block: int | None = None,
) -> PerAnchor:
    """Cross entropy of a linear classifier with free lengths and bias.

    The loss of anchor i is::

        loss_i = -(z_i·w_y + b_y) + log Σ_c exp(z_i·w_c + b_c)

    with features z_i and prototypes w_c as given. It has no finite minimizer: growing lengths
    always lower it.

    Args:
        features: floating [B, D], used as given.
        prototypes: floating [K, D], the rows of the classifier, used as given.
        labels: integer [B], in 0..K-1; or soft labels, floating [B, K].
        bias: floating [K], or None for no bias.
        where: bool [B], the rows that count; None: all.
        class_block: Number of classes handled at a time; None: all.

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
    batch = _checked(features, prototypes, labels, where, class_block, soft=True)
    # Masked rows are zeroed, so that what they hold cannot reach a gradient.
    features = jnp.where(batch.mask[:, None], batch.features, 0.0)
    return _softmax(features, batch.prototypes, batch, None, bias)


@numerics.on_any_mesh("features")
def normface(
    features: ArrayLike,
    prototypes: ArrayLike,
    labels: ArrayLike,
    *,
    temperature: ArrayLike,
    where: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    class_block: int | None = None,
) -> PerAnchor:
    """NormFace, or normalized softmax: the anchor is the instance, the negatives are K prototypes.

    The loss of anchor i is::

        loss_i = -(S_iy/t + b_y) + log Σ_c exp(S_ic/t + b_c)

    At a simplex equiangular tight frame (ETF) with u_i = w_y and without a bias it equals
    log(1 + (K-1) exp(-a)), where a = K/((K-1)t).

    Args:
        features: floating [B, D], of any length; normalized here.
        prototypes: floating [K, D], of any length; normalized here. A zero row has cosine 0
            with everything and the gradient of a row of length 1, so that it trains.
        labels: integer [B], in 0..K-1; or soft labels, floating [B, K].
        temperature: Positive number or scalar array.
        where: bool [B], the rows that count; None: all.
        bias: floating [K], or None. This is not a learned parameter but the term that logit
            adjustment adds for long-tailed data: the log of the class frequencies (Menon et al.
            2021).
        class_block: Number of classes handled at a time; None: all.

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
    batch = _checked(features, prototypes, labels, where, class_block, soft=True)
    temperature = numerics.check_positive("temperature", temperature, batch.dtype)
    directions = l2_normalize(batch.features, batch.mask), numerics.unit_or_zero(batch.prototypes)
    return _softmax(*directions, batch, temperature, bias)


@numerics.on_any_mesh("features")
def decoupled_normface(
    features: ArrayLike,
    prototypes: ArrayLike,
    labels: ArrayLike,
    *,
    temperature: ArrayLike,
    where: ArrayLike | None = None,
    class_block: int | None = None,
) -> PerAnchor:
    """NormFace without the anchor's own class in the denominator.

    The loss of anchor i is::

        loss_i = -S_iy/t + log Σ_{c≠y} exp(S_ic/t)

    This is the fourth combination of {K prototypes, M instances} and {coupled, decoupled}, next to
    `normface`, `ntce` and `nonl`. At a simplex ETF with u_i = w_y it equals log(K-1) - a, where
    a = K/((K-1)t); it may be negative.

    Args:
        features: floating [B, D], of any length; normalized here.
        prototypes: floating [K, D], of any length; normalized here. A zero row has cosine 0
            with everything and the gradient of a row of length 1, so that it trains.
        labels: integer [B], in 0..K-1; or soft labels, floating [B, K].
        temperature: Positive number or scalar array.
        where: bool [B], the rows that count; None: all.
        class_block: Number of classes handled at a time; None: all.

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
    batch = _checked(features, prototypes, labels, where, class_block, soft=True)
    temperature = numerics.check_positive("temperature", temperature, batch.dtype)
    directions = l2_normalize(batch.features, batch.mask), numerics.unit_or_zero(batch.prototypes)
    if batch.soft:
        return _soft_decoupled_softmax(*directions, batch, temperature)
    return _softmax(*directions, batch, temperature, None, decoupled=True)


@numerics.on_any_mesh("features")
def ntce(
    features: ArrayLike,
    prototypes: ArrayLike,
    labels: ArrayLike,
    *,
    temperature: ArrayLike,
    where: ArrayLike | None = None,
    axis_name: AxisName | None = None,
    queue: Queue | None = None,
    class_block: int | None = None,
) -> PerAnchor:
    """NTCE: the anchor is the prototype, its negatives are all M instances of the batch.

    The loss of anchor i, with j over the whole batch, i included, is::

        loss_i = -S_iy/t + log Σ_j exp(S_{j,y_i}/t)

    The denominator depends only on the class, so one log-sum-exp per class over the batch suffices:
    an M×K matrix instead of the M×M of the formula (whichever is smaller is used). Devices exchange
    K maxima and K sums, never features. A class absent from the batch gives its prototype no
    gradient. For soft labels Y the loss is::

        loss_i = Σ_c Y_ic (-S_ic/t + log Σ_j exp(S_jc/t))

    At a simplex ETF with n rows per class and u_i = w_y the loss equals
    log n + log(1 + (K-1) exp(-a)), where a = K/((K-1)t).

    Args:
        features: floating [B, D], of any length; normalized here.
        prototypes: floating [K, D], of any length; normalized here. A zero row has cosine 0
            with everything and the gradient of a row of length 1, so that it trains.
        labels: integer [B], in 0..K-1; or soft labels, floating [B, K].
        temperature: Positive number or scalar array.
        where: bool [B], the rows that count; None: all.
        axis_name: Mapped axis (or axes) of the batch, or None (see the head of this module).
        queue: None, or (features [Q, D], labels [Q]) of further instances, which are negatives like
            those of the batch but not anchors; negative labels count as masked. Their labels may be
            soft if those of the batch are. With `axis_name` each device passes its own.
        class_block: Number of classes handled at a time; None: all.

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
    batch = _checked(features, prototypes, labels, where, class_block, soft=True)
    return _prototype_anchored(batch, temperature, axis_name, queue, decoupled=False)


@numerics.on_any_mesh("features")
def nonl(
    features: ArrayLike,
    prototypes: ArrayLike,
    labels: ArrayLike,
    *,
    temperature: ArrayLike,
    where: ArrayLike | None = None,
    axis_name: AxisName | None = None,
    queue: Queue | None = None,
    class_block: int | None = None,
) -> PerAnchor:
    """NONL: NTCE with only the instances of other classes as negatives.

    The loss of anchor i, with j over the whole batch, is::

        loss_i = -S_iy/t + log Σ_{j: y_j≠y_i} exp(S_{j,y_i}/t)

    It costs as much as `ntce` and is computed the same way. For soft labels Y, row j counts by
    1 - Y_jc in the sum of class c::

        loss_i = Σ_c Y_ic (-S_ic/t + log Σ_j (1 - Y_jc) exp(S_jc/t))

    At a simplex ETF with n rows per class
    and u_i = w_y it equals log(n(K-1)) - a, where a = K/((K-1)t); it may be negative.

    Args:
        features: floating [B, D], of any length; normalized here.
        prototypes: floating [K, D], of any length; normalized here. A zero row has cosine 0
            with everything and the gradient of a row of length 1, so that it trains.
        labels: integer [B], in 0..K-1; or soft labels, floating [B, K].
        temperature: Positive number or scalar array.
        where: bool [B], the rows that count; None: all.
        axis_name: Mapped axis (or axes) of the batch, or None (see the head of this module).
        queue: None, or (features [Q, D], labels [Q]) of further instances, which are negatives like
            those of the batch but not anchors; negative labels count as masked. Their labels may be
            soft if those of the batch are. With `axis_name` each device passes its own.
        class_block: Number of classes handled at a time; None: all.

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
    batch = _checked(features, prototypes, labels, where, class_block, soft=True)
    return _prototype_anchored(batch, temperature, axis_name, queue, decoupled=True)


@numerics.on_any_mesh("features")
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
        labels: integer [B], any values below 2³¹-1 (in 64-bit mode, any); negative labels count as
            masked. Larger ones are refused where they are known (NumPy, lists), or else masked.
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
        ValueError: An argument has a wrong rank, shape or dtype, `temperature` is not positive,
            `block_size` is not a positive integer, or a label is too large.

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
    features = numerics.check_features("features", features)
    labels = numerics.check_labels(features.shape[0], labels)
    where = numerics.check_where(features.shape[0], where)
    temperature = numerics.check_positive(
        "temperature", temperature, numerics.float_dtype(features)
    )
    _check_block("block_size", block_size)
    _check_label_range(labels, where)
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
        keys, key_labels, key_mask = _with_queue(queue, keys, key_labels, key_mask)

    # Positives through class sums: a_i·(Σ_{y_l=y_i} a_l - a_i), no [B, B] mask. Labels are not
    # bounded by a number of classes here, so they are first numbered in order of size.
    num_keys = keys.shape[0]
    ids = _ranks(jnp.where(key_mask, key_labels, -1))
    sums = jax.ops.segment_sum(keys, ids, num_segments=num_keys)
    counts = jax.ops.segment_sum(key_mask.astype(keys.dtype), ids, num_segments=num_keys)
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
    if block_size is None or (isinstance(num_keys, int) and block_size >= anchors.shape[0]):
        losses = values(*of_anchors)
    else:
        losses = _in_blocks(lambda block: values(*block), of_anchors, block_size)
    return _per_anchor(losses, mask & (positives > 0))


@numerics.on_any_mesh("features")
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
    features = numerics.check_features("features", features)
    labels = numerics.check_labels(features.shape[0], labels)
    where = numerics.check_where(features.shape[0], where)
    temperature = numerics.check_positive(
        "temperature", temperature, numerics.float_dtype(features)
    )
    numerics.check_classes(num_classes)
    labels = numerics.class_ids(labels, num_classes)
    mask = row_mask(labels, num_classes, where)
    anchors = l2_normalize(features, mask)
    own = _own_class(labels, num_classes)
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
    lse, any_included = _logsumexp(weighted, present, axis=1)
    return _per_anchor(lse - _pick(logits, own), mask & any_included)


@numerics.on_any_mesh("features")
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
    batch = _checked(features, prototypes, labels, where)
    own = batch.prototypes[jnp.where(batch.mask, batch.labels, 0)]
    directions = l2_normalize(own)
    length = jnp.sum(own * directions, axis=1)
    cosine = jnp.sum(l2_normalize(batch.features, batch.mask) * directions, axis=1)
    return _per_anchor(0.5 * jnp.square(length * (cosine - 1.0)), batch.mask)


class _Batch(NamedTuple):
    """Checked arguments of a loss with prototypes; `labels` are -1, or rows of 0, where masked."""

    features: jax.Array
    prototypes: jax.Array
    labels: jax.Array
    mask: jax.Array
    class_block: int | None

    @property
    def num_classes(self) -> int:
        return self.prototypes.shape[0]

    @property
    def soft(self) -> bool:
        return self.labels.ndim == 2

    @property
    def dtype(self) -> Any:
        return self.features.dtype

    @property
    def in_blocks(self) -> bool:
        """Whether classes go block by block; soft labels always do, if only as one block."""
        return self.soft or (self.class_block is not None and self.class_block < self.num_classes)


def _checked(
    features: ArrayLike,
    prototypes: ArrayLike,
    labels: ArrayLike,
    where: ArrayLike | None,
    class_block: int | None = None,
    *,
    soft: bool = False,
) -> _Batch:
    features = numerics.check_features("features", features)
    rows, dims = features.shape
    prototypes = numerics.check_features("prototypes", prototypes, dims)
    num_classes = prototypes.shape[0]
    labels = numerics.check_labels(rows, labels, num_classes if soft else None)
    where = numerics.check_where(rows, where)
    _check_block("class_block", class_block)
    dtype = numerics.float_dtype(features, prototypes)
    features, prototypes = jnp.asarray(features, dtype), jnp.asarray(prototypes, dtype)
    if labels.ndim == 1:
        labels = numerics.class_ids(labels, num_classes)
        mask = row_mask(labels, num_classes, where)
    else:
        labels, mask = _soft_labels(labels, where, dtype)
    return _Batch(features, prototypes, labels, mask, class_block)


def _soft_labels(
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


def _check_block(name: str, size: int | None) -> None:
    if size is not None and (not numerics.is_integer(size) or size < 1):
        raise ValueError(f"{name} must be None or a positive integer; got {size!r}")


def _check_label_range(labels: ArrayLike, where: ArrayLike | None) -> None:
    """Refuse labels on the host that would have to be masked; others are masked by `class_ids`."""
    if not isinstance(labels, np.ndarray) or jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        return
    counted = labels[where] if isinstance(where, np.ndarray) else labels
    if counted.size and counted.max() >= 2**31 - 1:
        raise ValueError(
            f"labels must be below 2³¹-1, since JAX computes with 32-bit integers; got "
            f"{counted.max()}. Renumber them: np.unique(labels, return_inverse=True)[1]"
        )


def _with_bias(logits: jax.Array, bias: jax.Array | None) -> jax.Array:
    return logits if bias is None else logits + bias[None, :]


def _softmax(
    features: jax.Array,
    prototypes: jax.Array,
    batch: _Batch,
    temperature: jax.Array | None,
    bias: ArrayLike | None,
    *,
    decoupled: bool = False,
) -> PerAnchor:
    """Cross entropy of the logits, where `decoupled` without the own class in the denominator."""
    if bias is not None:
        bias = numerics.as_array("bias", bias)
        if bias.shape != (batch.num_classes,):
            raise ValueError(f"bias must have shape ({batch.num_classes},); got shape {bias.shape}")
        bias = jnp.asarray(bias, batch.dtype)

    def logits_of(prototypes: jax.Array, bias: jax.Array | None) -> jax.Array:
        logits = matmul(features, prototypes.T)
        return _with_bias(logits if temperature is None else logits / temperature, bias)

    if not batch.in_blocks:
        logits = logits_of(prototypes, bias)
        own = _own_class(batch.labels, batch.num_classes)
        lse, any_included = _logsumexp(logits, ~own if decoupled else None, axis=1)
        valid = batch.mask & any_included if decoupled else batch.mask
        return _per_anchor(lse - _pick(logits, own), valid)

    def add(
        carry: tuple[_RowSums, jax.Array], block: _ClassBlock
    ) -> tuple[tuple[_RowSums, jax.Array], None]:
        sums, own_logit = carry
        prototypes, bias = block.columns
        logits = logits_of(prototypes, bias)
        share = block.labels
        include = block.counted & (share == 0) if decoupled else block.counted
        return (sums.add(logits, include), own_logit + _expected(logits, share)), None

    zeros = _zeros(features.shape[0], features, prototypes, bias, temperature, batch.labels)
    start = _RowSums.init(zeros), zeros
    (sums, own_logit), _ = _over_classes(add, start, (prototypes, bias), batch)
    lse, any_included = sums.logsumexp()
    if batch.soft:
        lse = lse * jnp.sum(batch.labels, axis=1)
    valid = batch.mask & any_included if decoupled else batch.mask
    return _per_anchor(lse - own_logit, valid)


def _soft_decoupled_softmax(
    directions: jax.Array, prototypes: jax.Array, batch: _Batch, temperature: jax.Array
) -> PerAnchor:
    """Σ_c Y_ic (-S_ic/t + log Σ_{k≠c} exp(S_ik/t)), of which there is no value for K = 1.

    With L the log-sum-exp over all classes, that without c is L + log(1 - exp(S_ic/t - L)), which
    has no digits left only where c is the nearest class of the row: that one is summed by itself.
    """

    def logits_of(block: _ClassBlock) -> jax.Array:
        return matmul(directions, block.columns[0].T) / temperature

    def nearest(
        carry: tuple[jax.Array, jax.Array], block: _ClassBlock
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        peak, top = carry
        logits = jnp.where(block.counted, lax.stop_gradient(logits_of(block)), -jnp.inf)
        block_top = jnp.argmax(logits, axis=1)
        block_peak = jnp.max(logits, axis=1)
        closer = block_peak > peak
        return (
            jnp.where(closer, block_peak, peak),
            jnp.where(closer, block.ids[block_top], top),
        ), None

    zeros = _zeros(directions.shape[0], directions, prototypes, temperature, batch.labels)
    start = zeros - jnp.inf, zeros.astype(jnp.int32)
    (_, top), _ = _over_classes(nearest, lax.stop_gradient(start), (prototypes,), batch)

    def split(
        carry: tuple[_RowSums, jax.Array], block: _ClassBlock
    ) -> tuple[tuple[_RowSums, jax.Array], None]:
        rest, top_logit = carry
        logits = logits_of(block)
        is_top = top[:, None] == block.ids[None, :]
        return (rest.add(logits, block.counted & ~is_top), top_logit + _pick(logits, is_top)), None

    nothing = _RowSums.init(zeros), zeros
    (rest, top_logit), _ = _over_classes(split, nothing, (prototypes,), batch)
    without_top, any_included = rest.logsumexp()
    whole = jnp.logaddexp(without_top, top_logit)

    def add(total: jax.Array, block: _ClassBlock) -> tuple[jax.Array, None]:
        logits, is_top = logits_of(block), top[:, None] == block.ids[None, :]
        others = is_top | ~block.counted
        share = jnp.exp(jnp.where(others, -jnp.inf, logits - whole[:, None]))
        without = jnp.where(is_top, without_top[:, None], whole[:, None] + jnp.log1p(-share))
        return total + _expected(without - logits, block.labels), None

    total, _ = _over_classes(add, zeros, (prototypes,), batch)
    return _per_anchor(total, batch.mask & any_included)


def _prototype_anchored(
    batch: _Batch,
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
    prototypes = numerics.unit_or_zero(batch.prototypes)
    rows, devices = features.shape[0], 1 if axis_name is None else lax.axis_size(axis_name)
    keys, key_labels, key_mask = features, labels, mask
    if queue is not None:
        keys, key_labels, key_mask = _with_queue(queue, keys, key_labels, key_mask, num_classes)

    # A symbolic number of rows (of `jax.export`) may be larger.
    one_column_per_class = batch.soft or not isinstance(rows, int) or num_classes <= rows * devices
    if one_column_per_class and not batch.in_blocks:
        logits = matmul(keys, prototypes.T) / temperature
        own = _own_class(key_labels, num_classes)
        negatives = key_mask[:, None] & ~own if decoupled else key_mask[:, None]
        lse, any_included = _logsumexp(logits, negatives, axis=0, axis_name=axis_name)
        column = jnp.where(mask, labels, 0)
        own_logit = _pick(logits[:rows], own[:rows])
        return _per_anchor(lse[column] - own_logit, mask & any_included[column])

    if one_column_per_class:
        own_column, columns = labels, prototypes
        column_labels = jnp.arange(num_classes, dtype=jnp.int32)
    else:
        # More classes than rows: one column per anchor, with the prototype of the anchor's class.
        own_column, column_labels = jnp.arange(rows, dtype=jnp.int32), labels
        if axis_name is not None:
            column_labels = lax.all_gather(labels, axis_name, tiled=True)
            own_column = own_column + lax.axis_index(axis_name) * rows
        columns = prototypes[jnp.where(row_mask(column_labels, num_classes), column_labels, 0)]
        if batch.class_block is None or batch.class_block >= columns.shape[0]:
            logits = matmul(keys, columns.T) / temperature
            negatives = key_mask[:, None]
            if decoupled:
                negatives = negatives & (key_labels[:, None] != column_labels[None, :])
            lse, any_included = _logsumexp(logits, negatives, axis=0, axis_name=axis_name)
            own_logit = jnp.take_along_axis(logits[:rows], own_column[:, None], axis=1)[:, 0]
            return _per_anchor(lse[own_column] - own_logit, mask & any_included[own_column])

    def sums_of_block(
        own_logit: jax.Array, block: _ClassBlock
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        columns, column_labels = block.columns
        logits = matmul(keys, columns.T) / temperature
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
        peak, total = _peak_and_total(weighted, negatives, axis=0)
        return own_logit + _expected(logits[:rows], own), (peak[0], total[0])

    start = _zeros(rows, keys, prototypes, temperature, key_labels)
    own_logit, (peak, total) = _over_classes(
        sums_of_block, start, (columns, column_labels), batch._replace(labels=key_labels)
    )
    lse, any_included = _combine(peak, total, axis_name)
    if batch.soft:
        undefined = jnp.any((labels > 0) & ~any_included[None, :], axis=1)
        return _per_anchor(_expected(lse[None, :], labels) - own_logit, mask & ~undefined)
    column = jnp.where(mask, own_column, 0)
    return _per_anchor(lse[column] - own_logit, mask & any_included[column])


def _with_queue(
    queue: Queue,
    keys: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
    num_classes: int | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(directions, labels, mask) of the keys and the instances of a queue."""
    queue_features, queue_labels = queue
    dims = keys.shape[1]
    queue_features = numerics.check_features("queue features", queue_features, dims)
    rows = queue_features.shape[0]
    soft = labels.ndim == 2
    queue_labels = numerics.check_labels(rows, queue_labels, num_classes if soft else None)
    if queue_labels.ndim == 2:
        queue_labels, queue_mask = _soft_labels(queue_labels, None, labels.dtype)
    else:
        if num_classes is None:
            _check_label_range(queue_labels, None)
        queue_labels = numerics.class_ids(queue_labels, num_classes)
        queue_mask = queue_labels >= 0
        if soft:
            queue_labels = jax.nn.one_hot(queue_labels, labels.shape[1], dtype=labels.dtype)
        else:
            dtype = jnp.promote_types(labels.dtype, queue_labels.dtype)
            labels, queue_labels = labels.astype(dtype), queue_labels.astype(dtype)
    directions = l2_normalize(jnp.asarray(queue_features, keys.dtype), queue_mask)
    return (
        jnp.concatenate([keys, directions]),
        jnp.concatenate([labels, queue_labels]),
        jnp.concatenate([mask, queue_mask]),
    )


def _ranks(labels: jax.Array) -> jax.Array:
    """For each label, how many smaller ones there are among the distinct labels."""
    order = jnp.argsort(labels)
    in_order = labels[order]
    steps = jnp.concatenate([jnp.zeros_like(order[:1], bool), in_order[1:] != in_order[:-1]])
    ranks = jnp.cumsum(steps, dtype=order.dtype)
    return jnp.zeros_like(order).at[order].set(ranks)


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


def _peak_and_total(
    logits: jax.Array, include: jax.Array, *, axis: int
) -> tuple[jax.Array, jax.Array]:
    """Maximum, -inf of nothing, and the sum of exp(logits - maximum); `axis` stays."""
    logits = jnp.where(include, logits, -jnp.inf)
    peak = jnp.max(lax.stop_gradient(logits), axis=axis, keepdims=True, initial=-jnp.inf)
    total = jnp.sum(jnp.exp(logits - _finite(peak)), axis=axis, keepdims=True)
    return peak, total


def _finite(peak: jax.Array) -> jax.Array:
    return jnp.where(peak == -jnp.inf, 0.0, peak)


def _combine(
    peak: jax.Array, total: jax.Array, axis_name: AxisName | None = None
) -> tuple[jax.Array, jax.Array]:
    """As `_logsumexp`, from the peaks and totals of this device."""
    if axis_name is not None:
        common = lax.pmax(peak, axis_name)
        total = lax.psum(total * jnp.exp(peak - _finite(common)), axis_name)
        peak = common
    any_included = peak != -jnp.inf
    lse = jnp.log(jnp.where(any_included, total, 1.0)) + _finite(peak)
    return jnp.where(any_included, lse, 0.0), any_included


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _RowSums:
    """Log-sum-exp of each row over the classes so far, as its peak and total."""

    peak: jax.Array
    total: jax.Array

    @classmethod
    def init(cls, zeros: jax.Array) -> "_RowSums":
        return cls(zeros - jnp.inf, zeros)

    def add(self, logits: jax.Array, include: jax.Array) -> "_RowSums":
        """With further columns. That peaks have no gradient is exact: the sum is free of them."""
        block_peak, block_total = (x[:, 0] for x in _peak_and_total(logits, include, axis=1))
        old = lax.stop_gradient(self.peak)
        peak = jnp.maximum(old, block_peak)
        parts = (
            self.total * jnp.exp(old - _finite(peak)),
            block_total * jnp.exp(block_peak - _finite(peak)),
        )
        return _RowSums(peak, parts[0] + parts[1])

    def logsumexp(self) -> tuple[jax.Array, jax.Array]:
        return _combine(self.peak, self.total)


class _ClassBlock(NamedTuple):
    """A block of columns: their numbers, which are no padding, whose labels, and what they hold."""

    ids: jax.Array  # int32 [b]
    counted: jax.Array  # bool [1, b]
    labels: jax.Array  # [rows, b]: the share of the column's class in each row, or whether it is it
    columns: tuple[Any, ...]


def _over_classes(
    step: Callable[[Any, _ClassBlock], tuple[Any, Any]],
    carry: Any,
    columns: tuple[Any, ...],
    batch: _Batch,
) -> tuple[Any, Any]:
    """`lax.scan` of `step` over blocks of columns, each recomputed in the backward pass.

    Returns the last carry, and what the steps return, joined along the columns.
    """
    count = columns[0].shape[0]
    size = min(batch.class_block or count, count)
    number = -(-count // size)

    def split(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, [(0, number * size - count)] + [(0, 0)] * (x.ndim - 1))
        return x.reshape(number, size, *x.shape[1:])

    def of_block(carry: Any, block: tuple[jax.Array, jax.Array | None, Any]) -> tuple[Any, Any]:
        ids, soft, columns = block
        labels = batch.labels[:, None] == ids[None, :] if soft is None else soft.T
        return step(carry, _ClassBlock(ids, (ids < count)[None, :], labels, columns))

    ids = jnp.arange(number * size, dtype=jnp.int32)
    soft = batch.labels.T if batch.soft else None
    if number == 1:
        return of_block(carry, (ids, soft, columns))
    blocks = ids.reshape(number, size), *jax.tree.map(split, (soft, columns))
    carry, parts = lax.scan(jax.checkpoint(of_block, prevent_cse=False), carry, blocks)
    return carry, jax.tree.map(lambda x: x.reshape(-1)[:count], parts)


def _zeros(rows: int, *arrays: jax.Array | None) -> jax.Array:
    """Zeros [rows]. Inside shard_map they vary over devices as the arrays do, as a carry must."""
    given = [x for x in arrays if x is not None]
    zeros = jnp.zeros((rows,), given[0].dtype)
    for x in given:
        zeros += jnp.sum(x.reshape(-1)[:0], dtype=jnp.float32).astype(zeros.dtype)
    return zeros


def _expected(values: jax.Array, shares: jax.Array) -> jax.Array:
    """Σ_c shares_ic values_ic; what has no share may be infinite."""
    if shares.dtype == jnp.bool_:
        return _pick(values, shares)
    return jnp.sum(shares * jnp.where(shares != 0, values, 0.0), axis=1)


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
