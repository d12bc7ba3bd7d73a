"""What a call outside jit knows and can do: layouts, rows per class, the threads of BLAS."""

import contextlib
import functools
import importlib.util
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec

from hsproto.core import numerics


def traced(*arrays: object) -> bool:
    """Return whether one of the arrays is known only under a transformation."""
    return any(isinstance(array, Tracer) for array in arrays)


def class_sharding(features: jax.Array) -> NamedSharding | None:
    """Layout of classes for features sharded over rows: over the same devices."""
    sharding = None if isinstance(features, Tracer) else getattr(features, "sharding", 0)
    if not isinstance(sharding, NamedSharding) or sharding.is_fully_replicated:
        return None
    return NamedSharding(sharding.mesh, PartitionSpec(sharding.mesh.axis_names))


@functools.partial(jax.jit, static_argnums=(2, 3))
def count(labels, where, num_classes, sharding):
    """Number of rows that count of each class, int32 [K]."""
    keep = numerics.row_mask(labels, num_classes, where)
    counts = jax.ops.segment_sum(
        keep.astype(jnp.int32), jnp.where(keep, labels, num_classes), num_classes
    )
    if sharding is not None:
        # Every process of a run plans with these numbers and so needs all of them.
        everywhere = NamedSharding(sharding.mesh, PartitionSpec())
        counts = lax.with_sharding_constraint(counts, everywhere)
    return counts


@contextlib.contextmanager
def blas_on_one_thread() -> Iterator[None]:
    """Limit BLAS on CPU to one thread.

    BLAS splits even a decomposition of 500 rows over all cores. That gains nothing, and since its
    threads wait for each other in a loop, it takes up to 20 times as long wherever another program,
    or XLA itself, runs a thread on one of these cores. threadpoolctl sets the limit; a light
    install lacks it, and then only that time is lost.
    """
    if jax.default_backend() != "cpu" or importlib.util.find_spec("threadpoolctl") is None:
        yield
        return
    import threadpoolctl

    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        yield
