"""Every file of a workdir, damaged in hundreds of ways: one line names it, and no reader fails."""

import json
import os

import made_runs
import mutations
import numpy as np
import pytest

from hsproto.errors import UserError
from hsproto.metrics import LONG_TAIL, METRICS
from hsproto.reporting import convergence, grouping
from hsproto.reporting.figures import runs as run_figures
from hsproto.reporting.figures import style
from hsproto.reporting.page import page
from hsproto.reporting.tables import training as training_tables
from hsproto.runs import config_file, measurements
from hsproto.runs import run as run_lib
from hsproto.runs import summary as summary_lib

VALUES = {"accuracy": 0.5, "accuracy_many": 0.5, "nc1": 0.2, "erank_weights": 9.0}
MEASURED = {
    "probe": {
        "step": 100,
        "fp": {"test": {"accuracy": 0.5}, "train": VALUES, "seconds": 1.5, "passes": 1.0},
    },
    "transfer": {
        "datasets": {
            "dtd": {
                "protocol": {"step": 100, "metric": "accuracy"},
                "accuracy": 0.5,
                "accuracy_per_class": 0.5,
                "average_precision": None,
                "penalty": 1.0,
                "penalties": [1.0, 2.0],
                "train_images": 10,
                "test_images": 10,
                "converged": True,
            }
        }
    },
    "robustness": {
        "/data/c": {
            "step": 100,
            "layout": "folder",
            "generated": False,
            "errors": {"fog": [0.1, 0.2]},
            "clean_error": 0.1,
            "mean_error": 0.2,
            "counted": 1,
            "mce": 80.0,
        }
    },
    "ood": {"step": 100, "k": 5, "others": {"x.npz": {"knn": {"auroc": 0.9, "fpr95": 0.1}}}},
    "calibration": {
        "step": 100,
        "bins": 15,
        "fit_share": 0.2,
        "accuracy": 0.5,
        "fitted_temperature": 1.0,
        "before": {"ece": 0.1, "nll": 1.0},
        "after": {"ece": 0.1, "nll": 1.0},
    },
    "retrieval": {"step": 100, "labels": "own", "features": "classifier", "images": 9, "map@r": 1},
}


def write(folder, name="run", **config):
    """The workdir of a run with every file that a reader opens."""
    records = [
        {"step": step, "loss": 0.5} | {f"{s}/{k}": v for s in ("test", "train") for k, v in
                                       VALUES.items()}
        for step in (50, 100)
    ]  # fmt: skip
    workdir = made_runs.write(
        folder, name, test=VALUES, train=VALUES, records=records, **{"loss": "scl"} | config
    )
    path = workdir / "summary.json"
    per_class = {"train_images": [5] * 10, "test_accuracy": [0.5] * 9 + [None]}
    summary = json.loads(path.read_text()) | {"per_class": per_class, "devices": "1 x cpu"}
    summary |= {"versions": {"jax": "1"}, "images_per_second": 10.0, "finished": "2026-01-01"}
    path.write_text(json.dumps(summary))
    rows, names = np.eye(10, dtype=np.float32), [f"class {c}" for c in range(10)]
    np.savez(workdir / "prototypes.npz", prototypes=rows, class_means=rows, class_names=names)
    (workdir / "snapshots").mkdir()
    labels = np.arange(10, dtype=np.int32)
    np.savez_compressed(
        workdir / "snapshots/points.npz",
        rows=labels, labels=labels, images=np.zeros((10, 4, 4, 1), np.uint8), class_names=names,
    )  # fmt: skip
    np.savez(
        workdir / "snapshots/00000100.npz",
        features=rows, predicted=labels, classes=labels, prototypes=rows, means=rows,
    )  # fmt: skip
    for kind, content in MEASURED.items():
        made_runs.measure(workdir, kind, content)
    return workdir


