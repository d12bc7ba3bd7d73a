"""Fixed prototypes: a classifier whose weights are the directions of exact class means.

One pass over the training set, without augmentation, in place of training a classifier (the FP
of the paper, section 3). `fit` takes all features at once; the accumulator takes them as they
come, on as many devices or machines as there are, and gives the same.

Classes come and go without training, since no prototype depends on another class: a new one is a
row more, `jnp.concatenate([prototypes, fit(new_features, zeros, num_classes=1)])`, and without its
row a class is gone.
"""

import jax.numpy as jnp

from hsproto.core import class_stats, numerics


def init(num_classes, dim):
    """An accumulator of no rows: `ClassStats`, a tuple of arrays that jit and pmap carry."""
    return class_stats.init(num_classes, dim)


def update(accumulator, features, labels, where=None):
    """The accumulator with a batch of features [B, D] and labels [B] added.

    Rows with `where` [B] False or a label outside 0..K-1 do not count, whatever they hold.
    Raises ValueError for wrong shapes or types.
    """
    return class_stats.update(accumulator, features, labels, where, numerics.l2_normalize)


def merge(a, b):
    """The accumulator of the rows of both, in any order."""
    return class_stats.merge(a, b)


def finish(accumulator):
    """Prototypes of what was accumulated, float32 [K, D]: see `fit`."""
    found = class_stats.directions(accumulator.means)
    return jnp.where(jnp.all(jnp.isfinite(found), axis=1, keepdims=True), found, 0.0)


def fit(features, labels, *, num_classes, where=None):
    """Prototypes w_c = mu_c/|mu_c|, mu_c the mean of x_i/|x_i| over the rows of class c.

    features: floating [N, D] of any length; labels: integer [N]; where: bool [N], rows to use.
    Returns float32 [K, D] of unit rows. A class without rows, with a row that is not finite, or
    whose directions cancel, has a zero row, which `logits` and `predict` take as "never".
    Raises ValueError for wrong shapes or types. Source: paper, section 3 (FP).
    """
    numerics.check_features("features", features)
    numerics.check_classes(num_classes)
    return finish(update(init(num_classes, jnp.shape(features)[1]), features, labels, where))


def logits(features, prototypes, *, temperature=1.0):
    """Cosines over temperature, x_i · w_c / (|x_i| |w_c| temperature), float32 [B, K].

    -inf for a prototype of length zero or not finite; 0 for a feature of length zero. Neither
    argument needs to be of unit length. The softmax of these is the NormFace probability of each
    class.
    Raises ValueError for wrong shapes or types, or a temperature that is not positive.
    """
    numerics.check_features("features", features)
    numerics.check_features("prototypes", prototypes, jnp.shape(features)[1])
    temperature = numerics.check_positive("temperature", temperature)
    directions = numerics.l2_normalize(prototypes)
    cosines = numerics.matmul(numerics.l2_normalize(features), directions.T) / temperature
    # The sum is 0 for a zero row and NaN for one that is not finite.
    usable = jnp.sum(directions * directions, axis=1) > 0
    return jnp.where(usable[None, :], cosines, -jnp.inf)


def predict(features, prototypes):
    """The class of the nearest prototype in angle, int32 [B].

    -1 where there is none: all prototypes are zero, or the feature is not finite.
    """
    scores = logits(features, prototypes)
    nearest = jnp.argmax(scores, axis=1).astype(jnp.int32)
    return jnp.where(jnp.any(jnp.isfinite(scores), axis=1), nearest, -1)
