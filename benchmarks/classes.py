"""What losses of very many classes need: memory on this machine, and on TPU chips that are not.

    python benchmarks/classes.py memory --loss=normface [--shape=1024,1000000,512] [--class_block=N]
    python benchmarks/classes.py tpu [--topology=v5e:8x8] [--model_axis=64] [--shape=8192,...]

- memory: value and gradient, once, on CPU; the largest resident memory of the process.
- tpu: the TPU's own compiler (`libtpu`) builds value and gradient for a topology from shapes alone.
  Chips form a mesh of rows by classes; `features` are split over all of them, as a backbone leaves
  them, and gathered along the classes' axis. It prints the bytes per chip and those that cross.
"""

import argparse
import resource

import jax
import jax.numpy as jnp
import measuring
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from hsproto import losses
from hsproto.hardware import collectives

TEMPERATURE = 0.1
OVER_THE_BATCH = ("ntce", "nonl")


def memory(options):
    rows, num_classes, dims = options.shape
    rng = np.random.default_rng(0)
    features = rng.standard_normal((rows, dims), np.float32)
    prototypes = jnp.asarray(rng.standard_normal((num_classes, dims), np.float32))
    labels = rng.integers(0, num_classes, rows, np.int32)

    @jax.jit
    def step(features, prototypes):
        def mean(features, prototypes):
            loss = getattr(losses, options.loss)
            block = options.class_block
            found = loss(features, prototypes, labels, temperature=TEMPERATURE, class_block=block)
            return found.mean()

        return jax.value_and_grad(mean, argnums=(0, 1))(features, prototypes)

    compiled = step.lower(features, prototypes).compile()
    value, slopes = jax.block_until_ready(compiled(features, prototypes))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    sizes = [float(jnp.linalg.norm(slope)) for slope in slopes]
    return {
        "loss": options.loss,
        "value": float(value),
        "gradients": sizes,
        "temporaries_GiB": compiled.memory_analysis().temp_size_in_bytes / 2**30,
        "peak_GiB": peak,
    }


def tpu(options):
    from jax.experimental import topologies

    devices = topologies.get_topology_desc(platform="tpu", topology_name=options.topology).devices
    rows, num_classes, dims = options.shape
    along = options.model_axis
    grid = np.array(devices).reshape(-1, along)
    mesh = Mesh(grid, ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    given = {"temperature": TEMPERATURE, "class_block": options.class_block}
    if options.loss in OVER_THE_BATCH:
        given["axis_name"] = "data"

    def local(features, prototypes, labels):
        loss = getattr(losses, options.loss)
        found = loss(features, prototypes, labels, **given, model_axis="model")
        return found.mean("data")

    by_row, by_class = P("data"), P("model")
    loss = jax.shard_map(local, mesh=mesh, in_specs=(by_row, by_class, by_row), out_specs=P())
    everywhere = NamedSharding(mesh, P(("data", "model")))
    shapes = [
        jax.ShapeDtypeStruct((rows, dims), jnp.float32, sharding=everywhere),
        jax.ShapeDtypeStruct(
            (num_classes, dims), jnp.float32, sharding=NamedSharding(mesh, by_class)
        ),
        jax.ShapeDtypeStruct((rows,), jnp.int32, sharding=everywhere),
    ]
    step = jax.jit(
        jax.value_and_grad(loss, argnums=(0, 1)),
        out_shardings=(NamedSharding(mesh, P()), tuple(s.sharding for s in shapes[:2])),
    )
    compiled = step.lower(*shapes).compile()
    needs = compiled.memory_analysis()
    found = collectives.read(compiled.as_text(), len(devices))
    return {
        "topology": options.topology,
        "mesh": dict(mesh.shape),
        "loss": options.loss,
        "MB_arguments": needs.argument_size_in_bytes / 1e6,
        "MB_results": needs.output_size_in_bytes / 1e6,
        "MB_temporaries": needs.temp_size_in_bytes / 1e6,
        "collectives": collectives.table(found, len(devices)),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("memory", "tpu"))
    parser.add_argument("--loss", default="normface", choices=("normface", *OVER_THE_BATCH))
    parser.add_argument("--shape", help="B,K,D")
    parser.add_argument("--class_block", type=int, default=None)
    parser.add_argument("--topology", default="v5e:8x8")
    parser.add_argument("--model_axis", type=int, default=64)
    parser.add_argument("--out", help="JSON file to write")
    options = parser.parse_args()
    rows = 1024 if options.what == "memory" else 8192
    shape = options.shape or f"{rows},1000000,512"
    options.shape = tuple(int(side) for side in shape.split(","))
    found = {"memory": memory, "tpu": tpu}[options.what](options)
    report = {**measuring.environment("libtpu"), "shape": options.shape, **found}
    print(report)
    measuring.write(options.out, report)


if __name__ == "__main__":
    main()
