"""Files of a workdir: written whole or not at all, and JSON that is checked as it is read."""

import contextlib
import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from hsproto.errors import UserError


def write_atomically(path: str | os.PathLike, write: Callable[[str], Any]) -> None:
    """Replace a file by what `write(temporary_path)` writes: whole, or not at all if it fails."""
    temporary = f"{path}.tmp"
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        raise


def write_text(path: str | os.PathLike, text: str) -> None:
    """Replace a file by a text in UTF-8, whole or not at all.

    What stands for the bytes of a name that is not UTF-8 is written as its escape.
    """
    content = text.encode(errors="backslashreplace")
    write_atomically(path, lambda temporary: pathlib.Path(temporary).write_bytes(content))


def write_npz(path: str | os.PathLike, arrays: Mapping[str, Any], compressed: bool = False) -> None:
    """Replace an npz file by arrays, whole or not at all."""

    def write(temporary):
        with open(temporary, "wb") as file:  # NumPy would append .npz to a path
            (np.savez_compressed if compressed else np.savez)(file, **arrays)

    write_atomically(path, write)


def to_json(value: Any, **kwargs: Any) -> str:
    """Return strict JSON, in which numbers that are not finite are null."""
    return json.dumps(_finite(value), allow_nan=False, **kwargs)


def _finite(value):
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def read_json(path: str | os.PathLike) -> dict:
    """Return the JSON object in a file. Raise UserError if there is none."""
    with open(path, encoding="utf-8") as file:
        try:
            content = json.load(file)
            if not isinstance(content, dict):
                raise ValueError("not a JSON object")
        except ValueError as error:
            raise UserError(f"{path} is damaged ({error})") from None
    return content


def is_number(value: Any) -> bool:
    """Return whether a value from a file is a number, finite or not."""
    return is_type(value, int | float)


def is_type(value: Any, kind: Any) -> bool:
    """Return whether a value from a file is of a type, of which bool is no int."""
    return isinstance(value, kind) and not isinstance(value, bool)


_TYPE_NAMES = {str: "text", int: "a whole number", dict: "an object"}


def check_types(path: str | os.PathLike, content: dict, types: Mapping[str, type]) -> None:
    """Raise UserError if an object of a file lacks a key of `types` or has another type for it."""
    for key, kind in types.items():
        if key not in content:
            raise UserError(f"{path} is damaged (no {key!r})")
        if not is_type(content[key], kind):
            raise UserError(f"{path} is damaged ({key!r} is not {_TYPE_NAMES[kind]})")


def check_all(
    path: str | os.PathLike, content: dict, place: str, holds: Callable[[Any], bool]
) -> None:
    """Raise UserError unless all values at a place of a file, e.g. a/*/b, fulfill `holds`."""
    *outer, last = place.split("/")
    objects = [content]
    for part in outer:
        inner = [value for each in objects for key, value in each.items() if part in ("*", key)]
        objects = [value for value in inner if isinstance(value, dict)]
    for each in objects:
        for key, value in each.items():
            if last in ("*", key) and not holds(value):
                raise UserError(f"{path} is damaged (unexpected value of {key!r})")
