"""A run's programs built for hardware that is not there: from shapes alone.

The step is the trainer's own (`training.step`), the evaluation the evaluator's
embedding of a batch.
"""

import re
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from hsproto import config as config_lib
from hsproto import config_checks
from hsproto.errors import UserError, one_line
from hsproto.evaluation.evaluator import Evaluator
from hsproto.hardware import collectives, data_sizes, hlo, products
from hsproto.hardware.topologies import Topology
from hsproto.models import architecture
from hsproto.parallel import mesh as mesh_lib
from hsproto.training import memory
from hsproto.training import state as state_lib
from hsproto.training.step import make_train_step

_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "": 1}
# Choosing among GPU kernels by trial needs a GPU.
_GPU_OPTIONS = {"xla_gpu_autotune_level": 0}


class Program(NamedTuple):
    """What a compiler says of a program, for each chip; sizes in bytes.

    Attributes:
        fits: Whether the compiler found room for it.
        temporaries: What it takes besides its arguments: activations, gradients, working memory.
        needed: All that it takes, where it does not fit; None if the compiler does not say.
        flops: {precision: FLOPs} (`products`).
        loss_flops: Of these, those of the loss.
        traffic: Bytes read and written, as the compiler counts them, or else of the arrays that its
            operations name (`hlo.traffic`); None for programs with loops.
        exchanges: Rows of `collectives.table`.
        seconds: How long it took to compile.
        executable: The compiled program, or None.
    """

    fits: bool
    temporaries: int | None
    needed: int | None
    flops: dict[str, float]
    loss_flops: float
    traffic: float | None
    exchanges: list[dict]
    seconds: float
    executable: Any = None


def check(config: ConfigDict, mesh: jax.sharding.Mesh) -> None:
    """Raise UserError for a config that could not be trained on the mesh."""
    config_checks.validate(config)
    rows = config.batch_size // config.microbatches
    key = "batch_size" if config.microbatches == 1 else "batch_size / microbatches"
    mesh_lib.check_divisible(key, rows, mesh)
    mesh_lib.check_divisible("eval_batch_size", config.eval_batch_size, mesh)
    architecture.validate(config, config.num_classes)


def train_step(config: ConfigDict, mesh: jax.sharding.Mesh, topology: Topology) -> Program:
    """Return the compiled training step of a config that `data_sizes.resolve` filled in."""
    log_prior = jnp.zeros(config.num_classes) if config.logit_adjustment else None
    state = state_lib.abstract(config, mesh)
    traced = make_train_step(config, mesh, log_prior).trace(state, _batch(config, mesh))
    parameters = [leaf.shape for leaf in jax.tree.leaves(state.params)]
    return compiled(traced, topology, parameters)


def evaluation(config: ConfigDict, mesh: jax.sharding.Mesh, topology: Topology) -> Program:
    """Return the compiled embedding of a batch of the evaluation."""
    variables = state_lib.abstract(config, mesh).variables
    side = max(config.load_size, config.image_size)
    shape = config.eval_batch_size, side, side, config.channels
    images = jax.ShapeDtypeStruct(shape, _image_dtype(config), sharding=mesh_lib.over_batch(mesh))
    return compiled(Evaluator(config, None, mesh).embed.trace(variables, images), topology)


def state_bytes(config: ConfigDict, mesh: jax.sharding.Mesh) -> dict[str, int]:
    """Return the bytes of each part of the state, and of a batch, on a chip."""
    state = state_lib.abstract(config, mesh)
    parts = {
        "parameters": (state.params, state.batch_stats, state.constants),
        "optimizer": state.opt_state,
        "queue": (state.queue, state.average),
        "images": _batch(config, mesh),
    }
    sizes = {name: _bytes_of_chip(tree) for name, tree in parts.items()}
    sizes["images"] += data_sizes.resident_bytes(config)
    return sizes


def features_bytes(config: ConfigDict, mesh: jax.sharding.Mesh) -> int:
    """Return the bytes of the features of both splits that the evaluation keeps on a chip."""
    variables = state_lib.abstract(config, mesh).variables
    side = max(config.load_size, config.image_size)
    images = jax.ShapeDtypeStruct(
        (config.eval_batch_size, side, side, config.channels), _image_dtype(config)
    )
    outputs = jax.eval_shape(Evaluator(config, None, mesh).embed, variables, images)
    rows = config.num_examples + data_sizes.test_examples(config)
    row = sum(x.shape[-1] * x.dtype.itemsize for x in jax.tree.leaves(outputs))
    return rows * row // mesh.size


def _batch(config, mesh):
    several = config.microbatches > 1
    sharding = mesh_lib.over_batch(mesh, axis=int(several))
    rows = (config.batch_size,)
    if several:
        rows = config.microbatches, config.batch_size // config.microbatches
    side, views = max(config.load_size, config.image_size), ()
    if config.crop_on == "host":
        side, views = config.image_size, (config_lib.num_views(config),)
    image = (*rows, *views, side, side, config.channels)
    return {
        "image": jax.ShapeDtypeStruct(image, _image_dtype(config), sharding=sharding),
        "label": jax.ShapeDtypeStruct(rows, jnp.int32, sharding=sharding),
    }


def _image_dtype(config):
    return jnp.float32 if config.source == "features" else jnp.uint8


def compiled(traced: Any, topology: Topology, parameters: Sequence[tuple] = ()) -> Program:
    """Return a traced program (`jit(f).trace(...)`) as compiled for its mesh of the hardware.

    `parameters` are the shapes of those whose gradients it sums.
    """
    flops, loss_flops = products.of_chip(traced.jaxpr.jaxpr, topology.chips)
    start = time.monotonic()
    try:
        executable = traced.lower().compile(_GPU_OPTIONS if topology.platform == "cuda" else None)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise UserError(
                f"--topology={topology.name}: its compiler refuses the program: "
                f"{one_line(error, 300)}"
            ) from error
        return Program(
            False, None, _needed(str(error)), flops, loss_flops, None, [],
            time.monotonic() - start,
        )  # fmt: skip
    memory, text = executable.memory_analysis(), executable.as_text()
    costs = executable.cost_analysis() or {}
    traffic = costs.get("bytes accessed", hlo.traffic(text))
    if " while(" in text:  # of which a loop's body would be counted once
        traffic = None
    unshared = memory.output_size_in_bytes - memory.alias_size_in_bytes
    found = collectives.read(text, topology.chips, parameters)
    return Program(
        fits=True,
        temporaries=(memory.temp_size_in_bytes + unshared + memory.generated_code_size_in_bytes),
        needed=None,
        flops=flops,
        loss_flops=loss_flops,
        traffic=traffic,
        exchanges=collectives.table(found, topology.chips),
        seconds=time.monotonic() - start,
        executable=executable,
    )


def _needed(message):
    """The bytes that a program needs, from a compiler's refusal; None if it does not say."""
    found = re.search(r"(?:Used|temporaries) \(?([\d.]+)([KMGT]?)", message)
    return int(float(found[1]) * _UNITS[found[2]]) if found else None


def _bytes_of_chip(tree):
    return sum(map(memory.on_device, jax.tree.leaves(tree)))
