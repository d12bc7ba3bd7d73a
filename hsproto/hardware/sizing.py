"""Whether a recipe fits hardware, what its step takes, and what would make it fit.

Results are kept in the user's cache folder by config, hardware, versions of the compilers, and
hsproto's own code: compiling takes minutes.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
from ml_collections import ConfigDict

from hsproto import config as config_lib
from hsproto.errors import UserError
from hsproto.hardware import apart, bound, data_sizes, programs, saved, topologies
from hsproto.hardware.topologies import Topology
from hsproto.methods import BLOCK_LOSSES
from hsproto.parallel import compilation_cache
from hsproto.parallel import mesh as mesh_lib
from hsproto.runs import files

_MICROBATCHES = (2, 4, 8)
_FACTORS = (2, 4)  # more chips that are tried
_MANY_CLASSES = 10_000  # from which memory is that of the classes
Log = Callable[[str], Any]


def size(
    config: ConfigDict, topology: Topology, log: Log, fresh: bool = False, save: str = ""
) -> dict[str, Any]:
    """Return what a config needs on hardware, as values that JSON can hold.

    Args:
        config: A recipe's config; what its data would decide is filled in (`data_sizes`).
        topology: The hardware.
        log: Called with a line before each step that takes long.
        fresh: Compile, though the result is known.
        save: A file to keep the compiled training step in, if it fits (`saved`); compiles anew.

    Raises:
        UserError: The compiler is missing or crashes, the config cannot be trained on so many
            chips, or the size of its data is unknown.
    """
    config = data_sizes.resolve(config)
    topologies.check_compiler(topology)
    if save:
        saved.check(config)
    path = _cache_path(config, topology)
    if not (fresh or save) and (known := _read(path)):
        return known
    result = built(_compile, log, topology, config, save)
    _write(path, result)
    return result


def built(function: Callable[..., Any], log: Log, topology: Topology, *arguments: Any) -> Any:
    """Return `function(log, topology, *arguments)`, which compiles, from a process of its own.

    Raises:
        UserError: `function` raised it, or the compiler crashed.
    """
    try:
        return apart.call(_in_process, log, function, topology, *arguments)
    except apart.Died as error:
        compiler = " ".join(list(topologies.compiler_versions(topology).items())[-1])
        raise UserError(
            f"--topology={topology.name}: its compiler cannot build this: {compiler} {error}"
        ) from None


def _in_process(log, function, topology, *arguments):
    # Compilers of other hardware run on this processor, whatever it has besides.
    jax.config.update("jax_platforms", "cpu")
    # JAX's cache cannot give back programs for other hardware, nor any that can be saved.
    jax.config.update("jax_enable_compilation_cache", False)
    return function(log, topology, *arguments)


def _compile(log, topology, config, save):
    mesh = mesh_lib.make_mesh(topologies.devices(topology), config.model_axis)
    programs.check(config, mesh)
    where = f"{topology.name}, {topology.chips} chips"
    log(f"compiling the training step for {where} (minutes for a large network) ...")
    step = programs.train_step(config, mesh, topology)
    log(f"compiling the evaluation for {where} ...")
    evaluation = programs.evaluation(config, mesh, topology)
    result = _result(config, topology, mesh, step, evaluation)
    if save and result["fits"]:
        saved.write(save, step.executable, result)
    return result


def remedies(
    config: ConfigDict, topology: Topology, log: Log, fresh: bool = False
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (change, result) of each change tried that makes a config fit, by compiling it.

    Of each kind of change the smallest that fits: `microbatches`, `dtype=bfloat16`, `remat`,
    `scl_block`, `class_block` and `model_axis` where classes are many, more chips.
    """
    for kind in _changes(config, topology):
        for text, changes, other in kind:
            changed = config.copy_and_resolve_references()
            changed.update(changes)
            log(f"does it fit with {text}?")
            try:
                result = size(changed, other, log, fresh)
            except UserError as error:  # values that do not go together
                log(f"{text} cannot be tried: {error}")
                continue
            if result["fits"]:
                yield text, result
                break


