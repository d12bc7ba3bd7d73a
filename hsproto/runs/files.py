"""Files of a workdir: written whole or not at all. `hsproto.runs.reading` reads them."""

import contextlib
import csv
import io
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np


@contextlib.contextmanager
def replaced(path: str | os.PathLike) -> Iterator[str]:
    """Give a temporary path; what is there at the end replaces a file, whole or not at all."""
    temporary = f"{path}.tmp"
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        raise


def write_atomically(path: str | os.PathLike, write: Callable[[str], Any]) -> None:
    """Replace a file by what `write(temporary_path)` writes: whole, or not at all if it fails."""
    with replaced(path) as temporary:
        write(temporary)


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


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return rows as CSV below their column names; None is empty."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    return text.getvalue()


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
