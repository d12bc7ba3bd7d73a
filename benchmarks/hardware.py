"""What the recipes need on TPUs and GPUs, by the vendors' compilers; no chip is needed.

  python benchmarks/hardware.py                # compiles what is missing, then writes the page
  python benchmarks/hardware.py --page         # writes docs/hardware.md from what there is
  python benchmarks/hardware.py --only=v5e-64  # compiles the cases whose names hold this

Results are added to benchmarks/hardware.json after each case, so that it can be stopped and started
again. TPUs need libtpu (`pip install 'hsproto[compile-tpu]'`), GPUs JAX's CUDA plugin
(`compile-gpu`); cases whose compiler is missing are left out. Minutes for each network.
"""

import argparse
import json
import pathlib
import sys
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from hsproto import losses
from hsproto.cli import load_config
from hsproto.errors import UserError
from hsproto.hardware import programs, sizing, topologies
from hsproto.parallel import mesh as mesh_lib

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/hardware.json"
PAGE = ROOT / "docs/hardware.md"
GIB = 2**30
LOSSES = ("nonl", "ntce", "normface")
LOSS_SHAPE = 8192, 1000, 2048  # B, K, D of ImageNet's recipe at its largest batch


class Case(NamedTuple):
    recipe: str  # as --config takes it; or "loss NAME"
    topology: str

    @property
    def name(self):
        return f"{self.recipe} on {self.topology}"


def _imagenet(loss, dtype):
    return f"imagenet:loss={loss},batch_size=8192,dtype={dtype}"


def _cifar(loss, dtype):
    # 64 chips do not divide the recipe's evaluation batches of 2,000.
    return f"cifar:loss={loss},dataset=cifar100,dtype={dtype},eval_batch_size=2048"


def cases():
    """All cases, the most telling first."""
    precisions = ("bfloat16", "float32")
    for dtype in precisions:
        yield Case(_imagenet("nonl", dtype), "v5e-64")
        if dtype == "bfloat16":
            yield from (Case(f"loss {loss}", "v5e-64") for loss in LOSSES)
        yield Case(_cifar("nonl", dtype), "v5e-64")
        yield Case(_cifar("nonl", dtype), "h100x8")
        yield Case(_imagenet("nonl", dtype), "h100x8")
        yield Case(_cifar("nonl", dtype), "v5p-128")
        yield Case(_imagenet("nonl", dtype), "v5p-128")
        yield Case(_imagenet("nonl", dtype), "v6e-64")
        yield Case(_cifar("nonl", dtype), "v6e-64")
    for loss in ("ntce", "normface"):
        for topology in ("v5e-64", "h100x8", "v6e-64"):
            for dtype in precisions:
                yield Case(_imagenet(loss, dtype), topology)
                yield Case(_cifar(loss, dtype), topology)
    for recipe in (
        "scl_cifar:dataset=cifar100,eval_batch_size=2048",
        "scl_imagenet:dataset=imagenet2012",
        "scl_imagenet",
        "imagenet100:loss=nonl",
        "longtail:loss=nonl,eval_batch_size=2048",
    ):
        for topology in ("v5e-64", "h100x8", "v6e-64"):
            for dtype in precisions:
                comma = "," if ":" in recipe else ":"
                yield Case(f"{recipe}{comma}dtype={dtype}", topology)


def run(case):
    """The result of a case, as values of JSON."""
    topology = topologies.parse(case.topology)
    if case.recipe.startswith("loss "):
        return loss_alone(case.recipe.removeprefix("loss "), topology)
    return sizing.size(load_config(case.recipe), topology, _log)


def loss_alone(name, topology):
    """A loss and its gradients on given features: all that the method adds to a network."""
    batch, classes, dims = LOSS_SHAPE
    mesh = mesh_lib.make_mesh(topologies.devices(topology))
    split, whole = mesh_lib.over_batch(mesh), mesh_lib.replicated(mesh)

    def local(features, prototypes, labels):
        axis = {} if name == "normface" else {"axis_name": "data"}
        loss = getattr(losses, name)
        return loss(features, prototypes, labels, temperature=0.1, **axis).mean("data")

    sharded = jax.shard_map(local, mesh=mesh, in_specs=(P("data"), P(), P("data")), out_specs=P())
    shapes = (
        jax.ShapeDtypeStruct((batch, dims), jnp.float32, sharding=split),
        jax.ShapeDtypeStruct((classes, dims), jnp.float32, sharding=whole),
        jax.ShapeDtypeStruct((batch,), jnp.int32, sharding=split),
    )
    traced = jax.jit(jax.value_and_grad(sharded, argnums=(0, 1))).trace(*shapes)
    program = programs.compiled(traced, topology, [(classes, dims)])
    result = program._replace(executable=None)._asdict()
    return result | {"versions": topologies.compiler_versions(topology), "chips": topology.chips}


def write_page(results):
    versions = {
        name: version
        for result in results.values()
        for name, version in result.get("versions", {}).items()
    }
    built = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    text = (
        f"{HEAD}\nBuilt with {built or 'nothing yet'}.\n\n"
        f"{_recipes_table(results)}\n{_exchange_table(results)}\n{_loss_table(results)}"
    )
    PAGE.write_text(text)