def _changes(config, topology):
    """[[(text, values, hardware)]], the kinds of changes, each from the smallest to the largest."""
    kinds = [
        [
            (f"microbatches={n}", {"microbatches": n}, topology)
            for n in _MICROBATCHES
            if n > config.microbatches
        ]
    ]
    if config.dtype == "float32":
        kinds.append([("dtype=bfloat16", {"dtype": "bfloat16"}, topology)])
    if not config.remat:
        kinds.append([("remat=true", {"remat": True}, topology)])
    rows = config_lib.rows_per_step(config) // topology.chips
    if config.loss == "scl" and not config.scl_block and rows >= 8:
        kinds.append([(f"scl_block={rows // 8}", {"scl_block": rows // 8}, topology)])
    if config.num_classes >= _MANY_CLASSES and config.loss in BLOCK_LOSSES:
        if not config.class_block:
            kinds.append([("class_block=8000", {"class_block": 8000}, topology)])
        if config.model_axis == 1:
            split = {"model_axis": topology.chips}
            kinds.append([(f"model_axis={topology.chips}", split, topology)])
    more = [topology.larger(factor) for factor in _FACTORS]
    kinds.append([(each.name, {}, each) for each in more if each])
    return kinds


def _result(config, topology, mesh, step, evaluation):
    memory = programs.state_bytes(config, mesh)
    before = sum(memory.values())
    memory["activations and workspace"] = step.temporaries
    needed = step.needed if step.temporaries is None else before + step.temporaries
    kept = programs.features_bytes(config, mesh)
    # During an evaluation the state stays; its features are copied once into the order of rows.
    in_evaluation = None
    if evaluation.temporaries is not None:
        state = before - memory["images"] + data_sizes.resident_bytes(config)
        in_evaluation = state + 2 * kept + evaluation.temporaries
    capacity = topology.chip.memory if topology.chip else None
    fits = step.fits and evaluation.fits
    if fits and capacity:
        fits = max(needed, in_evaluation) <= capacity
    steps = config_lib.total_steps(config)
    result = {
        "topology": topology.name,
        "chip": topology.chip.title if topology.chip else "simulated device",
        "chips": topology.chips,
        "hosts": topology.hosts,
        "config": config_lib.to_values(config),
        "versions": topologies.compiler_versions(topology),
        "fits": fits,
        "built": step.fits,  # else the compiler gave up for want of memory
        "capacity": capacity,
        "memory": memory,
        "needed": needed,
        "needed_in_evaluation": in_evaluation,
        "flops": sum(step.flops.values()),
        "flops_by_precision": step.flops,
        "loss_flops": step.loss_flops,
        "traffic": step.traffic,
        "collectives": step.exchanges if step.fits else None,
        "steps": steps,
        "compile_seconds": step.seconds + evaluation.seconds,
        "bound": None,
    }
    if topology.chip and step.fits:
        sent = sum(row["sent"] for row in step.exchanges)
        times = bound.seconds(topology, step.flops, step.traffic, sent)
        slowest, resource = bound.limit(times)
        result["bound"] = {
            "seconds": slowest,
            "resource": resource,
            "by_resource": times,
            "images_per_second": config.batch_size / slowest,
            "hours": steps * slowest / 3600,
            "source": topology.chip.source,
        }
    return result


def _cache_path(config, topology):
    key = {
        "config": config_lib.to_values(config),
        "topology": topology.name,
        "versions": topologies.compiler_versions(topology),
        "code": saved.deciding_code(),
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    return os.path.join(compilation_cache.user_folder(), "compile", f"{digest}.json")


def _read(path):
    try:
        return json.loads(pathlib.Path(path).read_text())
    except (OSError, ValueError):
        return None


def _write(path, result):
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        files.write_text(path, json.dumps(result))
    except OSError:  # a result that is not kept is computed anew
        return
