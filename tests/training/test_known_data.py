"""A run goes on, and is measured, on the data that it was trained on, and on no others."""

import hashlib
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from small_runs import tiny_config

from hsproto import evaluate, train
from hsproto.errors import UserError
from hsproto.evaluation import calibration, ood, probe, retrieval, robustness, transfer
from hsproto.training import known_data
from hsproto.training.checkpoint import Checkpoints

NAMES = ("ant", "bee", "cat")


def write_images(root):
    """Uncompressed images, whose files are of one size."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 3)):
        for name in NAMES:
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(256, size=(8, 8), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.bmp")


def config_of(data_dir):
    return tiny_config(
        argument=f"source=folder,dataset=tiny,data_dir={data_dir},batch_size=8,eval_batch_size=8,"
        "epochs=2,eval_every_epochs=1,checkpoint_every_epochs=1,snapshot_points=0,width=4"
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with `data` and `run`, which is finished."""
    root = tmp_path_factory.mktemp("known_data")
    write_images(root / "data")
    train.train(config_of(root / "data"), root / "run")
    return root


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of both, whose data are elsewhere: that is no difference."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return tmp_path


def half_done(run):
    """Makes a finished run one that was killed after its first epoch."""
    (run / "summary.json").unlink()
    shutil.rmtree(run / "checkpoints" / "6")
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["3"]


def resume(root, data):
    half_done(root / "run")
    return lambda: train.train(config_of(data), root / "run")


def restart(root, data):
    return lambda: train.train(config_of(data), root / "run")


def measure(root, data):
    return lambda: evaluate.main([f"--workdir={root / 'run'}", f"--data_dir={data}"])


def remove(data):
    (data / "train/bee/3.bmp").unlink()
    return r"class 'bee' has 7 training images, had 8\)"


def add(data):
    shutil.copy(data / "train/bee/3.bmp", data / "test/bee/9.bmp")
    return r"class 'bee' has 4 test images, had 3\)"


def add_class(data):
    for split in ("train", "test"):
        shutil.copytree(data / split / "cat", data / split / "dog")
    return r"class 'dog' is new\)"


def rename(data):
    for split in ("train", "test"):
        (data / split / "cat").rename(data / split / "kitty")
    return r"class 'cat' \(3rd\) is now 'kitty'\)"


def relabel(data):
    (data / "train/ant/0.bmp").rename(data / "train/cat/x.bmp")
    return "'ant' has 7 training images, had 8; class 'cat' has 9 training images, had 8"


def swap(data):
    one, two = data / "train/ant/0.bmp", data / "train/cat/0.bmp"
    contents = one.read_bytes(), two.read_bytes()
    one.write_bytes(contents[1])
    two.write_bytes(contents[0])
    return "training images are as many, but others"


def files_of(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("change", [remove, add, add_class, rename, relabel, swap])
@pytest.mark.parametrize("start", [resume, restart, measure])
def test_other_data_are_refused_before_anything_is_written(copied, start, change):
    begin = start(copied, copied / "data")
    expected = change(copied / "data")
    before = files_of(copied / "run")
    with pytest.raises(UserError, match=expected) as refused:
        begin()
    assert "restore the data, or" in str(refused.value) and "\n" not in str(refused.value)
    assert files_of(copied / "run") == before


def test_a_moved_folder_with_the_same_data_is_the_same(copied, trained, capsys):
    moved = shutil.move(copied / "data", copied / "elsewhere")
    assert restart(copied, moved)()["step"] == 6
    assert measure(copied, moved)() == 0
    assert resume(copied, moved)()["step"] == 6
    stored = [json.loads((root / "run/config.json").read_text()) for root in (copied, trained)]
    places = [each.pop("data_dir") for each in stored]
    assert places == [str(moved), str(trained / "data")]
    assert stored[0] == stored[1]
    summaries = [json.loads((root / "run/summary.json").read_text()) for root in (copied, trained)]
    assert summaries[0]["test"] == summaries[1]["test"]


def test_a_place_without_the_data_says_how_to_give_another(copied):
    shutil.rmtree(copied / "data")
    with pytest.raises(UserError, match="does not exist.*--data_dir=DIR"):
        measure(copied, copied / "data")()


COMMANDS = {
    probe: [],
    robustness: ["--corrupted=nowhere"],
    ood: ["--other=OTHER", "--k=5"],
    calibration: [],
    retrieval: [],
}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c.__name__.rpartition(".")[2])
def test_every_command_that_reads_the_data_compares_them(copied, command):
    expected = rename(copied / "data")
    more = [flag.replace("OTHER", str(copied / "data")) for flag in COMMANDS[command]]
    before = files_of(copied / "run")
    with pytest.raises(UserError, match=expected):
        command.main([f"--workdir={copied / 'run'}", f"--data_dir={copied / 'data'}", *more])
    assert files_of(copied / "run") == before


