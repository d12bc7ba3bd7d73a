"""Measuring the features of any network: the same numbers, block by block, and what is refused."""

import contextlib
import io
import json
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest

from hsproto import cli, geometry, measure
from hsproto.data import features as feature_files
from hsproto.data.features import read_features
from hsproto.errors import UserError
from hsproto.evaluation import blockwise
from hsproto.evaluation import measure as measure_lib

K, D, N = 5, 12, 300


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(N) % K)
    weights = rng.normal(size=(K, D)).astype(np.float32)
    features = (weights[labels] + 0.5 * rng.normal(size=(N, D))).astype(np.float32)
    return {"features": features, "labels": labels, "prototypes": weights}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(feature_files, "BLOCK_BYTES", 4 * D * 128)
    monkeypatch.setattr(blockwise, "SPECTRA_BYTES", 8 * D * D * 2)


def saved(tmp_path, **arrays):
    path = tmp_path / "network.npz"
    np.savez(path, **arrays)
    return str(path)


def read(path):
    with contextlib.ExitStack() as files:
        found = read_features([path], files)
        return found, found.train.read(0, len(found.train))


@pytest.mark.parametrize("noise, scale", [(1.0, 1.0), (0.01, 1e6)])
def test_blocks_measure_what_all_rows_at_once_do(arrays, noise, scale, tmp_path):
    rows = arrays["prototypes"][arrays["labels"]]
    rows = scale * (rows + noise * (arrays["features"] - rows))
    bias = np.linspace(0, 1, K, dtype=np.float32)
    path = saved(tmp_path, **arrays | {"features": rows, "bias": bias})
    expected = geometry.neural_collapse(
        rows, arrays["labels"], arrays["prototypes"], num_classes=K, bias=bias
    )
    measured = measure_lib.measure([path]).train.measures
    for key, value in expected.items():
        np.testing.assert_allclose(measured[key], value, rtol=1e-3, atol=1e-6, err_msg=key)


def test_classes_of_few_rows_and_of_none_are_measured_alike(tmp_path):
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1, 3, 4], [1, 2, 5, 200])
    features = rng.normal(size=(len(labels), D)).astype(np.float32)
    expected = geometry.neural_collapse(features, labels, num_classes=5)
    given = {"features": features, "labels": labels}
    report = measure_lib.measure([saved(tmp_path, **given, class_names=list("abcde"))])
    for key, value in expected.items():
        measured = report.train.measures[key]
        np.testing.assert_allclose(measured, value, rtol=1e-3, atol=1e-6, err_msg=key)
    assert report.notes == ["1 of 5 classes have no row of features, e.g. 2"]
    assert report.optimum["erank_inter"] == 3, "of the four classes that are measured"
    # Without names the classes are those of the rows.
    alone = measure_lib.measure([saved(tmp_path, **given)])
    for key, value in report.train.measures.items():
        np.testing.assert_allclose(alone.train.measures[key], value, rtol=1e-5, atol=1e-6)
    assert alone.class_names == ("0", "1", "3", "4") and alone.optimum == report.optimum
    assert alone.notes == [
        "labels are 4 numbers in 0..4: taken as 0..3, classes named by their number"
    ]


def test_numbers_with_gaps_are_as_many_classes_as_there_are(arrays, tmp_path):
    labels = 100 * arrays["labels"].astype(np.int64) + 2**40
    path = saved(tmp_path, features=arrays["features"], labels=labels)
    found, _ = read(path)
    np.testing.assert_array_equal(found.train.labels, arrays["labels"])
    assert found.class_names[4] == str(2**40 + 400) and "5 numbers in" in found.notes[0]


def test_a_class_of_the_test_set_alone_is_refused_or_told(arrays, tmp_path):
    test = {"test_features": arrays["features"][:3], "test_labels": [0, 7, 7]}
    given = {"features": arrays["features"], "labels": arrays["labels"]}
    with pytest.raises(UserError, match="test_labels: 2 of 3 are not among the classes of labels"):
        read(saved(tmp_path, **given, **test))
    found, _ = read(saved(tmp_path, **given, **test, class_names=list("abcdefgh")))
    note = "3 of 8 classes have no row of features, e.g. 5; 2 test rows are of them"
    assert found.notes == [note]


