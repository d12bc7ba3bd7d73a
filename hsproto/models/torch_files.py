"""PyTorch's files of weights (`.pth`), in the zip and the legacy format, without torch.

Both hold a pickle, and a pickle is a program: loaded as such, a file runs whatever its author
wants. So it is interpreted here by a machine that knows the instructions by which tensors,
numbers, texts and plain containers are written, and no others. A name that it does not know ends
the reading; nothing of the file is ever called.
"""

import io
import os
import pickletools
import struct
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from hsproto.errors import UserError, one_line, visible

_DTYPES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
_REBUILD = ("torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v2")
_PARAMETER = "torch._utils _rebuild_parameter"
_DICT = "collections OrderedDict"
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the legacy format


class Refused(Exception):
    """What a file holds is no weights, or not what it says."""


class _Name(NamedTuple):
    """A name of Python that a file refers to; never looked up."""

    text: str


class _Storage(NamedTuple):
    key: str
    dtype: Any
    size: int  # numbers


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read(path: str | os.PathLike[str]) -> Any:
    """Return what a file holds: containers of Python with NumPy arrays for tensors.

    Raises:
        UserError: The file is none of PyTorch's, damaged, or holds more than weights; by name.
    """
    try:
        with open(path, "rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"
            file.seek(0)
            return _read_zip(file) if is_zip else _read_legacy(file)
    except Refused as error:
        raise UserError(f"{path}: {visible(error)}; nothing of it was executed") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or one_line(error)}") from None
    except (
        ValueError, TypeError, LookupError, EOFError, struct.error, zipfile.BadZipFile,
        OverflowError, AttributeError, RuntimeError, NotImplementedError, MemoryError,
    ) as error:  # fmt: skip
        reason = visible(one_line(error, 100))
        raise UserError(f"{path} is no file of PyTorch's weights, or damaged: {reason}") from None


