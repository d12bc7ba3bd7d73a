"""`hsproto predict` names the classes of all images that it can read, and the others."""

import csv
import functools
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from hsproto import inference, predict
from hsproto.errors import UserError
from hsproto.runs import progress


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for i, path in enumerate(paths):
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8), np.uint8)
        Image.fromarray(pixels).save(path)
    return list(map(str, paths))


def predicted(run, files, capsys):
    status = predict.main([f"--workdir={run}", *files])
    printed = capsys.readouterr()
    return status, printed.out.splitlines(), printed.err.splitlines()


def test_batches_change_nothing_but_the_memory(digits_run, files, capsys, monkeypatch):
    status, lines, errors = predicted(digits_run, files, capsys)
    assert status == 0 and len(lines) == 5 and not errors
    monkeypatch.setattr(inference, "BATCH_SIZE", 2)
    assert predicted(digits_run, files, capsys) == (0, lines, [])


def test_what_cannot_be_read_is_named_and_passed_over(digits_run, files, tmp_path, capsys):
    (tmp_path / "text.png").write_text("no image")
    bad = [str(tmp_path / "text.png"), str(tmp_path / "missing.png")]
    _, lines, _ = predicted(digits_run, files[:3], capsys)
    status, found, errors = predicted(digits_run, [bad[0], *files[:2], bad[1], files[2]], capsys)
    assert status == 2 and found == lines
    assert errors[0].startswith(f"hsproto: unreadable image {bad[0]}")
    assert errors[1] == f"hsproto: no such file: {bad[1]}"
    assert errors[2] == "hsproto: 2 of 5 images could not be read"
    assert predicted(digits_run, bad, capsys)[:2] == (2, [])


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_stands_for_the_images_below_it(digits_run, files, tmp_path, capsys):
    deep = tmp_path / "photos" / "a" / "b"
    deep.mkdir(parents=True)
    for name in files:
        shutil.copy(name, deep)
    (deep / "notes.txt").write_text("no image")
    _, lines, _ = predicted(digits_run, files, capsys)
    found = predicted(digits_run, [str(tmp_path / "photos")], capsys)
    assert found == (0, [line.replace(str(tmp_path), str(deep)) for line in lines], [])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no images"):
        predict.main([f"--workdir={digits_run}", str(tmp_path / "empty")])


def test_a_table_has_a_row_per_image(digits_run, files, tmp_path, capsys):
    out = tmp_path / "found.csv"
    options = [f"--csv={out}", "--top=3", "--reject=0.9", str(tmp_path / "missing.png")]
    assert predict.main([f"--workdir={digits_run}", *options, *files]) == 2
    assert not capsys.readouterr().out and not list(tmp_path.glob("*.tmp"))
    rows = table(out)
    assert list(rows[0])[:4] == ["path", "class", "cosine", "rejected"]
    assert list(rows[0])[4:] == ["class_2", "cosine_2", "class_3", "cosine_3"]
    predictions = inference.load(digits_run).predict(files, reject=0.9)
    assert [row["path"] for row in rows] == files
    assert [row["class"] for row in rows] == predictions.names
    assert [row["rejected"] == "true" for row in rows] == predictions.rejected.tolist()
    best = predictions.cosines.max(axis=1)
    np.testing.assert_allclose([float(row["cosine"]) for row in rows], best, atol=1e-5)
    before = pathlib.Path(files[0]).read_bytes()
    with pytest.raises(UserError, match="is one of the images"):
        predict.main([f"--workdir={digits_run}", f"--csv={files[0]}", *files])
    assert pathlib.Path(files[0]).read_bytes() == before
    with pytest.raises(UserError, match="--csv=.*none/found.csv cannot be written"):
        predict.main([f"--workdir={digits_run}", f"--csv={tmp_path}/none/found.csv", *files])
    for wrong in ("2", "nan", "x"):
        with pytest.raises(UserError, match="is no cosine"):
            predict.main([f"--workdir={digits_run}", f"--reject={wrong}", *files])


def test_what_is_below_the_cosine_is_marked(digits_run, files, capsys):
    _, lines, _ = predicted(digits_run, files, capsys)
    assert predicted(digits_run, ["--reject=1", *files], capsys)[1] == [
        f"{line}  rejected" for line in lines
    ]
    assert predicted(digits_run, ["--reject=-1", *files], capsys)[1] == lines


def test_many_files_are_counted_while_they_are_read(digits_run, files, capsys, monkeypatch):
    monkeypatch.setattr(inference, "BATCH_SIZE", 2)
    every = functools.partial(progress.ItemProgress, seconds_between=0)
    monkeypatch.setattr(predict, "ItemProgress", every)
    errors = predicted(digits_run, files, capsys)[2]
    assert [line.split("  ")[0] for line in errors] == ["2/5 images", "4/5 images", "5/5 images"]
