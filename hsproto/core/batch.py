"""The checked arguments of a loss: a batch, its prototypes, further instances of a queue."""

from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from hsproto.core import numerics
from hsproto.core.labels import check_label_range, soft_labels
from hsproto.core.meshes import AxisName
from hsproto.core.numerics import l2_normalize, row_mask

# Features and labels of further instances.
Queue: TypeAlias = tuple[ArrayLike, ArrayLike]


class Batch(NamedTuple):
    """Checked arguments of a loss with prototypes; `labels` are -1, or rows of 0, where masked.

    With `model_axis`, prototypes are this device's classes and `labels` count from its first one;
    they are -1 for the classes of other devices too, of which only `mask` tells masked rows.
    """

    features: jax.Array
    prototypes: jax.Array
    labels: jax.Array
    mask: jax.Array
    class_block: int | None
    model_axis: AxisName | None = None

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
        """Whether classes go block by block, if only as one block: also soft and shared ones."""
        return self.soft or self.class_block is not None or self.model_axis is not None

    @property
    def first_class(self) -> jax.Array | int:
        """The number of this device's first class."""
        axis = self.model_axis
        return 0 if axis is None else lax.axis_index(axis) * self.num_classes

    @property
    def all_classes(self) -> int:
        """The number of classes of all devices."""
        return _of_all_devices(self.num_classes, self.model_axis)

    def local(self, labels: jax.Array) -> jax.Array:
        """Global labels as this device's: -1 for the classes of others."""
        if self.model_axis is None:
            return labels
        labels = labels - self.first_class
        return jnp.where((labels >= 0) & (labels < self.num_classes), labels, -1)


def checked(
    features: ArrayLike,
    prototypes: ArrayLike,
    labels: ArrayLike,
    where: ArrayLike | None,
    class_block: int | None = None,
    model_axis: AxisName | None = None,
    *,
    soft: bool = False,
) -> Batch:
    """Check the arguments of a loss with prototypes; `soft` allows soft labels."""
    features = numerics.check_features("features", features)
    rows, dims = features.shape
    prototypes = numerics.check_features("prototypes", prototypes, dims)
    num_classes = prototypes.shape[0]
    labels = numerics.check_labels(rows, labels, num_classes if soft else None)
    where = numerics.check_where(rows, where)
    check_block("class_block", class_block)
    dtype = numerics.float_dtype(features, prototypes)
    features, prototypes = jnp.asarray(features, dtype), jnp.asarray(prototypes, dtype)
    if labels.ndim == 2:
        if model_axis is not None:
            raise ValueError(
                "labels must be integers [B] with model_axis, counted over the classes of all "
                f"devices; got soft labels of shape {labels.shape}"
            )
        return Batch(features, prototypes, *soft_labels(labels, where, dtype), class_block)
    all_classes = _of_all_devices(num_classes, model_axis)
    labels = numerics.class_ids(labels, all_classes, where)
    mask = row_mask(labels, all_classes, where)
    batch = Batch(features, prototypes, labels, mask, class_block, model_axis)
    return batch._replace(labels=batch.local(labels))


def _of_all_devices(num_classes: int, model_axis: AxisName | None) -> int:
    return num_classes * (1 if model_axis is None else lax.axis_size(model_axis))


def check_block(name: str, size: int | None) -> None:
    """Raise ValueError unless `size` is None or a positive integer."""
    if size is not None and (not numerics.is_integer(size) or size < 1):
        raise ValueError(f"{name} must be None or a positive integer; got {size!r}")


def with_queue(
    queue: Queue,
    keys: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
    num_classes: int | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(directions, labels, mask) of the keys and the instances of a queue."""
    if not isinstance(queue, (tuple, list)) or len(queue) != 2:
        raise ValueError("queue must be a pair of features and labels")
    queue_features, queue_labels = queue
    dims = keys.shape[1]
    queue_features = numerics.check_features("queue features", queue_features, dims)
    rows = queue_features.shape[0]
    soft = labels.ndim == 2
    queue_labels = numerics.check_labels(rows, queue_labels, num_classes if soft else None)
    if queue_labels.ndim == 2:
        queue_labels, queue_mask = soft_labels(queue_labels, None, labels.dtype)
    else:
        if num_classes is None:
            check_label_range(queue_labels, None)
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
