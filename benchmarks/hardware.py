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

import flax_imagenet
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from hsproto import losses
from hsproto.cli import load_config
from hsproto.errors import UserError
from hsproto.hardware import collectives, programs, sizing, topologies
from hsproto.parallel import mesh as mesh_lib

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/hardware.json"
PAGE = ROOT / "docs/hardware.md"
GIB = 2**30
LOSSES = ("nonl", "ntce", "normface")
LOSS_SHAPE = 8192, 1000, 2048  # B, K, D of ImageNet's recipe at its largest batch
IMAGENET = "imagenet:loss=nonl,batch_size=8192"
# 64 chips do not divide the CIFAR recipes' evaluation batches of 2,000.
CIFAR = "cifar:loss=nonl,dataset=cifar100,eval_batch_size=2048"
RECIPES = (
    IMAGENET,
    CIFAR,
    "longtail:loss=nonl,eval_batch_size=2048",
    "scl_cifar:dataset=cifar100,eval_batch_size=2048",
    "imagenet100:loss=nonl",
    "scl_imagenet:dataset=imagenet2012",
)
HARDWARE = "v5e-64", "v5p-128", "h100x8"
FLAX = "flax imagenet"
CHANGED = {
    "microbatches": "BatchNorm's statistics, those of a microbatch; the loss keeps all negatives",
    "dtype": "the backbone's rounding; the loss stays in float32",
}


class Case(NamedTuple):
    recipe: str  # as --config takes it; or "loss NAME", or FLAX
    topology: str
    dtype: str = "bfloat16"

    @property
    def name(self):
        return f"{self.recipe},dtype={self.dtype} on {self.topology}"


def recipe_cases():
    for recipe in RECIPES:
        for topology in HARDWARE:
            yield from (Case(recipe, topology, dtype) for dtype in ("bfloat16", "float32"))
    for loss in ("ntce", "normface"):
        yield Case(IMAGENET.replace("nonl", loss), "v5e-64")
    yield Case(CIFAR, "v6e-64")


def cases():
    yield from recipe_cases()
    yield from (Case(f"loss {loss}", "v5e-64", "float32") for loss in LOSSES)
    yield from (Case(FLAX, topology) for topology in ("v5e-64", "h100x8"))


def run(case):
    """The result of a case, as values of JSON."""
    topology = topologies.parse(case.topology)
    if case.recipe.startswith("loss "):
        return sizing.built(loss_alone, _log, topology, case.recipe.removeprefix("loss "))
    if case.recipe == FLAX:
        return sizing.built(anchor, _log, topology)
    config = load_config(f"{case.recipe},dtype={case.dtype}")
    result = sizing.size(config, topology, _log)
    if not result["fits"]:
        result["remedies"] = dict(sizing.remedies(config, topology, _log))
    return result


def anchor(log, topology):
    """Flax's ImageNet example at the batch of ours."""
    program = flax_imagenet.compiled(topology, topologies.devices(topology), LOSS_SHAPE[0])
    return _values(program, topology)


def loss_alone(log, topology, name):
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
    return _values(programs.compiled(traced, topology, [(classes, dims)]), topology)


def _values(program, topology):
    result = program._replace(executable=None)._asdict()
    return result | {"versions": topologies.compiler_versions(topology), "chips": topology.chips}


def write_page(results):
    versions = {
        name: version
        for result in results.values()
        for name, version in result.get("versions", {}).items()
    }
    built = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    sections = (
        f"{HEAD}\nBuilt with {built or 'nothing yet'}.\n",
        _recipes(results),
        _remedies(results),
        _exchanges(results),
        _loss_table(results),
        _beside_flax(results),
    )
    PAGE.write_text("\n".join(filter(None, sections)))


HEAD = """# Recipes on TPUs and GPUs

`python benchmarks/hardware.py` writes this page: the compilers of the vendors build the training
step and the evaluation of each recipe from shapes alone, as `hsproto compile` does. No chip has run
them. Memory, traffic and collectives are read from the compiled programs, and FLOPs from the traced
ones. **The time of a step is a bound from published peaks and not a measurement**: a run is slower.
A dash is what a compiler does not tell. Traffic on GPUs is that of
the arrays that the program's operations name, as their compiler does not count it; caches may save
some of it, so that there the bound is an estimate where memory limits.
"""


