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
    Largest number of classes handled at a time, with recomputation in the backward pass: memory is
    O(B·class_block) instead of O(B·K). None: all at once. Blocks are even: a number of classes with
    a divisor just below `class_block` needs no copy of the prototypes.

`model_axis`
    The mapped axis (or axes) over which the classes are split, inside `jax.shard_map`: prototypes
    (and a bias) are those of this device's classes, equally many on each device and in the order of
    the devices, while labels, integers here, count over the classes of all devices. Features and
    labels are the same along this axis. Only numbers per row cross it: sums, maxima, and the value
    of each row from the device of its class. Values are those of one device, on every device of the
    axis. So are gradients, with ``check_vma=True`` (the default).

`queue`
    Features and labels of further instances, which are compared with the anchors but are no anchors
    themselves. Negative labels count as masked.

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

import jax.numpy as jnp
from jax.typing import ArrayLike

from hsproto.core import numerics
from hsproto.core.batch import Queue, check_block, checked
from hsproto.core.instances import between_instances, with_class_means
from hsproto.core.labels import check_label_range
from hsproto.core.meshes import AxisName, on_any_mesh
from hsproto.core.numerics import l2_normalize, row_mask
from hsproto.core.per_anchor import PerAnchor, per_anchor
from hsproto.core.prototype_anchored import prototype_anchored
from hsproto.core.softmax import soft_decoupled_softmax, softmax

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


