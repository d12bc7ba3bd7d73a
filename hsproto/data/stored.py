"""Arrays in npy and npz files, of which rows are read when they are asked for.

No more of a file is in memory than the rows in use. What a file declares is compared with its size
and its checksums before anything is believed, and Python objects are never loaded.
"""

import contextlib
import os
import re
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

import numpy as np

from hsproto import npz
from hsproto.errors import UserError, one_line

_COPIED_BYTES = 2**24


class StoredArray:
    """An array [N, ...] in a file, from a place on.

    Attributes:
        name: The file and the array, for messages.
        shape: As stored.
        dtype: As stored.
    """

    def __init__(self, file: BinaryIO, start: int, size: int, name: str):
        file.seek(start)
        self.shape, self._by_column, self.dtype, _ = npz.read_header(file, start + size)
        if not self.shape:
            raise ValueError("it holds a single number, not an array")
        self._file, self._offset, self.name = file, file.tell(), name

    def __len__(self) -> int:
        return self.shape[0]

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Return rows start..stop-1."""
        rest = self.shape[1:]
        if not self._by_column:
            width = int(np.prod(rest, dtype=np.int64))
            return self._read(start * width, (stop - start) * width).reshape(stop - start, *rest)
        # Stored column by column, the last axis slowest: of each column a piece is read.
        columns = int(np.prod(rest, dtype=np.int64))
        pieces = [self._read(c * len(self) + start, stop - start) for c in range(columns)]
        flat = np.stack(pieces, axis=1) if pieces else np.empty((stop - start, 0), self.dtype)
        return np.moveaxis(flat.reshape(stop - start, *rest[::-1]), 0, -1).T

    def _read(self, first, count):
        array = np.empty(count, self.dtype)
        self._file.seek(self._offset + first * self.dtype.itemsize)
        if self._file.readinto(array.view(np.uint8)) != array.nbytes:
            raise UserError(f"{self.name} is cut short")
        return array


class JoinedArray:
    """Arrays of several files, one after another."""

    def __init__(self, parts: Sequence[StoredArray]):
        self._parts = parts
        self.name, self.dtype = parts[0].name, parts[0].dtype
        for part in parts:
            if (part.shape[1:], part.dtype) != (parts[0].shape[1:], parts[0].dtype):
                raise UserError(
                    f"{part.name} is {part.dtype} of shape {part.shape} and {self.name} "
                    f"{self.dtype} of shape {parts[0].shape}: parts must differ in length alone"
                )
        self._ends = np.cumsum([len(part) for part in parts])
        self.shape = (int(self._ends[-1]), *parts[0].shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Return rows start..stop-1."""
        read, begin = [], 0
        for part, end in zip(self._parts, self._ends.tolist(), strict=True):
            if start < end and stop > begin:
                read.append(part.rows(max(start - begin, 0), min(stop, end) - begin))
            begin = end
        return read[0] if len(read) == 1 else np.concatenate([self._parts[0].rows(0, 0), *read])


def open_arrays(
    paths: Iterable[str | os.PathLike], names: Sequence[str], files: contextlib.ExitStack
) -> tuple[dict[str, JoinedArray], list[str]]:
    """Open the arrays `names` in files and folders; `files` closes them.

    An npz holds arrays by name; an npy is named by its file. Parts of an array are joined: those of
    several npz, and NAME_0, NAME_1 and so on, in the order of their numbers.

    Returns:
        ({name: array} of those that there are, names of other arrays).

    Raises:
        UserError: A file is missing, damaged, or of another kind.
    """
    parts, others = {}, []
    for path in _files(paths):
        for stem, array in _opened(path, files):
            name = re.fullmatch(rf"({'|'.join(names)})([_.-]?\d+)?", stem)
            if name:
                parts.setdefault(name[1], []).append(array)
            else:
                others.append(stem)
    return {name: JoinedArray(arrays) for name, arrays in parts.items()}, others


def _files(paths):
    for path in map(os.fspath, paths):
        if not os.path.isdir(path):
            yield path
            continue
        found = [name for name in os.listdir(path) if name.endswith((".npy", ".npz"))]
        if not found:
            raise UserError(f"{path} holds no npy or npz file")
        yield from (os.path.join(path, name) for name in sorted(found, key=_numbered))


def _numbered(name):
    """A key that sorts numbers in names by size."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _opened(path, files) -> Iterator[tuple[str, StoredArray]]:
    if not os.path.isfile(path):  # a pipe would block
        raise UserError(f"{path} is no file: give npz files, npy files, or folders of them")
    place = path
    try:
        file = files.enter_context(open(path, "rb"))
        if file.read(6) == np.lib.format.MAGIC_PREFIX:
            stem = os.path.basename(path).removesuffix(".npy")
            yield stem, StoredArray(file, 0, os.path.getsize(path), path)
            return
        archive = files.enter_context(zipfile.ZipFile(file))
        members = sorted(archive.infolist(), key=lambda member: _numbered(member.filename))
        if repeated := {m.filename for m in members if sum(n == m for n in members) > 1}:
            raise ValueError(f"it holds {min(repeated)!r} twice")
        for member in members:
            if member.filename.endswith(".npy"):
                place = f"{path}: {member.filename}"
                yield (
                    member.filename.removesuffix(".npy"),
                    _member(archive, file, member, path, files),
                )
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{place} cannot be read: {error.strerror or one_line(error)}") from error
    except Exception as error:  # zipfile and numpy raise whatever damaged bytes lead to
        raise UserError(
            f"{place} cannot be read as an npy or npz file ({one_line(error, 200)})"
        ) from error


def _member(archive, file, member, path, files):
    if member.flag_bits & 1:
        raise ValueError("it is encrypted")
    name = f"{path}: {member.filename.removesuffix('.npy')}"
    if member.compress_type == zipfile.ZIP_STORED:
        start = _start(file, member)
        array = StoredArray(file, start, member.file_size, name)
        _compare_checksum(file, start, member)
        return array
    npz.check_unpacked(member.file_size, path)
    # Several passes need it, in any order: unpacked once, to disk.
    unpacked = files.enter_context(tempfile.TemporaryFile())
    with archive.open(member) as packed:
        shutil.copyfileobj(packed, unpacked, _COPIED_BYTES)
    return StoredArray(unpacked, 0, unpacked.tell(), name)


def _start(file, member):
    """Where the bytes of a member that is not compressed begin."""
    file.seek(member.header_offset)
    header = file.read(30)
    if header[:4] != b"PK\x03\x04":
        raise ValueError("its local header is damaged")
    return member.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))


def _compare_checksum(file, start, member):
    file.seek(start)
    left, checksum = member.file_size, 0
    while left:
        block = file.read(min(left, _COPIED_BYTES))
        if not block:
            raise ValueError("it is cut short")
        checksum, left = zlib.crc32(block, checksum), left - len(block)
    if checksum != member.CRC:
        raise ValueError("its checksum does not match: the file is damaged")
