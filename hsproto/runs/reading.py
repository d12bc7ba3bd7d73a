"""The files of a workdir as they are read: JSON and npz, checked once, at the place of reading.

What is damaged, cannot be opened or is a newer version's is an `Unreadable`: one line with the path
and the reason. What comes after can rely on the types that a schema has asked for.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hsproto import npz
from hsproto.errors import UserError, one_line

# Of numbers in a file. Training computes in float32, and a report squares and sums what it reads.
_LARGEST = 1e100
_MOST_LETTERS = 200  # of a reason


class Unreadable(UserError):
    """A run, or a file of one, that is damaged, cannot be opened or is of a newer version."""


class Kind(NamedTuple):
    """A kind of values: what it is called, and whether a value is one."""

    wanted: str
    holds: Callable[[Any], bool]


class Object(NamedTuple):
    """A kind of JSON objects.

    Attributes:
        keys: {key: `Kind` or `Object` of its value, if the key is there}.
        others: That of all other keys' values; None: anything.
        required: The keys that must be there.
    """

    keys: Mapping[str, Any] = {}
    others: Any = None
    required: Sequence[str] = ()


def is_number(value: Any) -> bool:
    """Return whether a value from a file is a finite number, of a size to compute with."""
    return is_type(value, int | float) and abs(value) < _LARGEST


def is_type(value: Any, kind: Any) -> bool:
    """Return whether a value from a file is of a type, of which bool is no int."""
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _is_list(value, holds):
    return isinstance(value, list) and all(map(holds, value))


TEXT = Kind("text", lambda value: isinstance(value, str))
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
WHOLE = Kind("a whole number", lambda value: is_type(value, int))
COUNT = Kind("a whole number from 0 on", lambda value: is_type(value, int) and value >= 0)
POSITIVE = Kind("a positive whole number", lambda value: is_type(value, int) and value > 0)
COUNTS = Kind("a list of whole numbers", lambda value: _is_list(value, COUNT.holds))
NUMBER = Kind("a number", is_number)
NUMBERS = Kind("a list of numbers", lambda value: _is_list(value, is_number))
SOME_NUMBERS = Kind("a list of numbers", lambda value: NUMBERS.holds(value) and bool(value))
# What is undefined is null.
MEASURE = Kind("a number", lambda value: value is None or is_number(value))
MEASURES = Kind("a list of numbers", lambda value: _is_list(value, MEASURE.holds))
# What tables show as text.
LABEL = Kind("a text or a number", lambda value: isinstance(value, str) or MEASURE.holds(value))


def read_bytes(path: str | os.PathLike) -> bytes:
    """Return the content of a file. Raise Unreadable if it cannot be opened."""
    _check_file(path)
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise Unreadable(f"{path} cannot be read ({error.strerror})") from None


def _check_file(path):
    if os.path.exists(path) and not os.path.isfile(path):  # reading a pipe might never end
        raise Unreadable(f"{path} cannot be read (it is not a file)")


def parse_json(text: str | bytes) -> Any:
    """Return what a JSON text holds; None for NaN, infinities and integers of more than 64 bits.

    Raises:
        ValueError: It is no JSON, or nested too deeply.
    """
    try:
        return json.loads(text, parse_constant=lambda _: None, parse_int=_whole)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _whole(digits):
    value = int(digits) if len(digits) < 20 else None
    return value if value is not None and abs(value) < 2**63 else None


def read_json(path: str | os.PathLike, schema: Object) -> dict:
    """Return the JSON object in a file. Raise Unreadable if there is none, or not as the schema."""
    try:
        content = parse_json(read_bytes(path))
    except ValueError as error:
        raise damaged(path, error) from None
    check(path, content, schema)
    return content


def check(path: str | os.PathLike, value: Any, schema: Kind | Object, place: str = "") -> None:
    """Raise Unreadable unless a value of a file, at a place in it, is as a schema wants it."""
    if isinstance(schema, Kind):
        if not schema.holds(value):
            raise damaged(path, f"{place!r} is not {schema.wanted}")
        return
    if not isinstance(value, dict):
        raise damaged(path, f"{place!r} is not an object" if place else "it is not a JSON object")
    prefix = f"{place}/" if place else ""
    for key in schema.required:
        if key not in value:
            raise damaged(path, f"no {prefix + key!r}")
    for key, each in value.items():
        inner = schema.keys.get(key, schema.others)
        if inner is not None:
            check(path, each, inner, prefix + key)


def read_npz(
    path: str | os.PathLike, names: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Return arrays of an npz file, those of `optional` if it has them.

    Raises:
        Unreadable: It cannot be opened, is damaged, or lacks one of `names`.
    """
    _check_file(path)
    try:
        return npz.unpack(path, names, optional)
    except OSError as error:
        if error.errno:
            raise Unreadable(f"{path} cannot be read ({error.strerror})") from None
        raise damaged(path, error) from None
    except Exception as error:  # NumPy, zipfile and zlib raise many kinds for damaged bytes
        raise damaged(path, error) from None


def damaged(path: str | os.PathLike, reason: object) -> Unreadable:
    """Return the error of a damaged file."""
    return Unreadable(f"{path} is damaged ({one_line(reason, _MOST_LETTERS)})")