def mutated(path):
    """(name, bytes) of a file with each damage."""
    content = path.read_bytes()
    yield from mutations.of_bytes(content, count=40 if path.suffix == ".npz" else 10)
    if path.suffix == ".json":
        for name, text in mutations.of_json(content):
            yield name, text.encode()
    if path.suffix == ".jsonl":
        first, *rest = content.splitlines(keepends=True)
        for name, text in mutations.of_json(first):
            yield name, b"".join([f"{text}\n".encode(), *rest])


def read_all(workdir):
    """Everything that reads a run by itself; either what it gives or a UserError of one line."""
    readers = [
        lambda: config_file.read(workdir),
        lambda: summary_lib.format_table(summary_lib.read_summary(workdir)),
        lambda: summary_lib.read_prototypes(workdir),
        lambda: convergence.format_table(convergence.analyze([str(workdir)])),
    ]
    readers += [lambda c=c: measurements.read(workdir, c) for c in measurements.COMMANDS]
    for reader in readers:
        try:
            reader()
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000


def report(folder):
    """All that a report shows of the runs in a folder, without a file."""
    runs, left_out = run_lib.read([str(folder)])
    assert all("\n" not in reason for reason in left_out.values())
    runs, _ = grouping.drop_duplicates(runs)
    training_tables.build(runs)
    data = page.collect(runs, LONG_TAIL | METRICS)
    page.values_csv(data), page.sphere_csv(data)
    return runs, left_out


@pytest.mark.slow
@pytest.mark.parametrize("file", ["summary.json", "metrics.jsonl"])
def test_no_number_ends_a_picture(tmp_path, file, monkeypatch):
    def draw(figure, paths):
        figure.set_layout_engine("none")  # takes most of the time
        figure.set_dpi(10)
        figure.canvas.draw()
        style.matplotlib()[0].close(figure)

    monkeypatch.setattr(style, "save", draw)
    write(tmp_path / "runs", "other", batch_size=256, temperature=0.2)
    path = write(tmp_path / "runs", imbalance_factor=0.1) / file
    (tmp_path / "out").mkdir()
    first, *rest = path.read_text().splitlines(keepends=file.endswith("l"))
    rest = rest if file.endswith("l") else []
    numbers = ("0", "-1", "1e99", "null")
    for name, text in mutations.of_json(first if rest else path.read_text(), numbers, share=4):
        if "/" not in name or "config" in name or "without" in name:
            continue
        path.write_text("".join([f"{text}\n", *rest]))
        runs, _ = run_lib.read([str(tmp_path / "runs")])
        try:
            run_figures.write_all(runs, tmp_path / "out")
            run_figures.write_figures(path.parent, tmp_path / "out")
        except UserError:
            pass
        except Exception as error:
            raise AssertionError(f"{file} with {name}") from error


FILES = ("config.json", "summary.json", "metrics.jsonl", "prototypes.npz", "snapshots/points.npz")
FILES += ("snapshots/00000100.npz", *(f"{name}.json" for name in MEASURED))


@pytest.mark.parametrize("file", FILES)
def test_no_damage_of_a_file_ends_a_reader(tmp_path, file):
    workdir = write(tmp_path / "runs")
    path, count = workdir / file, 0
    for name, content in mutated(path):
        path.write_bytes(content)
        try:
            read_all(workdir)
            report(tmp_path / "runs")
        except Exception as error:
            raise AssertionError(f"{file} with {name}") from error
        count += 1
    assert count >= 45


@pytest.mark.parametrize("file", [f for f in FILES if not f.startswith("snapshots")])
def test_a_file_that_cannot_be_opened_is_named(tmp_path, file):
    write(tmp_path, "whole", seed=1)
    path = write(tmp_path) / file
    path.unlink()
    path.mkdir()
    runs, left_out = report(tmp_path)
    assert [run.name for run in runs] == ["whole"]
    assert left_out["run"].startswith(f"{path} cannot be read (it is not a file)")
    path.rmdir()
    os.mkfifo(path)
    assert report(tmp_path)[1].keys() == {"run"}