HEAD = """# Recipes on TPUs and GPUs

`python benchmarks/hardware.py` writes this page: the compilers of the vendors build the training
step and the evaluation of each recipe from shapes alone, as `hsproto compile` does. No chip has run
them. Memory, traffic and collectives are read from the compiled programs, and FLOPs from the traced
ones. **The time of a step is a bound from published peaks and not a measurement**: a run is slower.
A dash is what a compiler does not tell. Traffic on GPUs is that of
the arrays that the program's operations name, as their compiler does not count it; caches may save
some of it, so that there the bound is an estimate where memory limits.
"""


def _recipes_table(results):
    columns = (
        "recipe", "on", "fits", "GiB a chip", "GFLOP a chip", "traffic, GB a chip",
        "exchanges, MB a chip", "bound, ms", "limited by", "images/s at most", "hours at least",
    )  # fmt: skip
    wanted = [case for case in cases() if not case.recipe.startswith("loss ")]
    rows = [
        (f"`{case.recipe}`", case.topology, *_cells(results[case.name]))
        for case in wanted
        if case.name in results
    ]
    return (
        f"## Recipes\n\n{len(rows)} of {len(wanted)} cases have been compiled. "
        f"Memory, FLOPs and bytes are those of a step.\n\n{_table(columns, rows)}"
    )


def _cells(result):
    if "error" in result:
        return (f"refused: {result['error']}", *("-",) * 8)
    bound = result["bound"]
    traffic, needed = result["traffic"], result["needed"]
    return (
        "yes" if result["fits"] else "**no**",
        "-" if needed is None else f"{needed / GIB:.1f} of {result['capacity'] / GIB:.0f}",
        f"{result['flops'] / 1e9:,.0f}",
        "-" if traffic is None else f"{traffic / 1e9:.1f}",
        "-" if not result["built"]
        else f"{sum(row['sent'] for row in result['collectives']) / 1e6:.1f}",
        *(
            (f"{1e3 * bound['seconds']:.2f}", bound["resource"],
             f"{bound['images_per_second']:,.0f}", f"{bound['hours']:.2f}")
            if bound else ("-",) * 4
        ),
    )  # fmt: skip


def _exchange_table(results):
    columns = ("recipe", "on", "collective", "for", "count", "arrays, kB")
    rows = []
    for case in cases():
        for row in (results.get(case.name) or {}).get("collectives") or ():
            rows.append(
                (f"`{case.recipe}`", case.topology, row["kind"], row["part"], row["count"],
                 f"{row['bytes'] / 1e3:,.1f}")
            )  # fmt: skip
    return f"## What chips exchange in a step\n\n{_table(columns, rows)}"


def _loss_table(results):
    batch, classes, dims = LOSS_SHAPE
    columns = (
        "loss", "FLOPs of the step", "traffic of the step", "exchanged, kB", "gathering, kB",
        "ratio",
    )  # fmt: skip
    step = results.get(Case(_imagenet("nonl", "bfloat16"), "v5e-64").name)
    gathered = 2 * batch * dims * 4
    rows = []
    for loss in LOSSES:
        result = results.get(Case(f"loss {loss}", "v5e-64").name)
        if result is None or step is None or "error" in result or "error" in step:
            rows.append((loss, *("-",) * 5))
            continue
        # The compiler joins the prototypes' gradient with them.
        own = sum(row["bytes"] for row in result["exchanges"]) - 4 * classes * dims
        flops = sum(result["flops"].values()) / step["flops"]
        traffic = result["traffic"] / step["traffic"]
        rows.append(
            (loss, f"{100 * flops:.2f} %", f"{100 * traffic:.2f} %", f"{own / 1e3:,.2f}",
             f"{gathered / 1e3:,.0f}", f"{gathered / own:,.0f}" if own else "-")
        )  # fmt: skip
    return (
        "## What the loss takes\n\n"
        f"The loss and its gradients, compiled alone for v5e-64 at B={batch}, "
        f"K={classes}, D={dims}, beside ResNet-50's step in bfloat16 at that batch. "
        "Exchanged are the loss's own sums; the "
        "prototypes' gradient, which every loss with prototypes sums, is left out. Gathering: the "
        f"features to all chips and their gradient back.\n\n{_table(columns, rows)}"
    )


def _table(columns, rows):
    lines = [columns, ("---",) * len(columns), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def _log(line):
    print(line, file=sys.stderr, flush=True)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="compile the cases whose names hold this text")
    parser.add_argument("--page", action="store_true", help="compile nothing, write the page")
    args = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    wanted = [c for c in cases() if args.only in c.name and c.name not in results]
    for number, case in enumerate([] if args.page else wanted, start=1):
        _log(f"[{number}/{len(wanted)}] {case.name}")
        try:
            topologies.check_compiler(topologies.parse(case.topology))
        except UserError as error:
            _log(f"left out: {error}")
            continue
        start = time.monotonic()
        try:
            results[case.name] = run(case)
        except UserError as error:
            results[case.name] = {"error": str(error)}
        _log(f"done after {time.monotonic() - start:.0f} s")
        RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    write_page(results)


if __name__ == "__main__":
    main()
