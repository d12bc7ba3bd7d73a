"""Fixed prototypes: a classifier whose weights are the directions of exact class means.

Features are computed with in float32, or in float64 where they are float64 in JAX's 64-bit mode;
results have that dtype.

One pass over the training set, without augmentation, replaces the training of a classifier (FP in
section 3 of the paper). `fit` takes all features at once; the accumulator (`init`, `update`,
`merge`, `finish`) takes them batch by batch, on any number of devices or machines, and gives the
same result.

Classes can be added and removed without training, since no prototype depends on another class: a
new class is one more row,
``jnp.concatenate([prototypes, fit(new_features, zeros, num_classes=1)])``, and deleting its row
removes a class.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from hsproto.core import class_stats, numerics
from hsproto.core.batch import check_block
from hsproto.core.class_stats import ClassStats
from hsproto.core.meshes import AxisName, on_any_mesh
from hsproto.core.nearest import best_class, best_column

__all__ = ["finish", "fit", "init", "logits", "merge", "predict", "update"]


def init(num_classes: int, dim: int, dtype: Any = jnp.float32) -> ClassStats:
    """Return an accumulator of no rows: `ClassStats`, a tuple of arrays for jit, pmap and the like.

    Args:
        num_classes: Number of classes, K.
        dim: Number of dimensions, D.
        dtype: float32; or float64, so that the accumulator has one dtype from the start where rows
            are float64 (`jax.lax.scan` requires that; elsewhere the first batch changes it).

    Raises:
        ValueError: `num_classes` is not a positive integer.
    """
    return class_stats.init(num_classes, dim, dtype)


@on_any_mesh()
def update(
    accumulator: ClassStats,
    features: ArrayLike,
    labels: ArrayLike,
    where: ArrayLike | None = None,
) -> ClassStats:
    """Return the accumulator with a batch added.

    Args:
        accumulator: From `init`, `update` or `merge`.
        features: floating [B, D], of any length; normalized here.
        labels: integer [B]. A row with a label outside 0..K-1 does not count, whatever it holds.
        where: bool [B], the rows that count; None: all.

    Raises:
        ValueError: An argument has a wrong rank, shape or dtype.
    """
    return class_stats.update(accumulator, features, labels, where, numerics.l2_normalize)


def merge(a: ClassStats, b: ClassStats) -> ClassStats:
    """Return the accumulator of the rows of both; the order does not matter."""
    return class_stats.merge(a, b)


def finish(accumulator: ClassStats) -> jax.Array:
    """Return the prototypes of the accumulated rows, float32 [K, D]; see `fit`."""
    return _usable_directions(accumulator.means)


@numerics.inlined
def _usable_directions(means):
    directions = class_stats.directions(means)
    return jnp.where(jnp.all(jnp.isfinite(directions), axis=1, keepdims=True), directions, 0.0)


@on_any_mesh()
def fit(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    num_classes: int,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Return the directions of the class means of unit features as prototypes.

    The prototype of class c is::

        w_c = mu_c/|mu_c|,   mu_c the mean of x_i/|x_i| over the rows with y_i = c

    Args:
        features: floating [N, D], of any length.
        labels: integer [N]. A row with a label outside 0..num_classes-1 does not count.
        num_classes: Number of classes, K.
        where: bool [N], the rows that count; None: all.

    Returns:
        float32 [K, D] of unit rows. A class that has no rows, has a row that is not finite, or
        whose directions cancel gets a zero row, which `logits` and `predict` never choose.

    Raises:
        ValueError: An argument has a wrong rank, shape or dtype.

    Source:
        Paper, section 3 (FP).

    Example:
        >>> import jax.numpy as jnp
        >>> from hsproto import prototypes
        >>> features = jnp.array([[3.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
        >>> fitted = prototypes.fit(features, jnp.array([0, 0, 1]), num_classes=2)
        >>> fitted.round(3).tolist() == jnp.full((2, 2), 0.5**0.5).round(3).tolist()
        True
    """
    features = numerics.check_features("features", features)
    numerics.check_classes(num_classes)
    return finish(update(init(num_classes, features.shape[1]), features, labels, where))


@on_any_mesh("features", "prototypes")
def logits(
    features: ArrayLike, prototypes: ArrayLike, *, temperature: ArrayLike = 1.0
) -> jax.Array:
    """Return cosines over temperature.

    The logit of row i and class c is::

        x_i · w_c / (|x_i| |w_c| temperature)

    The softmax of the logits gives the NormFace probability of each class.

    Args:
        features: floating [B, D], of any length.
        prototypes: floating [K, D], of any length.
        temperature: Positive number or scalar array.

    Returns:
        float32 [B, K]; -inf for a prototype that has length zero or is not finite, 0 for a feature
        of length zero.

    Raises:
        ValueError: An argument has a wrong rank, shape or dtype, or `temperature` is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> from hsproto import prototypes
        >>> prototypes.logits(jnp.array([[0.0, 2.0]]), jnp.eye(2), temperature=0.5).tolist()
        [[0.0, 2.0]]
    """
    features = numerics.check_features("features", features)
    prototypes = numerics.check_features("prototypes", prototypes, features.shape[1])
    dtype = numerics.float_dtype(features, prototypes)
    temperature = numerics.check_positive("temperature", temperature, dtype)
    return _logits(features, prototypes, temperature)


@numerics.inlined
def _logits(features, prototypes, temperature):
    directions = numerics.l2_normalize(prototypes)
    cosines = numerics.matmul(numerics.l2_normalize(features), directions.T) / temperature
    # The sum is 0 for a zero row and NaN for one that is not finite.
    usable = jnp.sum(directions * directions, axis=1) > 0
    return jnp.where(usable[None, :], cosines, -jnp.inf)


@on_any_mesh("features")
def predict(
    features: ArrayLike,
    prototypes: ArrayLike,
    *,
    class_block: int | None = None,
    model_axis: AxisName | None = None,
) -> jax.Array:
    """Return the class whose prototype is nearest in angle.

    Args:
        features: floating [B, D], of any length.
        prototypes: floating [K, D], of any length.
        class_block: Largest number of classes handled at a time, so that no [B, K] is built; None:
            all.
        model_axis: Mapped axis (or axes) over which the classes are split, as in
            `hsproto.losses`, or None. Labels count over the classes of all devices.

    Returns:
        int32 [B]; -1 where there is no nearest prototype: all prototypes are zero, or the feature
        is not finite.

    Raises:
        ValueError: An argument has a wrong rank, shape or dtype.

    Example:
        >>> import jax.numpy as jnp
        >>> from hsproto import prototypes
        >>> prototypes.predict(jnp.array([[0.1, 2.0], [1.0, -1.0]]), jnp.eye(2)).tolist()
        [1, 0]
    """
    check_block("class_block", class_block)
    if class_block is not None or model_axis is not None:
        features = numerics.check_features("features", features)
        prototypes = numerics.check_features("prototypes", prototypes, features.shape[1])

        def scores_of(prototypes: ArrayLike) -> jax.Array:
            return logits(features, prototypes)

        return best_class(scores_of, jnp.asarray(prototypes), class_block, model_axis)
    return best_column(logits(features, prototypes))
