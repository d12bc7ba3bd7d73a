"""The studies of the paper's tables run each cell once, at the paper's scale and on a laptop."""

import importlib.util
import re
import sys

import numpy as np
import pytest
from launchers import launch, stand_in
from small_runs import ROOT

from hsproto import cli
from hsproto.cli import COMMANDS
from hsproto.models import architecture
from hsproto.runs import owner

sys.path.insert(0, str(ROOT / "launch"))
SPEC = importlib.util.spec_from_file_location("paper", ROOT / "launch/paper.py")
paper = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(paper)


@pytest.mark.parametrize("profile", ["paper", "small"])
@pytest.mark.parametrize("name", paper.STUDIES)
def test_every_cell_of_every_study_is_a_config_that_can_run(name, profile):
    found = paper.cells(paper.STUDIES[name], profile, 1, {})
    assert found
    for recipe, cell in found.values():
        items = ",".join(map("=".join, cell.items()))
        config = cli.load_config(f"{ROOT}/configs/{recipe}.py:{items}")
        few = config.dataset in ("cifar10", "fashion_mnist", "digits")
        architecture.validate(config, 10 if few else 100)
        assert config.seed == 0


@pytest.mark.parametrize("profile", ["paper", "small"])
def test_studies_share_the_cells_that_they_have_in_common(profile):
    names = {
        study: set(paper.cells(paper.STUDIES[study], profile, 3, {})) for study in paper.STUDIES
    }
    assert names["factorial"] <= names["accuracy"]
    assert names["transfer"] <= names["accuracy"] and names["robustness"] <= names["accuracy"]
    pooled = {name for name in names["embedding"] if "signed" not in name}
    assert pooled <= names["accuracy"] and len(pooled) == 2 * 6 * 3
    # The batch size and temperature of the recipe are its own ones in a grid too.
    assert names["temperature"] & names["accuracy"]


def test_two_commands_do_not_share_an_out_at_a_time(tmp_path):
    python = stand_in(tmp_path, "python", "")
    out = tmp_path / "out"
    flags = ("accuracy", "--profile=small", f"--out={out}", "--data_dir=d")
    out.mkdir()
    with owner.owned(str(out)):
        done, calls = launch(tmp_path, "paper.py", *flags, PYTHON=str(python))
    assert done.returncode == 2 and not calls
    assert done.stderr.startswith(f"hsproto: --out={out} is in use by process")
    assert len(done.stderr.splitlines()) == 1


def test_a_study_trains_then_measures_and_repeats_nothing(tmp_path):
    body = """
module=$2; [ "$module" = hsproto ] && module="hsproto $3"
for flag in "$@"; do case "$flag" in
--workdir=*) dir=${flag#*=} ;; --out=*) out=${flag#*=} ;; esac; done
case $module in
hsproto.train) case "$dir" in *ntce,seed=1) exit 1 ;; esac
  echo '{"step": 9, "test": {"accuracy": 0.5}}' > "$dir/summary.json" ;;
"hsproto corruptions") for i in $(seq 16); do echo > "$out/$i.npy"; done
  echo '{"images": 7}' > "$out/generated.json" ;;
"hsproto ood") exit 1 ;;
esac"""
    python = stand_in(tmp_path, "python", body)
    out = tmp_path / "out"
    flags = ("robustness", "--profile=small", f"--out={out}", "--data_dir=d e", "--seeds=2")
    flags += ("--jobs=2", "--where", "dataset=cifar10", "--where", "loss=nonl,ntce")
    done, calls = launch(tmp_path, "paper.py", *flags, PYTHON=str(python))
    trained = [call for call in calls if "hsproto.train" in call]
    assert len(trained) == 4 and done.returncode == 1, done.stderr
    assert any("loss=nonl,seed=1,data_dir=d e" in call for call in trained)
    assert sum("hsproto corruptions" in call for call in calls) == 1
    measured = [call for call in calls if "--workdir" in call and "hsproto.train" not in call]
    assert len(measured) == 3 * 4, "robustness, calibration, retrieval and ood of what is trained"
    assert any("--other d e/cifar100.npz" in call for call in measured)
    # Only what failed is done again.
    before = len(calls)
    done, calls = launch(tmp_path, "paper.py", *flags, PYTHON=str(python))
    again = calls[before:]
    assert len(again) == 1 + 3 and sum("hsproto ood" in call for call in again) == 3
    # What was measured of an earlier step is measured anew; data may move.
    summary = out / "small,dataset=cifar10,loss=nonl,seed=0" / "summary.json"
    summary.write_text('{"step": 10, "test": {"accuracy": 0.5}}')
    moved = [flag.replace("d e", "elsewhere") for flag in flags]
    done, calls = launch(tmp_path, "paper.py", *moved, PYTHON=str(python))
    assert sum("hsproto retrieval" in call for call in calls) == 3 + 1
    done, _ = launch(tmp_path, "paper.py", *flags, "--set=epochs=3", PYTHON=str(python))
    assert done.returncode == 2 and "another --config" in done.stderr


