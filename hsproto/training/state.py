"""A run's state: made from its config, or read back from its workdir."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hsproto.config import steps_per_epoch
from hsproto.models import model as model_lib
from hsproto.parallel import mesh as mesh_lib
from hsproto.training import optimizer
from hsproto.training import queue as queue_lib


class TrainState(NamedTuple):
    """All that a training step reads and writes; arrays only. `step` counts the finished steps.

    `queue` (`hsproto.training.queue`) and `average`, the moving-average encoder's params and
    batch_stats, are empty in runs without.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    constants: Any
    opt_state: Any
    queue: Any
    average: Any

    @property
    def variables(self):
        return {
            "params": self.params,
            "batch_stats": self.batch_stats,
            "constants": self.constants,
        }


def create(config, mesh):
    """The state of step 0 of a resolved config, laid out over the mesh (`layout`)."""
    return jax.jit(_initial(config), out_shardings=layout(config, mesh))(
        jax.random.key(config.seed)
    )


def layout(config, mesh):
    """The sharding of each part of the state: all everywhere, but a queue as its loss reads it."""
    whole = mesh_lib.replicated(mesh)
    parts = dict.fromkeys(TrainState._fields, whole)
    return TrainState(**parts | {"queue": queue_lib.layout(config, mesh)})


def abstract(config, mesh):
    """Shapes, dtypes and shardings of the state, without computing it."""
    shapes = jax.eval_shape(_initial(config), jax.random.key(config.seed))

    def placed(shapes, where):
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes
        )

    return TrainState(*map(placed, shapes, layout(config, mesh)))


def _initial(config):
    model = model_lib.build(config, config.num_classes)
    optimiser = optimizer.sgd(config, steps_per_epoch(config))
    image_shape = (config.image_size, config.image_size, config.channels)

    def initial(key):
        variables = model_lib.init(model, key, image_shape)
        average = {k: variables[k] for k in ("params", "batch_stats")}
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=variables["params"],
            batch_stats=variables.get("batch_stats", {}),
            constants=variables.get("constants", {}),
            opt_state=optimiser.init(variables["params"]),
            queue=queue_lib.init(config, model, image_shape),
            # A copy: a step donates its state, and no buffer twice.
            average=jax.tree.map(jnp.copy, average) if config.queue_momentum else {},
        )

    return initial