def test_a_simplex_is_called_collapsed(tmp_path):
    labels = np.arange(40) % 4
    path = saved(tmp_path, features=np.eye(4, dtype=np.float32)[labels], labels=labels)
    assert measure_lib.verdict(measure_lib.measure([path]))[0] == (
        "The features are collapsed: class means have 100 % of a simplex's rank and cosines that "
        "are off its by 0.00; spread within classes 0 times that between."
    )


def test_what_cannot_be_told_is_not_called_collapsed(tmp_path):
    random = np.random.default_rng(0)
    directions = random.normal(size=(10, 64)).astype(np.float32)
    labels = np.arange(200) % 10
    cases = {
        "Every class has a single row": (directions, np.arange(10)),
        "All rows are the same": (np.ones((200, 4), np.float32), labels),
        # Random directions have nearly the rank of a simplex, but not its angles.
        "The features are close to collapse": (directions[labels], labels),
    }
    for start, (features, own) in cases.items():
        path = saved(tmp_path, features=features, labels=own)
        assert measure_lib.verdict(measure_lib.measure([path]))[0].startswith(start)


@pytest.mark.parametrize("classes", [1, 2])
def test_few_classes_have_a_page_too(classes, tmp_path, capsys):
    labels = np.arange(20) % classes
    rows = np.random.default_rng(0).normal(size=(20, 3))
    path = saved(tmp_path, features=rows, labels=labels)
    assert measure.main([path, f"--out={tmp_path / 'out'}"]) == 0
    assert ("a single class" in capsys.readouterr().out) == (classes == 1)


def test_the_page_shows_the_table_and_escapes_names(arrays, tmp_path, capsys):
    names = ["<b>", "two", "$3$", "four", "x" * 60]
    path = saved(
        tmp_path, **arrays, class_names=names,
        test_features=arrays["features"][:50], test_labels=arrays["labels"][:50],
    )  # fmt: skip
    assert measure.main([path, f"--out={tmp_path / 'out'}"]) == 0
    assert "of the test rows" in capsys.readouterr().out
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count("data:image/png") == 3 and "<td>erank" not in page and "nc1" in page
    content = json.loads((tmp_path / "out" / "measure.json").read_text())
    assert content["rows"] == {"train": N, "test": 50} and content["class_names"] == names


KINDS = {
    "float64": lambda x: x.astype(np.float64),
    "float16": lambda x: x.astype(np.float16),
    "bfloat16": lambda x: np.asarray(jnp.asarray(x, jnp.bfloat16)),
    "by_column": np.asfortranarray,
    "pooled": lambda x: x[:, :, None, None],
    "int8": lambda x: (10 * x).astype(np.int8),
}


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_features_of_any_type_and_order_are_read(kind, compressed, arrays, tmp_path):
    converted = KINDS[kind](arrays["features"])
    path = tmp_path / "network.npz"
    (np.savez_compressed if compressed else np.savez)(
        path, features=converted, labels=arrays["labels"]
    )
    with contextlib.ExitStack() as files:
        rows = read_features([path], files).train
        parts = [rows.read(i, min(i + 70, N)) for i in range(0, N, 70)]
    np.testing.assert_array_equal(np.concatenate(parts), converted.astype(np.float32).reshape(N, D))


def test_parts_in_a_folder_are_joined_in_the_order_of_their_numbers(arrays, tmp_path):
    for number, rows in ((2, slice(0, 100)), (10, slice(100, N))):
        np.save(tmp_path / f"features_{number}.npy", arrays["features"][rows])
        np.save(tmp_path / f"labels-{number}.npy", arrays["labels"][rows])
    found, rows = read(tmp_path)
    np.testing.assert_array_equal(rows, arrays["features"])
    np.testing.assert_array_equal(found.train.labels, arrays["labels"])


@pytest.mark.parametrize(
    "change, note",
    [
        (lambda y: y + 1, "labels are 1..5: taken as 0..4"),
        (lambda y: y.astype(np.float32), "labels are float32, all of them whole"),
        (lambda y: np.array(list("abcde"))[y], "labels are text: 5 classes"),
        (lambda y: np.array(list("abcde"))[y].astype("S"), "labels are text: 5 classes"),
        (lambda y: y[:, None].astype(np.uint64), None),
    ],
)
def test_labels_that_are_plain_are_taken_and_told(change, note, arrays, tmp_path):
    path = saved(tmp_path, features=arrays["features"], labels=change(arrays["labels"]))
    found, _ = read(path)
    np.testing.assert_array_equal(found.train.labels, arrays["labels"])
    assert (note is None and not found.notes) or note in "\n".join(found.notes)