def _read_zip(file):
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        pickles = [name for name in entries if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise Refused("a zip file without torch's data.pkl")
        folder = pickles[0].removesuffix("data.pkl")

        def content(name):
            entry = entries[name]
            # torch compresses nothing; what is compressed may unpack to any size.
            if entry.compress_type != zipfile.ZIP_STORED:
                raise Refused(f"its entry {name!r} is compressed, which torch's are not")
            return archive.read(entry)

        if entries.get(f"{folder}byteorder") and content(f"{folder}byteorder") != b"little":
            raise Refused("its numbers are not stored little-endian")
        value = _unpickle(io.BytesIO(content(f"{folder}data.pkl")))
        return _fill(value, lambda storage: content(f"{folder}data/{storage.key}"))


def _read_legacy(file):
    if _unpickle(file) != _MAGIC or _unpickle(file) != _PROTOCOL:
        raise Refused("no file of PyTorch's")
    if not _unpickle(file).get("little_endian", True):
        raise Refused("its numbers are not stored little-endian")
    value, keys = _unpickle(file), _unpickle(file)
    storages = {storage.key: storage for storage in _storages(value)}
    contents = {}
    for key in map(_checked_key, keys):
        (count,) = struct.unpack("<q", file.read(8))
        if key not in storages or count != storages[key].size:
            raise Refused("its storages are not those that its tensors use")
        contents[key] = file.read(count * np.dtype(storages[key].dtype).itemsize)
    return _fill(value, lambda storage: contents[storage.key])


def _children(value):
    return value.values() if isinstance(value, dict) else value


def _storages(value):
    """Yield the storages of all tensors in a value."""
    for tensor in _walk(value):
        yield tensor.storage


def _walk(value):
    seen, waiting = set(), [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, _Tensor):
            yield value
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            waiting += _children(value)


def _fill(value, content: Callable[[_Storage], bytes]):
    """Return a value with arrays in the place of its tensors, two levels of containers deep.

    Deeper tensors are no weights of a model but, e.g., the state of an optimizer: left out.
    """
    made: dict[str, np.ndarray] = {}

    def array(tensor):
        storage = tensor.storage
        if storage.key not in made:
            data = content(storage)
            if len(data) != storage.size * np.dtype(storage.dtype).itemsize:
                raise Refused("it is cut off, or lies about the size of its tensors")
            made[storage.key] = np.frombuffer(data, storage.dtype)
        return _view(tensor, made[storage.key])

    def filled(value, depth):
        if isinstance(value, _Tensor):
            return array(value)
        if isinstance(value, dict) and depth:
            return {key: filled(item, depth - 1) for key, item in value.items()}
        return None if isinstance(value, dict | list | tuple | _Name) else value

    return filled(value, 2)


def _view(tensor, numbers):
    shape, strides, offset = tensor.shape, tensor.strides, tensor.offset
    sizes = (*shape, *strides, offset)
    if len(shape) != len(strides) or not all(type(x) is int and 0 <= x < 2**48 for x in sizes):
        raise Refused("the shape of a tensor is none")
    count = 1
    for side in shape:
        count *= side
    last = offset + sum((side - 1) * step for side, step in zip(shape, strides, strict=True))
    if count > len(numbers) or (count and last >= len(numbers)):
        raise Refused("a tensor reaches beyond its storage")
    steps = [step * numbers.itemsize for step in strides]
    start = numbers[offset:] if count else numbers[:0]
    return np.lib.stride_tricks.as_strided(start, shape, steps).copy()


_CONSTANTS = {
    "NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": (),
}  # fmt: skip
_LITERALS = (
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE",
    "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES",
)  # fmt: skip
_DEEPEST = 1000  # containers within each other


def _checked_key(key):
    """A key of a dict: text or a number. Python has no guard against hashing deep tuples."""
    if not isinstance(key, str | int | float):
        raise Refused("the keys of its dicts are not those of weights")
    return key


def _unpickle(file: BinaryIO) -> Any:
    """Return the value of the pickle at the place of a file, with `_Tensor` for tensors."""
    machine = _Machine()
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "STOP":
            return machine.stack.pop()
        machine.do(opcode.name, argument)
    raise Refused("its pickle has no end")


class _Machine:
    """The stack and the memo of a pickle; a method for each kind of instruction."""

    def __init__(self):
        self.stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._marks: list[int] = []  # places in the stack where containers begin

    def do(self, name: str, argument: Any) -> None:
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _LITERALS:
            self.stack.append(argument)
        elif name not in ("PROTO", "FRAME"):
            action = getattr(self, f"_{name.lower()}", None)
            if action is None:
                raise Refused(f"it holds more than weights (the instruction {name})")
            action(argument)

    def _since_mark(self):
        place = self._marks.pop()
        values = self.stack[place:]
        del self.stack[place:]
        return values

    def _top(self, kind):
        """The container on top, which must be of a kind."""
        if not isinstance(self.stack[-1], kind):
            raise Refused("its pickle is damaged")
        return self.stack[-1]

    def _mark(self, _):
        if len(self._marks) == _DEEPEST:
            raise Refused("it is nested deeper than weights are")
        self._marks.append(len(self.stack))

    def _empty_dict(self, _):
        self.stack.append({})

    def _empty_list(self, _):
        self.stack.append([])

    def _tuple(self, _):
        self.stack.append(tuple(self._since_mark()))

    def _tuple1(self, _):
        self.stack[-1:] = [tuple(self.stack[-1:])]

    def _tuple2(self, _):
        self.stack[-2:] = [tuple(self.stack[-2:])]

    def _tuple3(self, _):
        self.stack[-3:] = [tuple(self.stack[-3:])]

    def _append(self, _):
        value = self.stack.pop()
        self._top(list).append(value)

    def _appends(self, _):
        values = self._since_mark()
        self._top(list).extend(values)

    def _setitem(self, _):
        value, key = self.stack.pop(), self.stack.pop()
        self._top(dict)[_checked_key(key)] = value

    def _setitems(self, _):
        values = self._since_mark()
        keys = map(_checked_key, values[::2])
        self._top(dict).update(zip(keys, values[1::2], strict=True))

    def _binput(self, place):
        self._memo[place] = self.stack[-1]

    _long_binput = _binput

    def _memoize(self, _):
        self._memo[len(self._memo)] = self.stack[-1]

    def _binget(self, place):
        self.stack.append(self._memo[place])

    _long_binget = _binget

    def _global(self, text):
        module, _, name = text.partition(" ")
        storage = module == "torch" and name in _DTYPES
        if not storage and text not in (*_REBUILD, _PARAMETER, _DICT):
            raise Refused(f"it holds more than weights ({text.replace(' ', '.')})")
        self.stack.append(_Name(text))

    def _stack_global(self, _):
        name, module = self.stack.pop(), self.stack.pop()
        self._global(f"{module} {name}")

    def _binpersid(self, _):
        kind, name, key, _, size, *view = self.stack.pop()
        dtype = _DTYPES.get(name.text.removeprefix("torch "))
        if kind != "storage" or dtype is None or any(view) or type(size) is not int or size < 0:
            raise Refused("its storages are damaged")
        self.stack.append(_Storage(str(key), dtype, size))

    def _reduce(self, _):
        arguments, function = self.stack.pop(), self.stack.pop()
        if function == _Name(_DICT) and not arguments:
            self.stack.append({})
        elif function == _Name(_PARAMETER) and isinstance(arguments[0], _Tensor):
            self.stack.append(arguments[0])
        elif function in map(_Name, _REBUILD) and isinstance(arguments[0], _Storage):
            self.stack.append(_Tensor(*arguments[:4]))
        else:
            raise Refused("it holds more than weights (a call)")

    def _build(self, _):
        self.stack.pop()  # the versions of the layers, which torch keeps beside a state dict
        self._top(dict)
