"""What a run writes while it goes: metrics.jsonl, TensorBoard events, progress lines."""

import json
import math
import os
from collections.abc import Callable

from hsproto.errors import UserError


def write_atomically(path: str | os.PathLike[str], write: Callable[[str], None]) -> None:
    """Write a file as a whole or not at all: `write` is called with a temporary path beside it."""
    temporary = f"{path}.tmp"
    write(temporary)
    os.replace(temporary, path)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file as a whole or not at all."""

    def write(temporary):
        with open(temporary, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    write_atomically(path, write)


def to_json(value, **kwargs):
    """JSON in which what is not a finite number is null, as strict readers ask for."""
    return json.dumps(_finite(value), allow_nan=False, **kwargs)


def _finite(value):
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def is_number(value):
    """Whether a value of a file is a number, be it finite or not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_type(value, kind):
    return isinstance(value, kind) and not isinstance(value, bool)


def check_types(path, found, kinds):
    """Raises UserError where an object lacks a key of `kinds` or has it of another type."""
    for key, kind in kinds.items():
        if key not in found:
            raise UserError(f"{path} is damaged (no {key!r})")
        if not is_type(found[key], kind):
            raise UserError(f"{path} is damaged ({key!r} is no {_WORDS[kind]})")


_WORDS = {str: "text", int: "whole number", dict: "object"}


def check_all(path, found, place, holds):
    """Raises UserError where a value that is at a place of a file, as a/*/b, is another one."""
    *outer, last = place.split("/")
    at = [found]
    for part in outer:
        inside = [value for each in at for key, value in each.items() if part in ("*", key)]
        at = [value for value in inside if isinstance(value, dict)]
    for each in at:
        for key, value in each.items():
            if last in ("*", key) and not holds(value):
                raise UserError(f"{path} is damaged ({key!r} is not what belongs there)")


def read_json(path):
    with open(path) as file:
        try:
            found = json.load(file)
            if not isinstance(found, dict):
                raise ValueError("no JSON object")
        except ValueError as error:
            raise UserError(f"{path} is damaged ({error})") from None
    return found
