"""The losses and the training step, compiled from shapes alone for one device or for a mesh."""

import jax
import jax.numpy as jnp
import measuring
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from hsproto import config as config_lib
from hsproto import config_checks, losses
from hsproto.hardware import collectives, hlo
from hsproto.parallel import mesh as mesh_lib
from hsproto.training import state as state_lib
from hsproto.training import step as step_lib

TEMPERATURE = 0.1
_ROWS, _WHOLE = PartitionSpec("data"), PartitionSpec()


def inputs(name, batch, classes, dims, mesh=None):
    """Shapes of (features, prototypes, labels), placed on a mesh if there is one."""
    classes = 1 if name == "scl" else classes  # which has no use for prototypes
    return [
        jax.ShapeDtypeStruct(shape, dtype, sharding=mesh and NamedSharding(mesh, spec))
        for shape, dtype, spec in (
            ((batch, dims), jnp.float32, _ROWS),
            ((classes, dims), jnp.float32, _WHOLE),
            ((batch,), jnp.int32, _ROWS),
        )
    ]


def fill(shapes, classes):
    """Random arrays for `inputs`, placed as those say; neighbors share a class."""
    rng = np.random.default_rng(0)

    def array(x):
        if x.dtype == jnp.int32:
            values = (np.arange(x.shape[0]) // 2 % classes).astype(np.int32)
        else:
            values = rng.standard_normal(x.shape, np.float32)
        return jax.device_put(values, x.sharding)

    return [array(x) for x in shapes]


def loss(name, batch, classes, dims, mesh=None, block_size=None):
    """Value and gradient of a mean loss, compiled; on a mesh inside `jax.shard_map`."""
    axis_name = "data" if mesh else None
    keywords = dict(temperature=TEMPERATURE)
    if name in ("ntce", "nonl", "scl"):
        keywords["axis_name"] = axis_name

    def mean(features, prototypes, labels):
        if name == "scl":
            found = losses.scl(features, labels, block_size=block_size, **keywords)
        else:
            found = getattr(losses, name)(features, prototypes, labels, **keywords)
        return found.mean(axis_name)

    argnums = (0,) if name == "scl" else (0, 1)
    return differentiated(mean, inputs(name, batch, classes, dims, mesh), mesh, argnums)


def differentiated(mean, shapes, mesh=None, argnums=(0, 1)):
    if mesh:
        specs = (_ROWS, _WHOLE, _ROWS)
        mean = jax.shard_map(mean, mesh=mesh, in_specs=specs, out_specs=_WHOLE)
    return jax.jit(jax.value_and_grad(mean, argnums=argnums)).lower(*shapes).compile()


def caller(program, arrays, times=1):
    """A call that runs a program a number of times and waits for the last."""

    def call():
        for _ in range(times):
            found = program(*arrays)
        return jax.block_until_ready(found)

    return call


def needed(program):
    """Bytes of a program's arguments, results and temporaries on a device."""
    m = program.memory_analysis()
    return m.argument_size_in_bytes + m.output_size_in_bytes + m.temp_size_in_bytes


def temporaries(program):
    """MiB of temporaries of a program on a device."""
    return program.memory_analysis().temp_size_in_bytes / 2**20


def exchange(program, mesh, classes, dims):
    """(bytes that devices exchange for the loss itself, bytes to sum the prototypes' gradient)."""
    found = exchanges(program, mesh.size)
    gradient = sum(
        c.times * hlo.array_bytes(array)
        for c in found
        for array in c.arrays
        if sorted(array[1]) == sorted((classes, dims))
    )
    return measuring.exchanged(found) - gradient, gradient


def exchanges(program, devices):
    """The collectives of a compiled program."""
    return collectives.read(program.as_text(), devices)


def train_step(mesh, **values):
    """(compiled training step, its config) of CIFAR-10's recipe with other values of its keys."""
    config = config_lib.default()
    config.update(dict(dataset="cifar10", num_classes=10, num_examples=50_000))
    config.update(values)
    config_checks.validate(config)
    n, batch = config.microbatches, config.batch_size
    rows = (batch,) if n == 1 else (n, batch // n)
    where = mesh_lib.over_batch(mesh, axis=int(n > 1))
    images = (*rows, config.image_size, config.image_size, config.channels)
    shapes = {
        "image": jax.ShapeDtypeStruct(images, jnp.uint8, sharding=where),
        "label": jax.ShapeDtypeStruct(rows, jnp.int32, sharding=where),
    }
    lowered = step_lib.make_train_step(config, mesh).lower(state_lib.abstract(config, mesh), shapes)
    return lowered.compile(), config


def images(config, mesh):
    """A batch of random images and labels on the devices."""
    rng = np.random.default_rng(0)
    shape = (config.batch_size, config.image_size, config.image_size, config.channels)
    labels = rng.integers(0, config.num_classes, config.batch_size, np.int32)
    batch = {"image": rng.integers(0, 256, shape, np.uint8), "label": labels}
    return jax.device_put(batch, mesh_lib.over_batch(mesh))


def step_caller(program, config, mesh, steps=1):
    """A call of training steps on one batch, each from the state of the last; waits for the end."""
    batch, current = images(config, mesh), [state_lib.create(config, mesh)]

    def call():
        for _ in range(steps):
            current[0], metrics = program(current[0], batch)
        return jax.block_until_ready(metrics)

    return call
