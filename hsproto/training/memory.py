"""The memory that a run needs at least, estimated before anything is allocated or written.

Counted is what is certain: the state, a gradient, and the images of a batch. A run that fits may
still run out of memory in its activations; one that does not fit cannot start.
"""

import math
import os
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from hsproto import config as config_lib
from hsproto.errors import UserError
from hsproto.training import state as state_lib

# Keys that memory grows with, of which the one that asks for most is named.
_SIZES = ("width", "embedding_dim", "projection_dim", "num_classes", "queue_size", "image_size")
_SIZES += ("load_size", "patch_size", "batch_size", "eval_batch_size")


def check(config: ConfigDict, state: state_lib.TrainState, mesh: Mesh) -> None:
    """Raise UserError if a run cannot fit into the memory of its devices.

    Args:
        config: The resolved config.
        state: Its abstract state (`training.state.abstract`).
        mesh: Over all devices.
    """
    needed, available = least(config, state, mesh), per_device(mesh)
    if needed <= available:
        return
    key = _largest(config, mesh)
    device = mesh.devices.flat[0].device_kind
    raise UserError(
        f"config key {key}={config[key]} is too large: state, gradient and images of a batch take "
        f"at least {_gigabytes(needed)} on each device, and a {device} has "
        f"{_gigabytes(available)}"
    )


def least(config: ConfigDict, state: state_lib.TrainState, mesh: Mesh) -> int:
    """Return the bytes that a run takes on each device at least."""
    state_bytes = sum(map(on_device, jax.tree.leaves(state)))
    gradient = sum(map(on_device, jax.tree.leaves(state.params)))
    loaded = max(config.load_size, config.image_size) ** 2 * config.channels  # uint8
    seen = config.image_size**2 * config.channels * 4  # float32
    rows = config_lib.rows_per_step(config) // config.microbatches
    train = config.batch_size * loaded + rows * seen
    evaluation = config.eval_batch_size * (loaded + seen)
    return state_bytes + gradient + max(train, evaluation) // mesh.size


def per_device(mesh: Mesh) -> int:
    """Return the bytes of memory of a device; CPU devices share those of their host."""
    device = next(iter(mesh.local_devices))
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit:
        return limit
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return host // len(mesh.local_devices)


def _largest(config, mesh):
    """The key whose default in place of its value would save the most."""
    defaults = config_lib.default()

    def without(key):
        changed = config.copy_and_resolve_references()
        changed[key] = min(config[key], 10 if key == "num_classes" else defaults[key])
        return _least_of(changed, mesh)

    return min(_SIZES, key=without)


def _least_of(config: ConfigDict, mesh: Mesh) -> float:
    try:
        return least(config, state_lib.abstract(config, mesh), mesh)
    except UserError:  # values that do not go together
        return math.inf


def on_device(array: Any) -> int:
    """Return the bytes of an array's part on one device."""
    return math.prod(array.sharding.shard_shape(array.shape)) * array.dtype.itemsize


def _gigabytes(count):
    return f"{count / 2**30:,.1f} GiB"