def _recipes(results):
    columns = (
        "recipe", "dtype", "on", "fits", "GiB a chip", "GFLOP a chip", "traffic, GB a chip",
        "exchanges, MB a chip", "bound, ms", "limited by", "images/s at most", "hours at least",
    )  # fmt: skip
    wanted = list(recipe_cases())
    rows = [(*_names(case), *_cells(results[case.name])) for case in wanted if case.name in results]
    missing = len(wanted) - len(rows)
    note = f"{missing} of {len(wanted)} cases have not been compiled yet. " if missing else ""
    return (
        "## Recipes\n\nThe paper's recipes at their batch sizes, ImageNet at the largest. "
        "The long tail's step is CIFAR's; NTCE and NormFace take the step of NONL. Memory, FLOPs "
        f"and bytes are those of a step. {note}\n\n{_table(columns, rows)}"
    )


def _names(case):
    return f"`{case.recipe}`", case.dtype, case.topology


def _remedies(results):
    columns = (
        "recipe", "dtype", "on", "with", "GiB a chip", "GFLOP a chip", "traffic, GB a chip",
        "changes in the numbers",
    )  # fmt: skip
    rows = []
    for case in recipe_cases():
        for change, result in results.get(case.name, {}).get("remedies", {}).items():
            _, needed, flops, traffic, *_ = _cells(result)
            changed = CHANGED.get(change.split("=")[0], "none")
            rows.append((*_names(case), f"`{change}`", needed, flops, traffic, changed))
    if not rows:
        return ""
    return (
        "## What makes the others fit\n\nEach was compiled. With microbatches the forward pass is "
        f"done twice, and traffic is unknown.\n\n{_table(columns, rows)}"
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


def _exchanges(results):
    parts = (
        collectives.GRADIENTS, collectives.BATCH_NORM, collectives.LOSS, collectives.OTHER,
    )  # fmt: skip
    rows = []
    for case in recipe_cases():
        if found := results.get(case.name, {}).get("collectives"):
            rows.append((*_names(case), *(_exchanged(found, part) for part in parts)))
    return (
        "## What chips exchange in a step\n\nHow many of each collective, and the kB of their "
        f"arrays in all.\n\n{_table(('recipe', 'dtype', 'on', *parts), rows)}"
    )


def _exchanged(found, part):
    own = (row for row in found if row["part"] == part)
    return "; ".join(f"{r['count']} {r['kind']}, {r['bytes'] / 1e3:,.1f}" for r in own) or "-"


def _loss_table(results):
    batch, classes, dims = LOSS_SHAPE
    columns = (
        "loss", "FLOPs of the step", "traffic of the step", "exchanged, kB", "gathering, kB",
        "ratio",
    )  # fmt: skip
    step = results.get(Case(IMAGENET, "v5e-64").name)
    gathered = 2 * batch * dims * 4
    rows = []
    for loss in LOSSES:
        result = results.get(Case(f"loss {loss}", "v5e-64", "float32").name)
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


def _beside_flax(results):
    columns = (
        "on", "step", "gradients' collectives", "BatchNorm's", "traffic, GB a chip",
        "temporaries, GiB a chip", "GFLOP a chip", "traffic, ours over Flax's",
    )  # fmt: skip
    rows = []
    for topology in ("v5e-64", "h100x8"):
        flax, ours = (results.get(Case(name, topology).name) for name in (FLAX, IMAGENET))
        if not flax or not ours or "error" in flax or "error" in ours:
            continue
        ours = {
            "flops": ours["flops_by_precision"], "traffic": ours["traffic"],
            "exchanges": ours["collectives"],
            "temporaries": ours["memory"]["activations and workspace"],
        }  # fmt: skip
        for title, each in (("Flax's example", flax), ("hsproto, NONL", ours)):
            parts = (collectives.GRADIENTS, collectives.BATCH_NORM)
            ratio = f"{each['traffic'] / flax['traffic']:.2f}" if each is ours else ""
            rows.append(
                (topology, title, *(_count(each["exchanges"], part) for part in parts),
                 f"{each['traffic'] / 1e9:.1f}", f"{each['temporaries'] / GIB:.1f}",
                 f"{sum(each['flops'].values()) / 1e9:,.0f}", ratio)
            )  # fmt: skip
    return (
        "## Beside Flax's ImageNet example\n\n`benchmarks/flax_imagenet.py` is a step as in Flax's "
        "example: a Linen ResNet-50 with softmax cross-entropy, on images that arrive in bfloat16 "
        "(ours arrive as bytes, and are flipped and normalized in the step), compiled in the same "
        f"way at B={LOSS_SHAPE[0]} in bfloat16. Each of the 53 BatchNorms sums once forward and "
        f"once backward; compilers join some.\n\n{_table(columns, rows)}"
    )


def _count(found, part):
    return sum(row["count"] for row in found if row["part"] == part)


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
