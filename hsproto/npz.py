"""npz files from outside, read such that damage and deceit end in one line."""

import os
import sys
import zipfile
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np

from hsproto.errors import UserError, one_line

# A file may unpack to this many bytes, or to this many times its own size, whichever is more. What
# goes beyond it is no data set but a bomb: images that are not all alike pack to a third or half.
MAX_UNPACKED_BYTES = 2**30
MAX_RATIO = 200

_READ_HEADER = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read(
    path: str | os.PathLike, names: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Return the arrays `names` of an npz file, and those of `optional` that it has.

    Nothing is unpacked before the sizes that the file declares are known to agree. Checksums are
    compared for all that is read, and no Python object is.

    Raises:
        UserError: the file is missing, damaged, encrypted, lacks an array, or would unpack to more
            than MAX_UNPACKED_BYTES and MAX_RATIO times its size; with its path.
    """
    if not os.path.isfile(path):  # a pipe would block
        raise UserError(f"{path} is no file, so no npz file")
    try:
        return unpack(path, names, optional)
    except MissingArrays as error:
        lacking = ", ".join(error.names)
        raise UserError(f"{path} lacks {lacking}: it must hold {', '.join(names)}") from error
    except Exception as error:  # zipfile and numpy raise whatever damaged bytes lead to
        reason = one_line(error, 200)
        raise UserError(f"{path} cannot be read as an npz file ({reason})") from error


class MissingArrays(ValueError):
    """A file lacks the arrays `names`."""

    def __init__(self, *names: str):
        super().__init__(f"no {', '.join(map(repr, names))}")
        self.names = names


def unpack(
    path: str | os.PathLike, names: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Do as `read`, but raise whatever the bytes lead to, for callers with words of their own."""
    with zipfile.ZipFile(path) as archive:
        members = {}
        for member in archive.infolist():
            if member.filename in members:
                raise ValueError(f"it holds {member.filename!r} twice")
            members[member.filename] = member
        if missing := [name for name in names if f"{name}.npy" not in members]:
            raise MissingArrays(*missing)
        wanted = [*names, *(name for name in optional if f"{name}.npy" in members)]
        chosen = {name: members[f"{name}.npy"] for name in wanted}
        check_unpacked(sum(member.file_size for member in chosen.values()), path)
        return {name: _array(archive, member) for name, member in chosen.items()}


def check_unpacked(size: int, path: str | os.PathLike) -> None:
    """Raise ValueError if a file would unpack to `size` bytes, more than a data set does."""
    if size > max(MAX_UNPACKED_BYTES, MAX_RATIO * os.path.getsize(path)):
        raise ValueError(
            f"it would unpack to {size / 2**30:.1f} GB, more than {MAX_RATIO} times its size and "
            f"than {MAX_UNPACKED_BYTES / 2**30:.1f} GB"
        )


def read_header(file: BinaryIO, end: int) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Return (shape, whether by column, dtype, numbers) of an npy file from where it is read.

    Raises:
        ValueError: Another version, Python objects, or an array that does not fill the file to
            `end`.
    """
    version = np.lib.format.read_magic(file)
    if version not in _READ_HEADER:
        raise ValueError(f"it is of the unknown version {version}")
    shape, by_column, dtype = _READ_HEADER[version](file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are not loaded")
    count = 1
    for side in shape:  # as Python's numbers, which do not overflow
        count *= side
    if min(shape, default=0) < 0 or file.tell() + count * dtype.itemsize != end:
        raise ValueError(f"its header contradicts its size (shape {shape}, {dtype})")
    return shape, by_column, dtype, count


def _array(archive, member):
    if member.flag_bits & 1:
        raise ValueError(f"{member.filename!r} is encrypted")
    with archive.open(member) as file:
        try:
            shape, fortran_order, dtype, count = read_header(file, member.file_size)
        except ValueError as error:
            raise ValueError(f"{member.filename!r}: {error}") from error
        array = np.empty(count, dtype)
        # In blocks: zipfile would hold as much again.
        view, done = memoryview(array.view(np.uint8).reshape(-1)), 0
        while block := file.read(2**24):  # to the end, where the checksum is compared
            view[done : done + len(block)] = block
            done += len(block)
    if done != array.nbytes:
        raise ValueError(f"{member.filename!r} is cut short")
    # NumPy fails only when such a letter is looked at.
    if dtype.kind == "U" and np.any(array.view(dtype.byteorder + "u4") > sys.maxunicode):
        raise ValueError(f"{member.filename!r} is not text")
    return array.reshape(shape[::-1]).T if fortran_order else array.reshape(shape)