def test_what_the_system_refuses_is_told(tmp_path, monkeypatch):
    workdir = write(tmp_path)

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    (reason,) = run_lib.read([str(workdir)]).left_out.values()
    assert reason == f"{workdir}/config.json cannot be read (Permission denied)"


def test_a_folder_that_cannot_be_opened_is_among_the_runs_that_are_left_out(tmp_path, monkeypatch):
    write(tmp_path, "whole")
    closed = tmp_path / "closed"

    def walk(path, onerror):
        onerror(PermissionError(13, "Permission denied", str(closed)))
        return iter([(str(tmp_path / "whole"), [], [])])

    monkeypatch.setattr(os, "walk", walk)
    runs, left_out = run_lib.read([str(tmp_path)])
    assert [run.name for run in runs] == ["whole"] and list(left_out) == ["closed"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"of_tomorrow": 1}, "was written by a newer version .* key 'of_tomorrow'"),
        ({"backbone": "resnet9"}, "newer version .*backbone='resnet9' is unknown"),
        ({"loss": "triplet"}, "newer version .*loss='triplet' must be one of"),
        ({"width": "wide"}, "is damaged .'config/width' is not a whole number"),
        ({"flip": 1}, "is damaged .'config/flip' is not true or false"),
        ({"crop_scale": ["a"]}, "is damaged .'config/crop_scale' is not a list of numbers"),
        ({"temperature": -1}, "temperature=-1 must be a positive number"),
    ],
)
def test_the_reason_tells_a_newer_run_from_a_damaged_one(tmp_path, changes, told):
    workdir = write(tmp_path)
    content = json.loads((workdir / "config.json").read_text()) | changes
    (workdir / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=told.replace("config/", "")):
        config_file.read(workdir)
    summary = json.loads((workdir / "summary.json").read_text()) | {"config": content}
    (workdir / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(UserError, match=told):
        summary_lib.read_summary(workdir)


@pytest.mark.parametrize("array", ["prototypes", "class_means", "class_names"])
@pytest.mark.parametrize(
    "content",
    [
        np.array([{}] * 10, object), np.zeros(10), np.zeros((9, 10)), np.zeros((10, 10), int),
        np.zeros((10, 10), complex), np.zeros(0), np.array(["a"]),
    ],
    ids=str,
)  # fmt: skip
def test_arrays_of_another_kind_or_shape_are_damage(tmp_path, array, content):
    path = write(tmp_path) / "prototypes.npz"
    with np.load(path) as stored:
        arrays = dict(stored) | {array: content}
    np.savez(path, **arrays)
    ((_, reason),) = run_lib.read([str(tmp_path)]).left_out.items()
    assert reason.startswith(f"{path} is damaged") and "unsafe" not in reason


def test_a_pickle_is_not_loaded_and_no_advice_to_do_so_is_given(tmp_path):
    path = write(tmp_path) / "prototypes.npz"
    np.array([{}]).dump(path)
    (reason,) = run_lib.read([str(tmp_path)]).left_out.values()
    assert reason == f"{path} is damaged (File is not a zip file)"


def test_arrays_of_snapshots_of_another_shape_are_not_shown(tmp_path):
    workdir = write(tmp_path)
    for name, arrays in (
        ("points.npz", {"labels": np.full(10, 99, np.int32)}),
        ("points.npz", {"images": np.zeros((10, 4, 4), np.uint8)}),
        ("points.npz", {"class_names": np.zeros(10)}),
        ("00000100.npz", {"predicted": np.full(10, -1, np.int32)}),
        ("00000100.npz", {"classes": np.arange(10) + 5}),
        ("00000100.npz", {"features": np.zeros((10, 10), int)}),
    ):
        path = workdir / "snapshots" / name
        before = path.read_bytes()
        with np.load(path) as stored:
            arrays = dict(stored) | arrays
        np.savez(path, **arrays)
        (run,), _ = report(tmp_path)
        assert page.collect([run], METRICS).runs[0].sphere is None
        path.write_bytes(before)
