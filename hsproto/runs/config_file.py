"""config.json: the resolved config of a run, written and read here."""

import contextlib
import os
from types import SimpleNamespace
from typing import Any

from ml_collections import ConfigDict

from hsproto import config as config_lib
from hsproto import config_checks
from hsproto.errors import UserError, one_line
from hsproto.models import architecture
from hsproto.runs import reading
from hsproto.runs.files import write_text

NAME = "config.json"
# The keys that the config of every run has, whatever its version.
REQUIRED = ("dataset", "loss", "embedding", "seed", "num_classes")


def exists(workdir: str) -> bool:
    """Return whether a folder holds a run, whether or not it can be read."""
    return os.path.lexists(os.path.join(workdir, NAME))


def write(workdir: str, config: ConfigDict) -> None:
    write_text(os.path.join(workdir, NAME), config_lib.to_json(config))


def read(workdir: str) -> ConfigDict | None:
    """Return the config of a run that is to be continued or opened; None if there is no run.

    Raises:
        Unreadable: As `read_values`.
    """
    if not exists(workdir):
        return None
    config = config_lib.from_stored(read_values(workdir))
    with _of_another_version(os.path.join(workdir, NAME)):
        config_checks.validate(config)
    return config


def read_values(workdir: str) -> dict[str, Any]:
    """Return the config of a run as a dict of the keys that its version had, for reports.

    Raises:
        Unreadable: It is damaged, or this version does not know its keys or values.
    """
    path = os.path.join(workdir, NAME)
    values = reading.read_json(path, reading.Object())
    check(path, values)
    return values


def check(path: str, values: dict[str, Any], place: str = "") -> None:
    """Raise Unreadable unless `values`, at a place of a file, are the config of a run."""
    for key in values:
        if key not in _KINDS:
            key = one_line(repr(key), 100)
            raise reading.Unreadable(
                f"{path} was written by a newer version of hsproto (it has the config key {key})"
            )
    reading.check(path, values, reading.Object(_KINDS, required=REQUIRED), place)
    with _of_another_version(path):
        config_checks.check_values(values)
        architecture.validate(SimpleNamespace(**config_lib.with_defaults(values)))


@contextlib.contextmanager
def _of_another_version(path):
    """What this version refuses in a config was written by another one, or is damage."""
    try:
        yield
    except UserError as error:
        raise reading.Unreadable(
            f"{path} is damaged, or was written by a newer version of hsproto "
            f"({one_line(error, 300)})"
        ) from None


def _kind(default):
    """The kind of values that a key takes, from its default."""
    kinds = {bool: reading.FLAG, int: reading.WHOLE, float: reading.NUMBER, str: reading.TEXT}
    return kinds.get(type(default), reading.NUMBERS)  # JSON has no tuples


_KINDS = {key: _kind(value) for key, value in config_lib.default().to_dict().items()}
