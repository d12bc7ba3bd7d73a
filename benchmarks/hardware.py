"""What the recipes need on TPUs and GPUs, by the vendors' compilers; no chip is needed.

  python benchmarks/hardware.py                # compiles what is missing, then writes the page
  python benchmarks/hardware.py --page         # writes docs/hardware.md from what there is
  python benchmarks/hardware.py --only=v5e-64  # compiles the cases whose names hold this

Results are added to benchmarks/hardware.json after each case, so that it can be stopped and started
again. TPUs need libtpu (`pip install 'hsproto[compile-tpu]'`), GPUs JAX's CUDA plugin
(`compile-gpu`); cases whose compiler is missing are left out. Minutes for each network.
"""

import argparse
import functools
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
from hsproto.hardware import bound, collectives, programs, sizing, topologies
from hsproto.parallel import mesh as mesh_lib

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/hardware.json"
PAGE = ROOT / "docs/hardware.md"
GIB = 2**30
BATCH = 8192  # of ImageNet's recipe, the largest
# Losses compiled alone: name, rows, classes, dimensions, where.
LOSSES = (
    *((name, BATCH, 1000, 2048, "v5e-64") for name in ("nonl", "ntce", "normface")),
    ("nonl", 65_536, 1000, 2048, "h100x64"),
    ("nonl", 65_536, 21_000, 2048, "h100x64"),
    ("scl", 65_536, 0, 128, "h100x64"),
)
IMAGENET = "imagenet:loss=nonl,batch_size=8192"
# 64 chips do not divide the CIFAR recipes' evaluation batches of 2,000.
CIFAR = "cifar:loss=nonl,dataset=cifar100,eval_batch_size=2048"
RECIPES = (
    IMAGENET,
    CIFAR,
    "scl_cifar:dataset=cifar100,eval_batch_size=2048",
    "imagenet100:loss=nonl",
    "scl_imagenet:dataset=imagenet2012",
)
HARDWARE = "v5e-64", "v5p-128", "h100x8"
# A TPU's compiler takes minutes for each: the largest recipe where memory is least, and CIFAR.
FLOAT32_ON_TPUS = (IMAGENET, "v5e-64"), (CIFAR, "v5e-64"), (CIFAR, "v5p-128")
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
            yield Case(recipe, topology)
            if topology == "h100x8" or (recipe, topology) in FLOAT32_ON_TPUS:
                yield Case(recipe, topology, "float32")
    for loss in ("ntce", "normface"):
        yield Case(IMAGENET.replace("nonl", loss), "v5e-64")
    yield Case(CIFAR, "v6e-64")


def cases():
    yield from recipe_cases()
    yield from map(loss_case, LOSSES)
    yield from (Case(FLAX, topology) for topology in ("v5e-64", "h100x8"))


def loss_case(row):
    name, batch, classes, dims, topology = row
    return Case(f"loss {name} {batch} {classes} {dims}", topology, "float32")


def run(case):
    """The result of a case, as values of JSON."""
    topology = topologies.parse(case.topology)
    if case.recipe.startswith("loss "):
        _, name, *shape = case.recipe.split()
        return sizing.built(loss_alone, _log, topology, name, *map(int, shape))
    if case.recipe == FLAX:
        return sizing.built(anchor, _log, topology)
    config = load_config(f"{case.recipe},dtype={case.dtype}")
    result = sizing.size(config, topology, _log)
    if not result["fits"]:
        result["remedies"] = dict(sizing.remedies(config, topology, _log))
    return result


def anchor(log, topology):
    """Flax's ImageNet example at the batch of ours."""
    program = flax_imagenet.compiled(topology, topologies.devices(topology), BATCH)
    return _values(program, topology)


def loss_alone(log, topology, name, batch, classes, dims):
    """A loss and its gradients on given features: all that the method adds to a network.

    Of SCL, which has no prototypes, the rows are views.
    """
    mesh = mesh_lib.make_mesh(topologies.devices(topology))
    split, whole = mesh_lib.over_batch(mesh), mesh_lib.replicated(mesh)
    loss = functools.partial(getattr(losses, name), temperature=0.1)
    if name != "normface":
        loss = functools.partial(loss, axis_name="data")

    def local(features, prototypes, labels):
        given = (features, prototypes, labels) if classes else (features, labels)
        return loss(*given).mean("data")

    sharded = jax.shard_map(local, mesh=mesh, in_specs=(P("data"), P(), P("data")), out_specs=P())
    shapes = (
        jax.ShapeDtypeStruct((batch, dims), jnp.float32, sharding=split),
        jax.ShapeDtypeStruct((classes or 1, dims), jnp.float32, sharding=whole),
        jax.ShapeDtypeStruct((batch,), jnp.int32, sharding=split),
    )
    slopes = (0, 1) if classes else 0
    traced = jax.jit(jax.value_and_grad(sharded, argnums=slopes)).trace(*shapes)
    return _values(programs.compiled(traced, topology, [(classes or 1, dims)]), topology)


def _values(program, topology):
    result = program._replace(executable=None)._asdict()
    return result | {"versions": topologies.compiler_versions(topology), "chips": topology.chips}


def page(results):
    """The text of docs/hardware.md."""
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
    return "\n".join(filter(None, sections))