@pytest.mark.parametrize("profile", ["paper", "small"])
def test_a_dry_run_of_every_study_names_commands_that_exist(profile, tmp_path):
    flags = (f"--profile={profile}", f"--out={tmp_path}", "--data_dir=D", "--seeds=1")
    done, _ = launch(tmp_path, "paper.py", *paper.STUDIES, *flags, "--dry-run")
    assert done.returncode == 0, done.stderr
    modules = set(re.findall(r"-m hsproto[. ](\w+)", done.stdout))
    assert modules <= set(COMMANDS)
    assert {"train", "probe", "transfer", "robustness", "retrieval"} <= modules
    assert not re.search(r"[{}]", done.stdout)


def test_what_a_study_needs_is_asked_for(tmp_path):
    for flags, told in (
        (["nothing", "--out=x"], "must be one of: accuracy"),
        (["accuracy"], "--out is needed"),
        (["accuracy", "--profile=small", "--out=x"], "needs --data_dir"),
        (["accuracy", "--out=x", "--where", "datset=cifar10"], "the axes of accuracy are dataset"),
        (["accuracy", "--out=x", "--where", "loss=svm"], "leaves no cell"),
        (["accuracy", "--out=x", "--set", "loss=nonl"], "is an axis of accuracy"),
    ):
        done, calls = launch(tmp_path, "paper.py", *flags)
        assert done.returncode == 2 and told in done.stderr and not calls
    done, _ = launch(tmp_path, "paper.py", "--list")
    assert all(name in done.stdout for name in paper.STUDIES)


def test_small_sets_hold_means_of_pixels_and_the_first_images_of_each_class(tmp_path):
    random = np.random.default_rng(0)
    arrays = {
        "train_images": random.integers(0, 256, (40, 8, 8), np.uint8),
        "train_labels": np.arange(40) % 4,
        "test_images": random.integers(0, 256, (6, 8, 8), np.uint8),
        "test_labels": np.arange(6) % 4,
        "class_names": np.array(list("abcd")),
    }
    np.savez(tmp_path / "mine.npz", **arrays)
    flags = (f"--from={tmp_path}", f"--out={tmp_path / 'small'}", "--train_images=8")
    done, _ = launch(tmp_path, "small_data.py", *flags, "mine")
    assert done.returncode == 0, done.stderr
    with (
        np.load(tmp_path / "small/mine.npz") as small,
        np.load(tmp_path / "small/whole/mine.npz") as whole,
    ):
        assert small["train_images"].shape == (8, 4, 4, 1)
        assert whole["train_images"].shape == (40, 4, 4, 1)
        np.testing.assert_array_equal(small["train_labels"], np.arange(8) % 4)
        np.testing.assert_array_equal(small["test_images"], whole["test_images"])
        corner = arrays["train_images"][3, :2, :2].mean()
        assert abs(float(small["train_images"][3, 0, 0, 0]) - corner) <= 0.5
    done, _ = launch(tmp_path, "small_data.py", *flags)
    assert done.returncode == 2 and "does not hold any of cifar10" in done.stderr
    for wrong, told in ((f"--out={tmp_path}", "another folder"), ("--train_images=3", "per class")):
        done, _ = launch(tmp_path, "small_data.py", *flags, wrong, "mine")
        assert done.returncode == 2 and told in done.stderr
