"""An npz file from outside gives its arrays, or one line that says why not."""

import io
import os
import random
import struct
import zipfile

import numpy as np
import pytest

from hsproto import config as config_lib
from hsproto import npz
from hsproto.data import load as load_lib
from hsproto.errors import UserError

ARRAYS = {
    "train_images": np.random.default_rng(0).integers(0, 256, (9, 4, 4, 3), np.uint8),
    "train_labels": np.arange(9) % 2,
    "class_names": np.array(["ant", "bée", "\udcff"]),
    "of_bytes": np.array([b"x", b"yz"]),
    "columns_first": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "swapped": np.arange(3, dtype=">i4"),
    "empty": np.zeros((0, 3)),
    "scalar": np.array(3),
}


def member(array=None, header=None, version=b"\x01\x00", content=b""):
    """An npy file as bytes, of an array or of a header as text and content."""
    if array is not None:
        file = io.BytesIO()
        np.save(file, array)
        return file.getvalue()
    header = header.encode()
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header + content


def refusal(path, names=("a",)):
    with pytest.raises(UserError) as caught:
        npz.read(path, names)
    message = str(caught.value)
    assert "\n" not in message and str(path)[:50] in message
    return message


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_those_that_were_written(tmp_path, save):
    save(tmp_path / "a.npz", **ARRAYS)
    found = npz.read(tmp_path / "a.npz", list(ARRAYS)[:-1], optional=("scalar", "missing"))
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype and found[name].flags.writeable
        np.testing.assert_array_equal(found[name], array, strict=True)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_flipped_bit_anywhere_changes_nothing_or_ends_in_a_line(tmp_path, save):
    save(tmp_path / "a.npz", **ARRAYS)
    content = (tmp_path / "a.npz").read_bytes()
    rng, path, refused = random.Random(0), tmp_path / "b.npz", 0
    for _ in range(200):
        damaged, bit = bytearray(content), rng.randrange(8 * len(content))
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            found = npz.read(path, list(ARRAYS))
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)
        else:
            for name, array in ARRAYS.items():
                np.testing.assert_array_equal(found[name], array, strict=True)
    assert refused > 100


@pytest.mark.parametrize("length", [0, 1, 21, 200, 2000])
def test_a_file_that_is_cut_short_is_refused(tmp_path, length):
    np.savez(tmp_path / "a.npz", a=np.zeros(1000))
    content = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(content[:length])
    assert "cannot be read as an npz file" in refusal(tmp_path / "a.npz")


HEADER = "{'descr': '|u1', 'fortran_order': False, 'shape': %s, }\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (member(header=HEADER % "(9999999999999,)"), "contradicts its size"),
        (member(header=HEADER % "(-5,)"), "contradicts its size"),
        (member(header=HEADER % "(2, 3)", content=bytes(5)), "contradicts its size"),
        (member(header=HEADER % "(2, 3)", content=bytes(7)), "contradicts its size"),
        (member(header=HEADER % f"({'9,' * 90})"), "contradicts its size"),
        (member(header="(" * 9000), "cannot be read"),
        (member(header="{}"), "cannot be read"),
        (member(header=HEADER % "(1,)", version=b"\x09\x00"), "unknown version (9, 0)"),
        (member(np.array([{}, None], object)), "Python objects"),
        (b"", "cannot be read"),
        (b"no npy file", "cannot be read"),
    ],
)
def test_an_absurd_header_is_refused_before_anything_is_allocated(tmp_path, content, words):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", content)
    assert words in refusal(tmp_path / "a.npz")


def test_a_member_that_is_there_twice_is_refused(tmp_path):
    with (
        zipfile.ZipFile(tmp_path / "a.npz", "w") as archive,
        pytest.warns(UserWarning, match="Duplicate"),
    ):
        archive.writestr("a.npy", member(np.zeros(3)))
        archive.writestr("a.npy", member(np.ones(3)))
    assert "'a.npy' twice" in refusal(tmp_path / "a.npz")


def test_an_encrypted_or_unknown_compression_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.zeros(3))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    entry = content.index(b"PK\x01\x02")  # of the directory at the end
    for offset, value, words in ((8, 1, "encrypted"), (10, 99, "compression")):
        changed = bytearray(content)
        changed[entry + offset] = changed[offset - 2] = value
        (tmp_path / "b.npz").write_bytes(changed)
        assert words in refusal(tmp_path / "b.npz")


def test_a_bomb_is_refused_and_what_merely_packs_well_is_not(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(2**22, np.uint8))
    assert npz.read(tmp_path / "a.npz", ["a"])["a"].shape == (2**22,)
    monkeypatch.setattr(npz, "MAX_UNPACKED_BYTES", 2**20)
    assert "more than 200 times its size" in refusal(tmp_path / "a.npz")


def test_what_is_no_file_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    for name in ("pipe.npz", "missing.npz", "x" * 5000):
        assert "is no file" in refusal(tmp_path / name)


@pytest.mark.parametrize(
    "names", [np.array([b"ant", b"\xff\xfe"]), np.array([0x110000, 97], "<u4").view("<U1")]
)
def test_class_names_that_are_no_text_are_refused(tmp_path, names):
    arrays = {f"{split}_images": np.zeros((2, 4, 4, 3), np.uint8) for split in ("train", "test")}
    arrays |= {f"{split}_labels": np.arange(2) for split in ("train", "test")}
    np.savez(tmp_path / "a.npz", class_names=names, **arrays)
    config = config_lib.default()
    config.update(source="arrays", data_dir=str(tmp_path / "a.npz"), image_size=4)
    with pytest.raises(UserError, match="class_names.* not text"):
        load_lib.load_splits(config)