@on_any_mesh("features")
def cross_entropy(
    features: ArrayLike,
    prototypes: ArrayLike,
    labels: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    where: ArrayLike | None = None,
    class_block: int | None = None,
    model_axis: AxisName | None = None,
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
        class_block: Largest number of classes handled at a time; None: all.
        model_axis: Mapped axis (or axes) over which the classes are split, or None.

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
    batch = checked(features, prototypes, labels, where, class_block, model_axis, soft=True)
    # Masked rows are zeroed, so that what they hold cannot reach a gradient.
    features = jnp.where(batch.mask[:, None], batch.features, 0.0)
    return softmax(features, batch.prototypes, batch, None, bias)


@on_any_mesh("features")
def normface(
    features: ArrayLike,
    prototypes: ArrayLike,
    labels: ArrayLike,
    *,
    temperature: ArrayLike,
    where: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    class_block: int | None = None,
    model_axis: AxisName | None = None,
) -> PerAnchor:
    """NormFace, or normalized softmax: the anchor is the instance, the negatives are K prototypes.

    The loss of anchor i is::

        loss_i = -(S_iy/t + b_y) + log Σ_c exp(S_ic/t + b_c)

    At a simplex equiangular tight frame (ETF) with u_i = w_y and without a bias it equals
    log(1 + (K-1) exp(-a)), where a = K/((K-1)t).

    Args:
        features: floating [B, D], of any length; normalized here.
        prototypes: floating [K, D], of any length; normalized here.
        labels: integer [B], in 0..K-1; or soft labels, floating [B, K].
        temperature: Positive number or scalar array.
        where: bool [B], the rows that count; None: all.
        bias: floating [K], or None. This is not a learned parameter but the term that logit
            adjustment adds for long-tailed data: the log of the class frequencies (Menon et al.
            2021).
        class_block: Largest number of classes handled at a time; None: all.
        model_axis: Mapped axis (or axes) over which the classes are split, or None.

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
    batch = checked(features, prototypes, labels, where, class_block, model_axis, soft=True)
    temperature = numerics.check_positive("temperature", temperature, batch.dtype)
    return softmax(
        l2_normalize(batch.features, batch.mask), batch.prototypes, batch, temperature, bias
    )


@on_any_mesh("features")
def decoupled_normface(
    features: ArrayLike,
    prototypes: ArrayLike,
    labels: ArrayLike,
    *,
    temperature: ArrayLike,
    where: ArrayLike | None = None,
    class_block: int | None = None,
    model_axis: AxisName | None = None,
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
        labels: integer [B], in 0..K-1; or soft labels, floating [B, K].
        temperature: Positive number or scalar array.
        where: bool [B], the rows that count; None: all.
        class_block: Largest number of classes handled at a time; None: all.
        model_axis: Mapped axis (or axes) over which the classes are split, or None.

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
    batch = checked(features, prototypes, labels, where, class_block, model_axis, soft=True)
    temperature = numerics.check_positive("temperature", temperature, batch.dtype)
    features = l2_normalize(batch.features, batch.mask)
    if batch.soft:
        prototypes = numerics.unit_or_zero(batch.prototypes)
        return soft_decoupled_softmax(features, prototypes, batch, temperature)
    return softmax(features, batch.prototypes, batch, temperature, None, decoupled=True)


@on_any_mesh("features")
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
    model_axis: AxisName | None = None,
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
        prototypes: floating [K, D], of any length; normalized here.
        labels: integer [B], in 0..K-1; or soft labels, floating [B, K].
        temperature: Positive number or scalar array.
        where: bool [B], the rows that count; None: all.
        axis_name: Mapped axis (or axes) of the batch, or None.
        queue: None, or (features [Q, D], labels [Q]) of further negatives; labels may be soft if
            those of the batch are. With `axis_name` each device passes its own.
        class_block: Largest number of classes handled at a time; None: all.
        model_axis: Mapped axis (or axes) over which the classes are split, or None.

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
    batch = checked(features, prototypes, labels, where, class_block, model_axis, soft=True)
    return prototype_anchored(batch, temperature, axis_name, queue, decoupled=False)


@on_any_mesh("features")
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
    model_axis: AxisName | None = None,
) -> PerAnchor:
    """NONL: NTCE with only the instances of other classes as negatives.

    The loss of anchor i, with j over the whole batch, is::

        loss_i = -S_iy/t + log Σ_{j: y_j≠y_i} exp(S_{j,y_i}/t)

    It costs as much as `ntce` and is computed the same way. For soft labels Y, row j counts by
    1 - Y_jc in the sum of class c::

        loss_i = Σ_c Y_ic (-S_ic/t + log Σ_j (1 - Y_jc) exp(S_jc/t))

    At a simplex ETF with n rows per class and u_i = w_y it equals log(n(K-1)) - a, where
    a = K/((K-1)t); it may be negative.

    Args:
        features: floating [B, D], of any length; normalized here.
        prototypes: floating [K, D], of any length; normalized here.
        labels: integer [B], in 0..K-1; or soft labels, floating [B, K].
        temperature: Positive number or scalar array.
        where: bool [B], the rows that count; None: all.
        axis_name: Mapped axis (or axes) of the batch, or None.
        queue: None, or (features [Q, D], labels [Q]) of further negatives; labels may be soft if
            those of the batch are. With `axis_name` each device passes its own.
        class_block: Largest number of classes handled at a time; None: all.
        model_axis: Mapped axis (or axes) over which the classes are split, or None.

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
    batch = checked(features, prototypes, labels, where, class_block, model_axis, soft=True)
    return prototype_anchored(batch, temperature, axis_name, queue, decoupled=True)


@on_any_mesh("features")
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
        axis_name: Mapped axis (or axes) of the batch, or None. The features of all devices are
            gathered.
        block_size: Number of anchors handled at a time, as `class_block`: memory is
            O(B·block_size) instead of O(B²). None: all.
        queue: None, or (features [Q, D], labels [Q]) of further positives and negatives. With
            `axis_name` every device passes the whole queue.

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
    check_block("block_size", block_size)
    check_label_range(labels, where)
    labels = numerics.class_ids(labels)
    mask = labels >= 0 if where is None else jnp.asarray(where) & (labels >= 0)
    return between_instances(features, labels, mask, temperature, axis_name, block_size, queue)


@on_any_mesh("features")
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
        axis_name: Mapped axis (or axes) of the batch, or None. K class sums are exchanged, never
            features.

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
    labels = numerics.class_ids(labels, num_classes, where)
    mask = row_mask(labels, num_classes, where)
    return with_class_means(features, labels, mask, num_classes, temperature, axis_name)


@on_any_mesh("features")
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
    batch = checked(features, prototypes, labels, where)
    own = batch.prototypes[jnp.where(batch.mask, batch.labels, 0)]
    directions = l2_normalize(own)
    length = jnp.sum(own * directions, axis=1)
    cosine = jnp.sum(l2_normalize(batch.features, batch.mask) * directions, axis=1)
    return per_anchor(0.5 * jnp.square(length * (cosine - 1.0)), batch.mask)
