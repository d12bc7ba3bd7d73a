"""config.json: the resolved config of a run, written and read here."""

import os

from ml_collections import ConfigDict

from hsproto import config as config_lib
from hsproto.runs.files import check_types, read_json, write_text

NAME = "config.json"
# What the config of every run has, whatever its version, and its type.
TYPES = {"dataset": str, "loss": str, "embedding": str, "seed": int, "num_classes": int}


def exists(workdir: str) -> bool:
    """Return whether a folder holds a run."""
    return os.path.isfile(os.path.join(workdir, NAME))


def write(workdir: str, config: ConfigDict) -> None:
    write_text(os.path.join(workdir, NAME), config_lib.to_json(config))


def read(workdir: str) -> ConfigDict | None:
    """Return the config of a run that is to be continued or opened; None if there is no run.

    Raises:
        UserError: If it is damaged, or has keys that this version does not know.
    """
    if not exists(workdir):
        return None
    with open(os.path.join(workdir, NAME), "rb") as file:
        return config_lib.from_json(file.read())


def read_values(workdir: str) -> dict:
    """Return the config of a run of any version as a dict, for reports.

    Raises:
        UserError: If it is damaged.
    """
    path = os.path.join(workdir, NAME)
    values = read_json(path)
    check_types(path, values, TYPES)
    return values
