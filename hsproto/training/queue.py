"""Past embeddings as additional instances in the loss: a ring buffer of the last batches.

The `queue_size` embeddings form slots of whole batches; after its loss is computed, the batch of
step t overwrites slot t mod slots. The queue is thus filled in global order, whatever the number of
devices. NTCE and NONL read it split over the devices like the batch, so that no features cross
devices. SCL, which gathers its batch anyway, reads it whole on every device: its d is small, and
only the newest rows cross devices.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from ml_collections import ConfigDict

from hsproto import config as config_lib
from hsproto.models import model as model_lib
from hsproto.parallel import mesh as mesh_lib


def init(config: ConfigDict, model: Any, image_shape: tuple[int, int, int]) -> dict:
    """Return an empty queue, {"features": float32 [slots, rows, d], "labels": int32 [slots, rows]}.

    {} if the config has none. Labels are -1, which all losses mask, until their slot is filled.
    """
    if not config.queue_size:
        return {}
    rows = config_lib.rows_per_step(config)
    slots = config.queue_size // rows
    dims = model_lib.output_dim(model, image_shape)
    return {
        "features": jnp.zeros((slots, rows, dims), jnp.float32),
        "labels": jnp.full((slots, rows), -1, jnp.int32),
    }


def layout(config: ConfigDict, mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
    """Return the sharding of the queue's arrays."""
    if config.loss == "scl":
        return mesh_lib.replicated(mesh)
    return mesh_lib.over_data(mesh, axis=1)


def rows(queue: dict) -> tuple[jax.Array, jax.Array] | None:
    """Return (features [Q, d], labels [Q]) of a queue or a device's share of it; None for {}."""
    if not queue:
        return None
    features, labels = queue["features"], queue["labels"]
    return features.reshape(-1, features.shape[-1]), labels.reshape(-1)


def push(queue: dict, step: jax.Array, features: jax.Array, labels: jax.Array) -> dict:
    """Return the queue after a step's batch: features [rows, d], labels [rows], in global order."""
    slot = step % queue["labels"].shape[0]
    new = {"features": lax.stop_gradient(features), "labels": labels}
    return jax.tree.map(lambda old, x: lax.dynamic_update_index_in_dim(old, x, slot, 0), queue, new)
