"""A run's state: made from its config, or read back from its workdir."""

import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hsproto import config as config_lib
from hsproto import data, feed, models, optim, queue, sharding
from hsproto.checkpoint import Checkpoints
from hsproto.errors import UserError


class TrainState(NamedTuple):
    """All that a training step reads and writes; arrays only. `step` counts the finished steps.

    `queue` (`hsproto.queue`) and `average`, the moving-average encoder's params and batch_stats,
    are empty in runs without.
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


def steps_per_epoch(config):
    """Steps in which each training image is seen once on average; need not be whole."""
    return config.num_examples / config.batch_size


def total_steps(config):
    return max(1, round(config.epochs * steps_per_epoch(config)))


def resolve(config, splits, earlier=None):
    """`config` with what the data decide filled in: classes, images, mean, std, place of the crop.

    `earlier`: the resolved config of a run that goes on. It keeps the place of its crop, wherever
    its images lie now. Raises UserError where the config says otherwise than the data.
    """
    found = {"num_classes": len(splits.train.class_names), "num_examples": len(splits.train)}
    for key, value in found.items():
        if config[key] not in (0, value):
            raise UserError(f"config key {key}={config[key]}, but the training data have {value}")
    config = config.copy_and_resolve_references()
    config.update(found)
    config.mean, config.std = data.normalisation(config)
    if config.crop_on == "auto":
        config.crop_on = earlier.crop_on if earlier else feed.crop_place(splits.train, config)
    return config


def create(config, mesh):
    """The state of step 0 of a resolved config, laid out over the mesh (`layout`)."""
    return jax.jit(_initial(config), out_shardings=layout(config, mesh))(
        jax.random.key(config.seed)
    )


def layout(config, mesh):
    """The sharding of each part of the state: all everywhere, but a queue as its loss reads it."""
    whole = sharding.replicated(mesh)
    parts = dict.fromkeys(TrainState._fields, whole)
    return TrainState(**parts | {"queue": queue.layout(config, mesh)})


def abstract(config, mesh):
    """Shapes, dtypes and shardings of the state, without computing it."""
    shapes = jax.eval_shape(_initial(config), jax.random.key(config.seed))

    def placed(shapes, where):
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes
        )

    return TrainState(*map(placed, shapes, layout(config, mesh)))


def load(workdir, mesh, step=None):
    """(config, state, step) of a run. Raises UserError where `workdir` holds none."""
    path = os.path.join(workdir, "config.json")
    if not os.path.isfile(path):
        raise UserError(f"--workdir={workdir}: no run there (no config.json)")
    with open(path, "rb") as file:
        config = config_lib.from_json(file.read())
    # A queue's rows need not divide by the devices that only look at the run.
    whole = sharding.replicated(mesh)
    state = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), abstract(config, mesh)
    )
    with Checkpoints(workdir) as checkpoints:
        restored = checkpoints.restore(state, step)
    if restored is None:
        raise UserError(f"--workdir={workdir}: the run has no checkpoint yet")
    return config, *restored


def _initial(config):
    model = models.build(config, config.num_classes)
    optimiser = optim.sgd(config, steps_per_epoch(config))
    image_shape = (config.image_size, config.image_size, config.channels)

    def initial(key):
        variables = models.init(model, key, image_shape)
        average = {k: variables[k] for k in ("params", "batch_stats")}
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=variables["params"],
            batch_stats=variables.get("batch_stats", {}),
            constants=variables.get("constants", {}),
            opt_state=optimiser.init(variables["params"]),
            queue=queue.init(config, model, image_shape),
            # A copy: a step donates its state, and no buffer twice.
            average=jax.tree.map(jnp.copy, average) if config.queue_momentum else {},
        )

    return initial
