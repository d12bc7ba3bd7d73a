"""Files in torch's two formats, honest and hostile, written without torch."""

import io
import pickle
import struct
import zipfile

import numpy as np

_STORAGES = {np.dtype(np.float32): "FloatStorage", np.dtype(np.int64): "LongStorage"}


class Call:
    """Pickled as a call of `module.name(*arguments)`, whether or not there is such a function."""

    def __init__(self, module, name, *arguments):
        self.module, self.name, self.arguments = module, name, arguments


class Global(Call):
    """Pickled as a reference to `module.name`."""


class Storage:
    def __init__(self, array, key, size=None):
        self.array, self.key = np.ascontiguousarray(array), str(key)
        self.size = self.array.size if size is None else size


def tensor(array, key, shape=None, size=None, offset=0, strides=None):
    """A pickled tensor; shape, strides, offset and size may lie."""
    array = np.ascontiguousarray(array)
    steps = tuple(step // array.itemsize for step in array.strides)
    return Call(
        "torch._utils", "_rebuild_tensor_v2", Storage(array, key, size), offset,
        array.shape if shape is None else shape, steps if strides is None else strides, False,
        Call("collections", "OrderedDict"),
    )  # fmt: skip


class _Pickler(pickle._Pickler):
    """Writes `Call` and `Global` by their names, and storages as persistent ids."""

    def __init__(self, file, legacy):
        super().__init__(file, protocol=2)
        self._legacy, self.storages = legacy, {}

    def persistent_id(self, value):
        if not isinstance(value, Storage):
            return None
        self.storages[value.key] = value
        kind = Global("torch", _STORAGES[value.array.dtype])
        view = (None,) if self._legacy else ()
        return ("storage", kind, value.key, "cpu", value.size, *view)

    def save(self, value, save_persistent_id=True):
        if not isinstance(value, Call):
            return super().save(value, save_persistent_id)
        self.write(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())
        if not isinstance(value, Global):
            self.save(tuple(value.arguments))
            self.write(pickle.REDUCE)
        return None


def _pickled(value, legacy):
    file = io.BytesIO()
    pickler = _Pickler(file, legacy)
    pickler.dump(value)
    return file.getvalue(), pickler.storages


def legacy(value, counts=None):
    """The bytes of a file of torch below 1.6; `counts` may lie about the sizes of storages."""
    body, storages = _pickled(value, legacy=True)
    parts = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {})]
    parts += [body, pickle.dumps(sorted(storages), 2)]
    for key in sorted(storages):
        count = (counts or {}).get(key, storages[key].array.size)
        parts.append(struct.pack("<q", count) + storages[key].array.tobytes())
    return b"".join(parts)


def zipped(value, compression=zipfile.ZIP_STORED, data_pkl=None):
    """The bytes of a file of torch since 1.6."""
    body, storages = _pickled(value, legacy=False)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", body if data_pkl is None else data_pkl)
        for key, storage in storages.items():
            archive.writestr(f"archive/data/{key}", storage.array.tobytes())
    return file.getvalue()