def changed(array, row, value):
    array = array.copy()
    array[row] = value
    return array


REFUSED = {
    "nan": (lambda a: {"features": changed(a["features"], [3, 7], np.nan)},
            "2 of 300 rows hold values that are not finite in float32, the first is row 3"),
    "too_large": (lambda a: {"features": changed(a["features"].astype(float), 4, 1e300)},
                  "1 of 300 rows hold values that are not finite in float32"),
    "outside": (lambda a: {"labels": changed(a["labels"], 9, 5)},
                "1 of 300 are not in 0..4 (5 prototypes), e.g. 5 in row 9"),
    "negative": (lambda a: {"labels": changed(a["labels"], 9, -1)},
                 "1 of 300 are below 0; leave those rows out, e.g. -1 in row 9"),
    "not_whole": (lambda a: {"labels": changed(a["labels"].astype(float), 0, 1.5)},
                  "1 of 300 are not whole, e.g. 1.5 in row 0"),
    "text": (lambda a: {"labels": a["labels"].astype(str)}, "give class_names too"),
    "unknown_name": (lambda a: {"labels": a["labels"].astype(str), "class_names": list("01234"),
                                "test_features": a["features"][:1], "test_labels": ["7"]},
                     "1 of 1 are not among the class names, e.g. 7 in row 0"),
    "length": (lambda a: {"labels": a["labels"][:-1]}, "has 299 entries"),
    "transposed": (lambda a: {"prototypes": a["prototypes"].T}, "got (12, 5): transpose them"),
    "maps": (lambda a: {"features": a["features"].reshape(N, 3, 2, 2)}, "average over"),
    "complex": (lambda a: {"features": a["features"] * 1j}, "must be numbers; got complex"),
    "empty": (lambda a: {"features": a["features"][:0], "labels": a["labels"][:0]}, "is empty"),
    "bias": (lambda a: {"bias": np.zeros(4)}, "must be 5 floats"),
    "names": (lambda a: {"class_names": ["a"] * 5}, "has 'a' 5 times"),
    "columns": (lambda a: {"test_features": a["features"][:, 1:], "test_labels": a["labels"]},
                "has 11 columns"),
    "no_test_labels": (lambda a: {"test_features": a["features"]}, "without test_labels"),
    "objects": (lambda a: {"labels": a["labels"].astype(object)}, "Python objects"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused_with_its_number(case, arrays, tmp_path):
    change, message = REFUSED[case]
    path = saved(tmp_path, **arrays | change(arrays))
    with pytest.raises(UserError) as refused:
        measure_lib.measure([path])
    assert message in str(refused.value) and "\n" not in str(refused.value)


def header(shape, kind="<f4", size=64):
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(size)


def zipped(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)


HOSTILE = {
    "a_class_per_row": lambda p: np.savez(
        p, features=np.ones((30_000, 2), "f4"), labels=np.arange(30_000, dtype="i4")
    ),
    "lying_header": lambda p: zipped(p, features=header("(10**12, 4)"), labels=header("(4,)")),
    "large_shape": lambda p: zipped(p, features=header("(1000000000000, 4)")),
    "negative_shape": lambda p: zipped(p, features=header("(-4, -4)")),
    "pickle": lambda p: np.savez(p, features=np.array([print], object), labels=[0]),
    "object_header": lambda p: zipped(p, features=header("(2,)", "|O")),
    "bomb": lambda p: zipped(p, features=header("(2500000,)", "<f4", 10**7)),
    "text": lambda p: p.write_text("features"),
    "cut": lambda p: p.write_bytes(_npz()[:-40]),
    "damaged": lambda p: p.write_bytes(_npz().replace(bytes(range(9)), bytes(9))),
    "other_names": lambda p: np.savez(p, x=np.ones((2, 3)), y=[0, 1]),
    "folder": lambda p: p.mkdir(),
}


def _npz():
    content = io.BytesIO()
    np.savez(content, features=np.arange(200, dtype=np.uint8).reshape(50, 4), labels=[0] * 50)
    return content.getvalue()


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_end_in_one_line(case, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("hsproto.npz.MAX_UNPACKED_BYTES", 10**6)
    HOSTILE[case](tmp_path / "x.npz")
    with pytest.raises(SystemExit) as ended:
        cli.run(measure.main, [str(tmp_path / "x.npz")])
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
