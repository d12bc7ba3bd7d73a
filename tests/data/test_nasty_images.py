"""A run on images as people have them, from training to the report: nothing ends on a name."""

import json
import os
import shutil
import subprocess
import sys

import nasty_images
import numpy as np
import pytest
from small_runs import tiny_config

from hsproto import cli, predict, train
from hsproto.data import contact_sheet, listing
from hsproto.data import load as load_lib
from hsproto.errors import UserError
from hsproto.reporting.figures import runs as run_figures
from hsproto.runs import summary as summary_lib

ODD = "$x$ ]]>\n\udcff"  # of the data set and its folder


def config_of(root):
    config = tiny_config(
        argument="epochs=1,warmup_epochs=0,channels=3,batch_size=16,eval_batch_size=40"
    )
    config.update(source="folder", dataset=f"set{ODD}", data_dir=str(root))
    config.update(mean=(0.5,) * 3, std=(0.5,) * 3)
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(the folder of images, the runs' folder, what training printed), of one run."""
    base = tmp_path_factory.mktemp("nasty")
    root = nasty_images.write(base / f"images {ODD}")
    train.train(config_of(root), str(base / "runs" / "run $x$ ]]>\n"))
    return root, base / "runs"


def workdir(runs):
    return str(next(runs.iterdir()))


def test_every_picture_counts_and_no_hidden_file(trained):
    splits = load_lib.load_splits(config_of(trained[0]))
    assert splits.train.class_names == tuple(sorted(nasty_images.CLASSES))
    assert [len(split) for split in splits] == [36, 30]
    assert np.bincount(splits.test.labels, minlength=6).tolist().count(0) == 1


def test_what_is_said_of_the_files_is_one_line_each(trained, capsys):
    splits = load_lib.load_splits(config_of(trained[0]))
    for split in splits:
        split.check()
    said = capsys.readouterr().out
    assert len(said.splitlines()) == 4
    assert said.count("were skipped: 11 .txt") == 1
    assert said.count("has no image of 1 of 6 classes: plain") == 1
    assert said.count("6 files hold several frames or pages") == 1


def test_names_are_kept_as_they_are(trained):
    stored = summary_lib.read_prototypes(workdir(trained[1]))["class_names"].tolist()
    assert stored == sorted(nasty_images.CLASSES)
    assert summary_lib.read_summary(workdir(trained[1]))["config"]["dataset"] == f"set{ODD}"
    assert run_figures.has_figures(workdir(trained[1]))


def test_predict_prints_a_line_per_image_in_any_encoding(trained, capfdbinary):
    root, runs = trained
    files = listing.image_files(root / "valid")
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (
        open(number, "w", encoding="ascii", closefd=False) for number in (1, 2)
    )
    try:
        with pytest.raises(SystemExit) as ended:
            cli.run(predict.main, ["--workdir", workdir(runs), *files])
    finally:
        sys.stdout, sys.stderr = streams
    printed = capfdbinary.readouterr()
    assert ended.value.code == 0 and printed.err == b""
    assert len(printed.out.splitlines()) == len(files) and printed.out.isascii()


def test_an_error_is_one_line_whatever_the_name(trained, capfd):
    with pytest.raises(SystemExit) as ended:
        cli.run(predict.main, ["--workdir", f"{trained[0]}/new\nline", "x.png"])
    assert ended.value.code == 2 and len(capfd.readouterr().err.splitlines()) == 1


def test_a_workdir_that_checkpoints_cannot_have_is_refused_at_once(trained, tmp_path):
    with pytest.raises(UserError, match="workdir=.* is not UTF-8"):
        train.train(config_of(trained[0]), f"{tmp_path}/\udcff")
    assert not list(tmp_path.iterdir())


def test_a_contact_sheet_is_drawn(trained, tmp_path):
    contact_sheet.contact_sheet(config_of(trained[0]), tmp_path / "sheet.svg", rows=6, columns=2)
    assert (tmp_path / "sheet.svg").stat().st_size


def test_pictures_are_drawn_in_both_formats(trained, tmp_path):
    paths = run_figures.write_figures(workdir(trained[1]), str(tmp_path), svg=True)
    assert {os.path.splitext(path)[1] for path in paths} == {".png", ".svg"}
    assert len(paths) == 4 and all(map(os.path.getsize, paths))


@pytest.mark.slow
def test_a_report_is_written_where_nothing_but_ascii_is_known(trained, tmp_path):
    # Runs of two losses, for the pictures that compare them.
    runs = shutil.copytree(trained[1], tmp_path / "runs")
    other = shutil.copytree(workdir(runs), runs / "other")
    for name in ("config.json", "summary.json"):
        content = json.loads((other / name).read_text())
        content.get("config", content)["loss"] = "cross_entropy"
        (other / name).write_text(json.dumps(content))
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "hsproto", "report", runs, "--out", tmp_path / "out"],
        env=os.environ | ascii_only | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr.decode()
    page = (tmp_path / "out" / "index.html").read_text("utf-8")
    assert "emoji 🐜" in page or r"emoji \ud83d\udc1c" in page
    assert b"Traceback" not in done.stderr
