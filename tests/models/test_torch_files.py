"""Files of weights are read without torch, and nothing that they hold is ever executed."""

import json
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch_pickles
from torch_pickles import Call, Global, tensor

from hsproto.errors import UserError
from hsproto.models import torch_files, weights_files

ARRAYS = {
    "a.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "a.num_batches_tracked": np.array(7),
}


def state_dict():
    return {name: tensor(array, key) for key, (name, array) in enumerate(ARRAYS.items())}


@pytest.mark.parametrize("form", [torch_pickles.legacy, torch_pickles.zipped])
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"state_dict": x, "epoch": 3}])
def test_both_formats_give_the_tensors_of_a_state_dict(tmp_path, form, wrap):
    (tmp_path / "w.pth").write_bytes(form(wrap(state_dict())))
    read = weights_files.read(str(tmp_path / "w.pth"))
    assert list(read) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].dtype == array.dtype


@pytest.mark.parametrize("form", [torch_pickles.legacy, torch_pickles.zipped])
def test_views_share_a_storage(tmp_path, form):
    base = np.arange(12, dtype=np.float32).reshape(3, 4)
    whole, turned = tensor(base, 0), tensor(base, 0, shape=(4, 2), strides=(1, 4), offset=4)
    (tmp_path / "w.pth").write_bytes(form({"whole": whole, "turned": turned}))
    read = torch_files.read(tmp_path / "w.pth")
    np.testing.assert_array_equal(read["turned"], base[1:].T)


MARK_FILE = "hostile_code_was_executed"
HOSTILE = {
    "system": Call("os", "system", f"touch {MARK_FILE}"),
    "posix": Call("posix", "system", f"touch {MARK_FILE}"),
    "eval": Call("builtins", "eval", f"open('{MARK_FILE}', 'w')"),
    "python2": Call("__builtin__", "exec", f"open('{MARK_FILE}', 'w')"),
    "dotted": Call("torch._utils", "_rebuild_tensor_v2.__globals__", 1),
    "of_torch": Call("torch", "load", "other.pth"),
    "of_collections": Call("collections", "namedtuple", "x", "y"),
    "nested": {"a": [({"b": Call("os", "system", f"touch {MARK_FILE}")},)]},
    "in_arguments": Call("collections", "OrderedDict", Call("os", "system", f"touch {MARK_FILE}")),
    "of_an_allowed_name": Call("torch", "FloatStorage", 10**15),
    "dict_of_arguments": Call("collections", "OrderedDict", [("a", 1)]),
    "rebuild_of_nothing": Call("torch._utils", "_rebuild_tensor_v2", 1, 2, (3,), (4,)),
    "parameter_of_nothing": Call("torch._utils", "_rebuild_parameter", Global("torch", "int64")),
    "beyond": {"a": tensor(np.ones(4, np.float32), 0, shape=(5,))},
    "far": {"a": tensor(np.ones(4, np.float32), 0, offset=2**40)},
    "negative": {"a": tensor(np.ones(4, np.float32), 0, offset=-1)},
    "huge": {"a": tensor(np.ones(4, np.float32), 0, shape=(10**6, 10**6), strides=(0, 0))},
    "overflowing": {"a": tensor(np.ones(4, np.float32), 0, shape=(2**62, 4), strides=(0, 1))},
    "texts": {"a": tensor(np.ones(4, np.float32), 0, shape=("a",), strides=(1,))},
    "lying_size": {"a": tensor(np.ones(4, np.float32), 0, size=10**12, shape=(10**12,))},
    "negative_size": {"a": tensor(np.ones(4, np.float32), 0, size=-1)},
}  # fmt: skip