HEAD = """# Recipes on TPUs and GPUs

`python benchmarks/hardware.py` writes this page: the compilers of the vendors build the training
step and the evaluation of each recipe from shapes alone, as `hsproto compile` does. No chip has run
them. Memory, traffic and collectives are read from the compiled programs, and FLOPs from the traced
ones. **The time of a step is a bound from published peaks and not a measurement**: a run is slower.
A dash is what a compiler does not tell. Traffic on GPUs is that of the arrays that the program's
operations name, as their compiler does not count it; caches may save some of it, so that there the
bound is an estimate where memory limits.
"""


def _recipes(results):
    columns = (
        "recipe", "dtype", "on", "fits", "GiB a chip", "GFLOP a chip", "traffic, GB a chip",
        "exchanges, MB a chip", "bound, ms", "limited by", "images/s at most", "hours at least",
    )  # fmt: skip
    wanted = list(recipe_cases())
    rows = [(*_names(case), *_cells(results[case.name])) for case in wanted if case.name in results]
    missing = len(wanted) - len(rows)
    note = f" {missing} of {len(wanted)} cases have not been compiled." if missing else ""
    return (
        "## Recipes\n\nThe paper's recipes at their batch sizes, ImageNet at the largest. The long "
        "tail's step is CIFAR's, and the other classifier losses take what NONL takes, as the rows "
        "of NTCE and NormFace show. The recipes for a laptop are left out. The second generation "
        "of TPUs is v5p, as v6e's compiler crashes on CIFAR's step. Float32 is compiled for all on "
        "H100; for TPUs, for ImageNet on v5e and for CIFAR. Memory, FLOPs and bytes are of a step."
        f"{note}\n\n{_table(columns, rows)}"
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
        return (f"refused: {result['error'].rpartition('this: ')[2]}", *("-",) * 8)
    least = result["bound"]
    traffic, needed = result["traffic"], result["needed"]
    return (
        "yes" if result["fits"] else "**no**",
        "-" if needed is None else f"{needed / GIB:.1f} of {result['capacity'] / GIB:.0f}",
        f"{result['flops'] / 1e9:,.0f}",
        "-" if traffic is None else f"{traffic / 1e9:.1f}",
        "-" if not result["built"]
        else f"{sum(row['sent'] for row in result['collectives']) / 1e6:.1f}",
        *(
            (f"{1e3 * least['seconds']:.2f}", least["resource"],
             f"{least['images_per_second']:,.0f}", f"{least['hours']:.2f}")
            if least else ("-",) * 4
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
    columns = (
        "loss", "B, K, D", "on", "FLOPs", "traffic", "bound", "bound, ms", "exchanged, kB",
        "gathering, kB", "ratio",
    )  # fmt: skip
    rows = []
    for row in LOSSES:
        result, step = results.get(loss_case(row).name), step_beside(results, row)
        if result and step and "error" not in result:
            rows.append(_loss_row(row, result, step))
    return (
        "## What the loss takes\n\nThe loss and its gradients, compiled alone: their share of the "
        "FLOPs, traffic and bound of ResNet-50's step in bfloat16, at as many images (SCL: views) "
        "a chip as the loss has rows. For products in full float32 TPUs take six passes, and GPUs "
        "units that are slower. Exchanged are the loss's own sums; the prototypes' gradient, which "
        "every loss with prototypes sums, is left out. Gathering: the features to all chips and "
        f"their gradient back.\n\n{_table(columns, rows)}"
    )


def step_beside(results, row):
    """FLOPs, traffic and bound of ResNet-50's step at as many images a chip; None: unknown."""
    _, batch, _, _, topology = row
    kind = topologies.parse(topology).kind
    where = next(name for name in HARDWARE if topologies.parse(name).kind == kind)
    step = results.get(Case(IMAGENET, where).name)
    if not step or "error" in step:
        return None
    times = batch / topologies.parse(topology).chips / (BATCH / topologies.parse(where).chips)
    return [times * x for x in (step["flops"], step["traffic"], step["bound"]["seconds"])]


def exchanged_alone(row, result):
    """Bytes that a loss exchanges for itself, and that gathering features and slopes would take."""
    _, batch, classes, dims, _ = row
    # The compiler joins the prototypes' gradient with the loss's sums.
    own = sum(each["bytes"] for each in result["exchanges"]) - 4 * classes * dims
    return own, 2 * batch * dims * 4


def _loss_row(row, result, step):
    name, batch, classes, dims, topology = row
    own, gathered = exchanged_alone(row, result)
    sent = sum(each["sent"] for each in result["exchanges"])
    times = bound.seconds(topologies.parse(topology), result["flops"], result["traffic"], sent)
    seconds, _ = bound.limit(times)
    found = sum(result["flops"].values()), result["traffic"], seconds
    shares = (
        "-" if value is None else f"{100 * value / whole:.2g} %"
        for value, whole in zip(found, step, strict=True)
    )  # fmt: skip
    # SCL gathers what it compares, the outputs of its head.
    compared = (f"{gathered / 1e3:,.0f}", f"{gathered / own:,.0f}") if classes else ("-", "-")
    shape = f"{batch}, {classes or '-'}, {dims}"
    return name, shape, topology, *shares, f"{1e3 * seconds:.3f}", f"{own / 1e3:,.2f}", *compared


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
        f"way at B={BATCH} in bfloat16. Each of the 53 BatchNorms sums once forward and "
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
    PAGE.write_text(page(results))


if __name__ == "__main__":
    main()
