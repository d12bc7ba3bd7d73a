"""Workdirs as they are read: what is damaged is named in one line, what is older has its values."""

import json

import made_runs
import pytest

from hsproto import metrics as metrics_lib
from hsproto.reporting import grouping
from hsproto.reporting.page import page
from hsproto.reporting.tables import training as training_tables
from hsproto.runs import run as run_lib


def changed(path, **values):
    """Sets keys of a JSON file, or takes them away where the value is None."""
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("config.json", {"dataset": None}),
        ("config.json", {"loss": None}),
        ("config.json", {"seed": None}),
        ("config.json", {"num_classes": "ten"}),
        ("summary.json", {"step": None}),
        ("summary.json", {"step": True}),
        ("summary.json", {"test": None}),
        ("summary.json", {"train": [1]}),
        ("summary.json", {"test": {"accuracy": "high"}}),
        ("summary.json", {"config": None}),
        ("summary.json", {"config": {}}),
        ("robustness.json", {"x": 1}),
        ("robustness.json", {"x": {"mce": "low"}}),
        ("transfer.json", {"datasets": {"x": 1}}),
        ("transfer.json", {"datasets": 1}),
        ("ood.json", {"others": {"x": {"knn": 1}}}),
        ("probe.json", {"lp": {"test": 1}}),
        ("calibration.json", {"before": 1}),
        ("retrieval.json", {"map@r": "high"}),
    ],
)
def test_a_damaged_file_is_named_in_one_line(tmp_path, file, values):
    made_runs.write(tmp_path, "whole")
    path = made_runs.write(tmp_path, "run", loss="scl") / file
    if not path.exists():
        path.write_text("{}")
    assert len(made_runs.read(tmp_path)) == 2
    changed(path, **values)
    found = run_lib.read([str(tmp_path)])
    assert [run.name for run in found.runs] == ["whole"]
    reason = found.left_out["run"]
    assert reason.startswith(f"{path} is damaged") and "\n" not in reason


@pytest.mark.parametrize("finished", [False, True])
def test_values_of_metrics_that_are_no_numbers_are_undefined(tmp_path, finished):
    records = [
        {"step": 10, "train/nc1": "abc", "test/accuracy": 0.5},
        {"step": "x", "train/nc1": 1.0},
        {"step": 20, "train/nc1": [1], "test/accuracy": {}, "loss": "low"},
    ]
    made_runs.write(tmp_path / "runs", "run", records=records, finished=finished)
    found = made_runs.read(tmp_path / "runs")
    assert found[0].records[0] == {"step": 10, "train/nc1": None, "test/accuracy": 0.5}
    assert len(found[0].records) == 2 and found[0].broken_lines == 1
    kept, _ = grouping.drop_duplicates(found)
    training_tables.build(kept)
    (tmp_path / "out").mkdir()
    page.write(kept, tmp_path / "out", metrics_lib.METRICS)


def test_runs_older_than_a_key_have_what_they_had(tmp_path):
    path = made_runs.write(tmp_path, "run") / "config.json"
    changed(path, crop_on=None, flip=None)
    (run,) = made_runs.read(tmp_path)
    settings = run_lib.settings(run)
    assert (settings["crop_on"], settings["flip"]) == ("device", True)
