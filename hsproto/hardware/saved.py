"""A compiled training step in a file, so that the machine it was made for starts without compiling.

The file is a pickle, as JAX's own serialization is: read one only from where you trust its writer.
"""

import importlib.metadata
import pickle
from collections.abc import Callable
from typing import Any

import jax
from jax.experimental import serialize_executable
from ml_collections import ConfigDict

from hsproto import config as config_lib
from hsproto.errors import UserError, one_line, visible
from hsproto.hardware import topologies
from hsproto.parallel import agreement
from hsproto.runs import files

# The parts of hsproto that decide what is compiled or how it is read.
_DECIDING = (
    "core/", "data/augment", "evaluation/evaluator", "hardware/", "losses", "models/", "training/"
)  # fmt: skip
_NOT_IN_A_STEP = ("data_dir", "workers")


def deciding_code() -> dict[str, str]:
    """Return digests of the files of hsproto that decide what is compiled, by path."""
    return {k: v for k, v in agreement.code_digests().items() if k.startswith(_DECIDING)}


def check(config: ConfigDict) -> None:
    """Raise UserError for a config whose step cannot be saved without its data."""
    if config.logit_adjustment:
        raise UserError(
            f"config key logit_adjustment={config.logit_adjustment:g} puts the class frequencies "
            "of the data into the step, which cannot be saved without them"
        )


def write(path: str, executable: Any, result: dict[str, Any]) -> None:
    """Write a compiled step with what it was compiled for: config, hardware, versions, code."""
    payload, in_tree, out_tree = serialize_executable.serialize(executable)
    made_for = {key: result[key] for key in ("topology", "config", "versions")}
    made_for["code"] = deciding_code()
    content = pickle.dumps(made_for | {"executable": (payload, in_tree, out_tree)})

    def put(temporary):
        with open(temporary, "wb") as file:
            file.write(content)

    files.write_atomically(path, put)


def load(path: str, config: ConfigDict, mesh: jax.sharding.Mesh) -> Callable[..., Any]:
    """Return the step of a file, as `training.step.make_train_step` would make it.

    Args:
        path: A file that `write` wrote.
        config: The run's config, resolved against its data.
        mesh: The devices of this machine, or of all machines of the run.

    Raises:
        UserError: The file is no such step, or one for another config, other hardware, other
            versions or other code of hsproto.
    """
    check(config)
    kept = _read(path)
    _compare(path, kept, config, mesh)
    try:
        return serialize_executable.deserialize_and_load(
            *kept["executable"], execution_devices=list(mesh.devices.flat)
        )
    except Exception as error:  # whatever a vendor's library raises
        raise UserError(
            f"--compiled_step={path} cannot be loaded on this hardware: {one_line(error, 300)}"
        ) from error


def _read(path):
    try:
        with open(path, "rb") as file:
            kept = pickle.load(file)
        kept["topology"], kept["config"], kept["versions"], kept["code"], kept["executable"]
    except OSError as error:
        raise UserError(f"--compiled_step={path}: {error.strerror}") from None
    except Exception:  # a pickle may fail in any way
        raise UserError(
            f"--compiled_step={path} is no step that this `hsproto compile --save` wrote"
        ) from None
    return kept


def _compare(path, kept, config, mesh):
    topology = topologies.parse(kept["topology"])
    kind = mesh.devices.flat[0].device_kind
    if mesh.size != topology.chips or topologies.chip_of(kind) != topology.chip:
        raise UserError(
            f"--compiled_step={path} was made for {topology.name}; here are {mesh.size} x {kind}"
        )
    try:
        versions = topologies.compiler_versions(topology)
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(f"--compiled_step={path} needs the package {error.name}") from None
    made_with = {
        "versions": (kept["versions"], versions),
        "config keys": (kept["config"], config_lib.to_values(config)),
        "code of hsproto": (kept["code"], deciding_code()),
    }
    for what, (theirs, ours) in made_with.items():
        if differing := _differing(theirs, ours):
            raise UserError(
                f"--compiled_step={path} was made with other {what}: {differing}; make it anew "
                "with `hsproto compile --save`, or leave it out"
            )


def _differing(theirs, ours):
    """What differs between two dicts, in words; "" if nothing does."""
    keys = sorted((theirs.keys() | ours.keys()) - set(_NOT_IN_A_STEP))
    found = [key for key in keys if theirs.get(key) != ours.get(key)]
    told = [f"{key} ({_short(theirs.get(key))}, here {_short(ours.get(key))})" for key in found[:3]]
    return ", ".join(told) + (f" and {len(found) - 3} more" if len(found) > 3 else "")


def _short(value):
    return "none" if value is None else visible(value)[:40] or "''"
