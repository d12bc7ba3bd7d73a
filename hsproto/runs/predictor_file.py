"""predictor.npz: a run as a classifier alone, which predicts and is never trained on."""

import json
import os
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from hsproto import config as config_lib
from hsproto import config_checks
from hsproto.errors import UserError
from hsproto.models import architecture
from hsproto.runs import config_file, reading
from hsproto.runs.files import to_json, write_npz

NAME = "predictor.npz"
_FORMAT = 1
_ABOUT = reading.Object(
    {
        "format": reading.POSITIVE,
        "config": reading.Object(),
        "step": reading.COUNT,
        "metrics": reading.Object(others=reading.Object(others=reading.MEASURE)),
    },
    required=("format", "config", "step", "metrics"),
)


class Predictor(NamedTuple):
    """What the file holds beside the network's variables.

    Attributes:
        config: that the network was trained with.
        step: of the state.
        metrics: {split: {name: value}}, of the classes it was trained on.
        class_names: K names.
        prototypes: float32 [K, D].
        bias: float32 [K] or None.
    """

    config: ConfigDict
    step: int
    metrics: dict[str, dict[str, Any]]
    class_names: tuple[str, ...]
    prototypes: np.ndarray
    bias: np.ndarray | None


def exists(folder: str | os.PathLike) -> bool:
    """Return whether a folder holds a saved classifier, whether or not it can be read."""
    return os.path.lexists(os.path.join(folder, NAME))


def write(folder: str, predictor: Predictor, variables: dict[str, np.ndarray]) -> None:
    """Write the file, whole or not at all; `variables` by name.

    Raises:
        UserError: `folder` holds a run, or cannot be made.
    """
    if config_file.exists(folder):
        raise UserError(f"{folder} holds a run ({config_file.NAME}): save to another folder")
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} is no folder to save to: {error.strerror}") from None
    about = {
        "format": _FORMAT,
        "config": predictor.config.to_dict(),
        "step": predictor.step,
        "metrics": predictor.metrics,
    }
    arrays = {
        "about": np.array(to_json(about)),
        "class_names": np.array(predictor.class_names),
        "prototypes": predictor.prototypes,
    }
    if predictor.bias is not None:
        arrays["bias"] = predictor.bias
    arrays |= {f"variables/{name}": value for name, value in variables.items()}
    write_npz(os.path.join(folder, NAME), arrays)


def read(folder: str) -> Predictor:
    """Return what a saved classifier is.

    Raises:
        Unreadable: It is damaged, or a newer version's.
    """
    path = os.path.join(folder, NAME)
    arrays = reading.read_npz(path, ("about", "class_names", "prototypes"), ("bias",))
    about, names = arrays["about"], arrays["class_names"]
    if about.shape or about.dtype.kind != "U" or names.ndim != 1 or names.dtype.kind != "U":
        raise reading.damaged(path, "'about' or 'class_names' are no text")
    try:
        content = reading.parse_json(str(about))
    except json.JSONDecodeError as error:
        raise reading.damaged(path, error) from None
    reading.check(path, content, _ABOUT)
    if content["format"] > _FORMAT:
        raise reading.Unreadable(f"{path} was written by a newer version of hsproto")
    config_file.check(path, content["config"], "config")
    config = config_lib.from_stored(content["config"])
    config_checks.validate(config)
    prototypes, bias = arrays["prototypes"], arrays.get("bias")
    _check_array(path, "prototypes", prototypes, (len(names), architecture.output_dim(config)))
    if bias is not None:
        _check_array(path, "bias", bias, (len(names),))
    return Predictor(
        config, content["step"], content["metrics"], tuple(map(str, names)), prototypes, bias
    )


def read_variables(folder: str, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Return the network's variables by name, of the shapes that the network has.

    Raises:
        Unreadable: The file is damaged, or holds those of another network.
    """
    path = os.path.join(folder, NAME)
    arrays = reading.read_npz(path, [f"variables/{name}" for name in shapes])
    for name, shape in shapes.items():
        _check_array(path, name, arrays[f"variables/{name}"], shape)
    return {name: arrays[f"variables/{name}"] for name in shapes}


def _check_array(path, name, array, shape):
    if array.shape != shape or array.dtype != np.float32:
        reason = f"{name!r} are {array.dtype} of shape {array.shape}, not float32 of {shape}"
        raise reading.damaged(path, reason)
