"""Past embeddings as further instances of the loss: a ring of the last batches.

`queue_size` embeddings are as many slots of whole batches; the batch of step t overwrites slot
t mod slots once its loss is known. So the queue is filled in global order, whatever the number of
devices. NTCE and NONL read it split over the devices as the batch is, so that no feature travels;
SCL, which gathers its batch anyway, whole on every device: d is small there, and only the newest
rows travel.
"""

import jax
import jax.numpy as jnp
from jax import lax

from hsproto import config as config_lib
from hsproto.models import model as model_lib
from hsproto.parallel import mesh as mesh_lib


def init(config, model, image_shape):
    """{"features" float32 [slots, rows, d], "labels" int32 [slots, rows]}; {} without a queue.

    Labels are -1, which every loss masks, until their slot is filled.
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


def layout(config, mesh):
    """The sharding of the queue's arrays."""
    whole = config.loss == "scl"
    return mesh_lib.replicated(mesh) if whole else mesh_lib.over_batch(mesh, axis=1)


def rows(queue):
    """(features [Q, d], labels [Q]) of a queue or of a device's share of it; None without one."""
    if not queue:
        return None
    features, labels = queue["features"], queue["labels"]
    return features.reshape(-1, features.shape[-1]), labels.reshape(-1)


def push(queue, step, features, labels):
    """The queue after the batch of a step, features [rows, d] and labels [rows] in global order."""
    slot = step % queue["labels"].shape[0]
    new = {"features": lax.stop_gradient(features), "labels": labels}
    return jax.tree.map(lambda old, x: lax.dynamic_update_index_in_dim(old, x, slot, 0), queue, new)
