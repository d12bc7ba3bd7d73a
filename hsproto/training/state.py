"""The state of a run: all that a training step reads and writes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from hsproto.config import steps_per_epoch
from hsproto.models import model as model_lib
from hsproto.parallel import mesh as mesh_lib
from hsproto.training import optimizer
from hsproto.training import queue as queue_lib


class TrainState(NamedTuple):
    """The state of a run, a tree of arrays.

    Attributes:
        step: The number of finished steps.
        params: Parameters of the model.
        batch_stats: Running statistics of its BatchNorm.
        constants: Fixed prototypes, if any.
        opt_state: State of the optimizer.
        queue: Past embeddings (`hsproto.training.queue`); empty without a queue.
        average: The moving-average encoder's params and batch_stats; empty without one.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    constants: Any
    opt_state: Any
    queue: Any
    average: Any

    @property
    def variables(self) -> dict[str, Any]:
        """The variables of the model, as flax takes them."""
        return {
            "params": self.params,
            "batch_stats": self.batch_stats,
            "constants": self.constants,
        }


def create(config: ConfigDict, mesh: Mesh) -> TrainState:
    """Return the initial state of a resolved config, distributed over the mesh (`layout`)."""
    return jax.jit(_initial(config), out_shardings=layout(config, mesh))(
        jax.random.key(config.seed)
    )


def with_backbone(state: TrainState, backbone: dict[str, Any]) -> TrainState:
    """Return an initial state whose backbone has other `params` and `batch_stats` (NumPy)."""

    def place(value, old):
        return jax.device_put(value, old.sharding)

    def replaced(variables):
        new = {
            kind: {**variables[kind], "backbone": jax.tree.map(place, values, old)}
            for kind, values in backbone.items()
            if (old := variables[kind].get("backbone"))
        }
        return {**variables, **new}

    variables = replaced({"params": state.params, "batch_stats": state.batch_stats})
    average = replaced(state.average) if state.average else state.average
    return state._replace(**variables, average=average)


def layout(config: ConfigDict, mesh: Mesh) -> TrainState:
    """Return the sharding of each part, or of each array of it.

    All are replicated, except for a queue, which its loss decides, and, where the mesh splits
    classes, what has a row for each of them: prototypes, biases, and their optimizer state.
    """
    parts = dict.fromkeys(TrainState._fields, mesh_lib.replicated(mesh))
    parts["queue"] = queue_lib.layout(config, mesh)
    if mesh_lib.splits_classes(mesh):
        shapes = jax.eval_shape(_initial(config), jax.random.key(config.seed))
        for part in ("params", "constants", "opt_state", "average"):
            parts[part] = _by_class(getattr(shapes, part), mesh)
    return TrainState(**parts)


def _by_class(tree, mesh):
    whole, by_class = mesh_lib.replicated(mesh), mesh_lib.over_classes(mesh)

    def sharding(path, _):
        # Names of variables; the optimizer's own fields are attributes.
        names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
        names = names[1:] if names[:1] == ["params"] else names  # of a moving average
        return by_class if names in (["prototypes"], ["bias"]) else whole

    return jax.tree_util.tree_map_with_path(sharding, tree)


def abstract(config: ConfigDict, mesh: Mesh) -> TrainState:
    """Return shapes, dtypes and shardings of the state, without computing it."""
    shapes = jax.eval_shape(_initial(config), jax.random.key(config.seed))

    def with_sharding(sharding, shapes):
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes
        )

    return jax.tree.map(with_sharding, layout(config, mesh), shapes)


def _initial(config):
    model = model_lib.build(config, config.num_classes)
    sgd = optimizer.sgd(config, steps_per_epoch(config))
    image_shape = (config.image_size, config.image_size, config.channels)

    def initial(key):
        variables = model_lib.init(model, key, image_shape)
        average = {k: variables[k] for k in ("params", "batch_stats")}
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=variables["params"],
            batch_stats=variables.get("batch_stats", {}),
            constants=variables.get("constants", {}),
            opt_state=sgd.init(variables["params"]),
            queue=queue_lib.init(config, model, image_shape),
            # A copy: a step donates its state, and no buffer can be donated twice.
            average=jax.tree.map(jnp.copy, average) if config.queue_momentum else {},
        )

    return initial