def test_a_checkpoint_that_was_copied_away_still_knows(copied):
    away = copied / "away"
    shutil.copytree(copied / "run/checkpoints/3", away / "checkpoints/3")
    shutil.copy(copied / "run/config.json", away)
    expected = remove(copied / "data")
    for begin in (
        lambda: evaluate.main([f"--workdir={away}", f"--data_dir={copied / 'data'}"]),
        lambda: train.train(config_of(copied / "data"), away),
    ):
        with pytest.raises(UserError, match=expected):
            begin()


def forget(run):
    """Makes a run one of a version that kept nothing of its data."""
    (run / "data.json").unlink()
    for path in (run / "checkpoints").glob("*/_CHECKPOINT_METADATA"):
        stored = json.loads(path.read_text()) | {"custom_metadata": None}
        path.write_text(json.dumps(stored))


def test_an_earlier_run_goes_on_and_then_knows_its_data(copied, trained):
    forget(copied / "run")
    assert measure(copied, copied / "data")() == 0
    resume(copied, copied / "data")()
    assert (copied / "run/data.json").read_text() == (trained / "run/data.json").read_text()
    with Checkpoints(copied / "run") as checkpoints:
        assert checkpoints.metadata(3) == {} and "data" in checkpoints.metadata()


def test_an_earlier_run_without_a_checkpoint_begins(copied):
    workdir = copied / "begun"
    workdir.mkdir()
    shutil.copy(copied / "run/config.json", workdir)
    for folder in (None, workdir / "checkpoints"):
        if folder:
            folder.mkdir()
        known_data.check(workdir, {}, "")
    assert sorted(path.name for path in workdir.iterdir()) == ["checkpoints", "config.json"]


@pytest.mark.parametrize("start", [resume, restart])
def test_an_earlier_run_at_least_knows_how_many_images_it_had(copied, start):
    forget(copied / "run")
    begin = start(copied, copied / "data")
    remove(copied / "data")
    before = files_of(copied / "run")
    with pytest.raises(UserError, match="num_examples=24 there, 23 here"):
        begin()
    assert files_of(copied / "run") == before


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"class_names": ["a"], "train": 1, "test": 2}', '{"class_names": 3']
)
def test_a_damaged_data_json_is_told(copied, text):
    (copied / "run/data.json").write_text(text)
    with pytest.raises(UserError, match="data.json is damaged"):
        restart(copied, copied / "data")()


def test_a_data_json_without_a_run_does_not_claim_the_workdir(copied, tmp_path):
    (tmp_path / "new").mkdir()
    shutil.copy(copied / "run/data.json", tmp_path / "new")
    remove(copied / "data")
    train.train(config_of(copied / "data"), tmp_path / "new")
    assert json.loads((tmp_path / "new/data.json").read_text())["train"]["images"] == 23


@pytest.mark.parametrize("place", ["gs://bucket/images", "~nobody_of_this_name/images"])
@pytest.mark.parametrize(
    "command, flags",
    [
        (evaluate, ["--data_dir=PLACE"]),
        (transfer, ["--data_dir=PLACE"]),
        (ood, ["--other", "PLACE"]),
        (robustness, ["--corrupted=PLACE"]),
    ],
)
def test_places_that_are_none_here_are_refused(tmp_path, command, flags, place):
    flags = [flag.replace("PLACE", place) for flag in flags]
    with pytest.raises(UserError, match="a remote location|an unknown user"):
        command.main([f"--workdir={tmp_path}", *flags])


def test_a_home_of_nobody_in_a_config_is_refused(tmp_path):
    with pytest.raises(UserError, match="nobody_of_this_name/x names the home of an unknown"):
        train.train(config_of("~nobody_of_this_name/x"), tmp_path)
