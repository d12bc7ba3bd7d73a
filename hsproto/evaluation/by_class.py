"""Classifying and averaging embedded rows where classes are many, or split over devices.

[N, K] is never built: rows go in batches, classes in blocks of `class_block`.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from ml_collections import ConfigDict, FrozenConfigDict

from hsproto import prototypes
from hsproto.core import nearest
from hsproto.models import classifier as classifier_lib
from hsproto.parallel import mesh as mesh_lib

# Of more classes, geometry is that of as many: it decomposes matrices of every class with every
# other, in a time that grows with the cube of their number.
MOST_COMPARED = 4000


def predict(
    config: ConfigDict,
    mesh: Mesh,
    features: jax.Array,
    weights: jax.Array,
    bias: jax.Array | None = None,
    *,
    by_cosine: bool = False,
) -> jax.Array:
    """Return predicted labels [N], as `models.classifier.predict` does for a batch.

    With `by_cosine` they are those of `prototypes.predict`, whatever the loss.

    Args:
        config: Of the run; rows are handled eval_batch_size at a time, if that divides them.
        mesh: Over whose devices rows, and perhaps classes, are split.
        features: [N, D], split over the mesh.
        weights: [K, D].
        bias: [K] or None.
    """
    at_once = nearest.class_block_for(len(features), len(weights)) is None
    if at_once and not config.class_block and not mesh_lib.splits_classes(mesh):
        if by_cosine:
            return prototypes.predict(features, weights)
        return classifier_lib.predict(config, features, weights, bias)
    return _in_batches(FrozenConfigDict(config), mesh, by_cosine, features, weights, bias)


def _nearest(config, features, weights, bias, model_axis=None):
    del bias
    block = config.class_block or nearest.class_block_for(len(features), len(weights))
    return prototypes.predict(features, weights, class_block=block, model_axis=model_axis)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _in_batches(config, mesh, by_cosine, features, weights, bias):
    size = math.gcd(len(features), config.eval_batch_size)
    predict = functools.partial(_nearest if by_cosine else classifier_lib.predict, config)
    if mesh_lib.splits_classes(mesh):
        rows, classes = mesh_lib.over_data(mesh).spec, mesh_lib.over_classes(mesh).spec
        predict = jax.shard_map(
            functools.partial(predict, model_axis=mesh_lib.MODEL_AXIS),
            mesh=mesh,
            in_specs=(rows, classes, classes),
            out_specs=rows,
        )
    # Rows of a device are consecutive: every batch takes some of each device.
    batches = features.reshape(size, -1, features.shape[1])

    def of_batch(i):
        return predict(lax.dynamic_index_in_dim(batches, i, 1, keepdims=False), weights, bias)

    return lax.map(of_batch, jnp.arange(batches.shape[1])).T.reshape(-1)


def fit(
    mesh: Mesh, features: jax.Array, labels: np.ndarray, num_classes: int, where: np.ndarray
) -> jax.Array:
    """Return `prototypes.fit` of rows that are split over a mesh; split by class as it does."""
    if not mesh_lib.splits_classes(mesh):
        return prototypes.fit(features, labels, num_classes=num_classes, where=where)
    return _fit_by_class(mesh, num_classes, features, labels, where)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _fit_by_class(mesh, num_classes, features, labels, where):
    """Each device fits its own classes; the others' rows do not count there."""
    axis = mesh_lib.MODEL_AXIS
    share = num_classes // mesh.shape[axis]

    def local(features, labels, where):
        labels = labels - share * lax.axis_index(axis)
        return prototypes.fit(features, labels, num_classes=share, where=where)

    # The axis of the rows stays Auto, as everywhere else where rows are averaged.
    whole = PartitionSpec()
    split = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(whole, whole, whole),
        out_specs=mesh_lib.over_classes(mesh).spec,
        axis_names={axis},
    )
    return split(features, labels, where)


def compared(
    labels: np.ndarray, num_classes: int, most: int = MOST_COMPARED
) -> tuple[np.ndarray, np.ndarray]:
    """Return (labels [N] of the classes that geometry compares, -1 for others; these classes).

    They are `most` of the `num_classes`, spread evenly over their numbers.
    """
    chosen = np.linspace(0, num_classes - 1, most).astype(np.int64)
    numbers = np.full(num_classes, -1, np.int32)
    numbers[chosen] = np.arange(most)
    return np.where(labels < 0, -1, numbers[labels]), chosen