@pytest.mark.parametrize("form", [torch_pickles.legacy, torch_pickles.zipped])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused_and_not_executed(tmp_path, monkeypatch, form, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.pth").write_bytes(form(HOSTILE[name]))
    with pytest.raises(UserError) as refused:
        weights_files.read("w.pth")
    assert "\n" not in str(refused.value)
    assert "w.pth" in str(refused.value)
    assert os.listdir(tmp_path) == ["w.pth"]


def test_a_refusal_names_what_was_refused(tmp_path):
    (tmp_path / "w.pth").write_bytes(torch_pickles.zipped(HOSTILE["system"]))
    with pytest.raises(UserError, match=r"\(os\.system\); nothing of it was executed"):
        torch_files.read(tmp_path / "w.pth")


INSTRUCTIONS = {
    "newobj": b"\x80\x02ctorch\nFloatStorage\n)\x81.",
    "inst": b"(S'touch x'\nios\nsystem\n.",
    "obj": b"(cos\nsystem\nX\x01\x00\x00\x00ao.",
    "extension": b"\x80\x02\x82\x01.",
    "build_of_a_name": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}b.",
    "far_memo": b"\x80\x02Nr\xff\xff\xff\x7fj\xff\xff\xff\x7e.",
    "long_text": b"\x80\x02X\xff\xff\xff\x7fa.",
    "empty_stack": b"\x80\x02R.",
    "no_mark": b"\x80\x02t.",
    "no_end": b"\x80\x02N",
    "key_of_a_list": b"\x80\x02}]Ns.",
    "stack_global": b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
    "nothing": b"",
    "text": b"hello, world",
}


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_other_instructions_are_refused(tmp_path, name):
    (tmp_path / "zip.pth").write_bytes(torch_pickles.zipped({}, data_pkl=INSTRUCTIONS[name]))
    (tmp_path / "bare.pth").write_bytes(INSTRUCTIONS[name])
    for file in ("zip.pth", "bare.pth"):
        with pytest.raises(UserError):
            weights_files.read(str(tmp_path / file))


def test_files_cut_off_anywhere_are_refused(tmp_path):
    for form in (torch_pickles.legacy, torch_pickles.zipped):
        whole = form(state_dict())
        for length in range(0, len(whole) - 1, 7):
            (tmp_path / "w.pth").write_bytes(whole[:length])
            with pytest.raises(UserError):
                weights_files.read(str(tmp_path / "w.pth"))


def test_lying_counts_and_compressed_entries_are_refused(tmp_path):
    files = (
        torch_pickles.legacy(state_dict(), counts={"0": 10**15}),
        torch_pickles.legacy(state_dict(), counts={"0": -1}),
        torch_pickles.zipped(state_dict(), compression=zipfile.ZIP_DEFLATED),
    )
    for content in files:
        (tmp_path / "w.pth").write_bytes(content)
        with pytest.raises(UserError):
            torch_files.read(tmp_path / "w.pth")


def test_a_plain_pickle_is_refused(tmp_path):
    (tmp_path / "w.pth").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UserError, match="no file of PyTorch's"):
        torch_files.read(tmp_path / "w.pth")


def header(**entries):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


LYING_HEADERS = {
    "longer_than_the_file": struct.pack("<Q", 2**60) + b"{}",
    "no_json": struct.pack("<Q", 4) + b"abcd",
    "beyond_the_data": header(a={"dtype": "F32", "shape": [4], "data_offsets": [0, 10**12]}),
    "shape_of_another_size": header(a={"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4]})
    + b"0000",
    "unknown_dtype": header(a={"dtype": "os.system", "shape": [1], "data_offsets": [0, 4]})
    + b"0000",
    "overlapping": header(
        a={"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        b={"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
    )
    + b"0000",
    "empty": b"",
}


@pytest.mark.parametrize("name", LYING_HEADERS)
def test_safetensors_with_lying_headers_are_refused(tmp_path, name):
    pytest.importorskip("safetensors")
    path = tmp_path / "w.safetensors"
    path.write_bytes(LYING_HEADERS[name])
    with pytest.raises(UserError) as refused:
        weights_files.read(str(path))
    assert "\n" not in str(refused.value)


def test_safetensors_are_read(tmp_path):
    numpy_files = pytest.importorskip("safetensors.numpy")
    path = str(tmp_path / "w.safetensors")
    numpy_files.save_file(ARRAYS, path)
    for name, array in weights_files.read(path).items():
        np.testing.assert_array_equal(array, ARRAYS[name])


DEEP = b")" + b"\x85" * 300_000  # a tuple in a tuple in a tuple ...


@pytest.mark.parametrize(
    "content, told",
    [
        (b"\x80\x02}" + DEEP + b"K\x01s.", "keys of its dicts"),  # hashed, it ends the process
        (b"\x80\x02}(" + DEEP + b"K\x01u.", "keys of its dicts"),
        (b"\x80\x02" + DEEP + b".", "no file of PyTorch's"),
        (b"\x80\x02" + b"(" * 30_000 + b"t" * 30_000 + b".", "nested deeper"),
        (b"\x80\x04\x8d" + struct.pack("<Q", 2**45) + b"abc.", "damaged"),  # text of 32 TB
    ],
)
def test_pickles_that_take_the_process_with_them_are_refused(content, told, tmp_path):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(UserError, match=told):
        torch_files.read(tmp_path / "w.pth")
