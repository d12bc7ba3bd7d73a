"""The share of training until a measure converges, on hand-made series and workdirs."""

import csv
import json
import math

import numpy as np
import pytest

from hsproto import config as config_lib
from hsproto import metrics as metrics_lib
from hsproto.errors import UserError
from hsproto.reporting import convergence as convergence_lib


def test_the_weighted_mean_starts_at_the_first_value_and_forgets_it():
    assert convergence_lib.weighted_mean([4, 0, 0, 8], 0.5).tolist() == [4, 2, 1, 4.5]
    assert convergence_lib.weighted_mean([4, 0, 8], 0.0).tolist() == [4, 0, 8]
    assert convergence_lib.weighted_mean([], 0.5).tolist() == []


@pytest.mark.parametrize(
    ("values", "rises", "tolerance", "index"),
    [
        ([9, 7, 4, 3, 2], False, 0.0, 2),  # enters once
        ([9, 4, 9, 3, 2], False, 0.0, 3),  # enters, leaves, enters again
        ([9, 4, 9, 3, 9], False, 0.0, None),  # leaves at the end
        ([9, 9, 9, 9], False, 0.0, None),  # never
        ([3, 2, 4, 1], False, 0.0, 0),  # from the start
        ([9, 5.2, 5.4, 4], False, 0.1, 1),  # within the tolerance of 5
        ([9, 5.2, 5.6, 4], False, 0.1, 3),
        ([1, 4, 6, 7], True, 0.0, 2),
        ([1, 6, 4, 7], True, 0.0, 3),
        ([1, 4.6, 6, 7], True, 0.1, 1),
        ([1, 6, math.nan, 7], True, 0.0, 3),
        ([9, 3, -math.inf], False, 0.0, None),
        ([], True, 0.0, None),
    ],
)
def test_it_converges_where_it_enters_and_stays(values, rises, tolerance, index):
    assert convergence_lib.stays_from(values, 5, rises, tolerance) == index


def test_ninety_five_per_cent_of_collapse():
    found = convergence_lib.collapse_thresholds(num_classes=100, dim=512, images_per_class=500)
    assert found["instance_alignment"] == found["weight_alignment"] == pytest.approx(0.1)
    assert found["erank_inter"] == found["erank_weights"] == pytest.approx(94.05)
    assert found["erank_intra"] == pytest.approx(0.05 * 499)
    assert convergence_lib.collapse_thresholds(10, 64, 500)["erank_intra"] == pytest.approx(3.2)


def test_unrelated_directions_are_at_a_squared_distance_of_two():
    rows = np.random.default_rng(0).normal(size=(200, 512))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    distances = np.square(rows[:, None] - rows[None]).sum(-1)
    assert distances[~np.eye(200, dtype=bool)].mean() == pytest.approx(2, abs=0.01)


def records_of(**measures):
    """An evaluation every 10 steps, between lines of the steps themselves."""
    count = max(map(len, measures.values()))
    found = [{"step": 5 * i, "loss": 1.0} for i in range(2 * count)]
    for i in range(count):
        values = {f"train/{m}": series[i] for m, series in measures.items()}
        found.append({"step": 10 * (i + 1), "test/accuracy": 0.5, **values})
    return found


def test_shares_are_of_the_steps_of_the_evaluations():
    records = records_of(
        instance_alignment=[1.0, 0.3, 0.05, 0.05],
        weight_alignment=[0.01, 0.01, 0.01, 0.01],
        erank_weights=[2.0, 9.0, 2.0, 9.0],
        erank_intra=[5.0, 5.0, 5.0, 5.0],
        erank_inter=[None, None, None, None],
    )
    thresholds = convergence_lib.collapse_thresholds(10, 64, 500)
    found = convergence_lib.converged(records, 40, thresholds, decay=0.0, tolerance=0.0)
    assert {m: f["share"] for m, f in found.items()} == {
        "instance_alignment": 75.0,
        "weight_alignment": 25.0,
        "erank_weights": 100.0,
        "erank_intra": None,
        "erank_inter": None,
    }
    assert [m for m, f in found.items() if f["by_first"]] == ["weight_alignment"]
    later = convergence_lib.converged(records, 40, thresholds, decay=0.9, tolerance=0.0)
    assert later["instance_alignment"]["share"] is None, "its weighted mean lags behind"


def test_what_is_no_finite_number_is_left_out_of_a_series():
    values = [4.0, "abc", None, True, math.nan, math.inf, 2]
    records = records_of(nc1=values) + [{"step": "x", "train/nc1": 1.0}]
    steps, found = convergence_lib.series(records, "nc1")
    assert (steps.tolist(), found.tolist()) == ([10, 70], [4, 2])


def run(path, loss, values, **changes):
    """A finished run's workdir whose measures all have the series `values`."""
    path.mkdir()
    config = config_lib.default()
    config.update({"loss": loss, "num_classes": 10, "num_examples": 5000, **changes})
    summary = {"step": 10 * len(values), "test": {}, "train": {}, "config": config.to_dict()}
    (path / "summary.json").write_text(json.dumps(summary))
    records = records_of(**dict.fromkeys(metrics_lib.CONVERGENCE, values))
    (path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return str(path)


def test_the_command_prints_a_table_and_writes_json_and_csv(tmp_path, capsys):
    ours = run(tmp_path / "nonl", "nonl", [9.0, 6.0, 3.0, 0.01])
    base = run(tmp_path / "ce", "cross_entropy", [9.0, 8.0, 6.0, 6.0])
    argv = [ours, f"--baseline={base}", "--decay=0", "--tolerance=0", f"--out={tmp_path}/out"]
    assert convergence_lib.main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("to 95 % of collapse") and lines[2].startswith("to value of")
    assert lines[1].split() == [ours, "100.0", "100.0", "-", "<25.0", "-"]
    assert lines[3].split() == [ours, "50.0", "50.0", "-", "50.0", "-"]

    stored = json.loads((tmp_path / "out/convergence.json").read_text())
    assert stored["options"] == {"baseline": base, "decay": 0.0, "tolerance": 0.0}
    measured = stored["runs"][ours][convergence_lib.BASELINE]["erank_intra"]
    assert measured == {"threshold": 6.0, "step": 20, "share": 50.0, "by_first": False}
    rows = list(csv.DictReader((tmp_path / "out/convergence.csv").open()))
    assert len(rows) == 10 and rows[0]["share_percent"] == "100.0"
    assert [r["step"] for r in rows if r["measure"] == "erank_inter"] == ["", ""]


def test_a_run_that_is_there_from_the_first_evaluation_says_so(tmp_path, capsys):
    same = run(tmp_path / "a", "nonl", [5.0, 5.0])
    convergence_lib.main([same, f"--baseline={same}"])
    assert capsys.readouterr().out.splitlines()[3].split() == [same, *["<50.0"] * 5]


def test_a_run_of_a_newer_version_is_left_out_with_the_reason(tmp_path, capsys):
    ours, newer = run(tmp_path / "a", "nonl", [5.0, 5.0]), run(tmp_path / "b", "nonl", [5.0, 5.0])
    path = tmp_path / "b" / "summary.json"
    summary = json.loads(path.read_text())
    summary["config"]["of_tomorrow"] = 1
    path.write_text(json.dumps(summary))
    assert convergence_lib.main([ours, newer, f"--out={tmp_path / 'out'}"]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[1].split()[0] == ours
    reason = "written by a newer version of hsproto (it has the config key 'of_tomorrow')"
    assert f"Left out: {newer}. {path} was {reason}" in printed
    for name in ("convergence.json", "convergence.csv"):
        assert "of_tomorrow" in (tmp_path / "out" / name).read_text()
    with pytest.raises(UserError, match="no run can be read.*newer"):
        convergence_lib.main([newer])


def test_mistakes_are_one_line(tmp_path):
    ours = run(tmp_path / "a", "nonl", [5.0, 5.0])
    other = run(tmp_path / "b", "nonl", [5.0], dataset="cifar100")
    empty = run(tmp_path / "c", "nonl", [None])
    for argv, told in (
        ([str(tmp_path)], "no finished run"),
        ([ours, f"--baseline={other}"], "dataset='cifar100'"),
        ([empty], "no evaluation"),
        ([ours, "--decay=1"], "--decay=1.0"),
        ([ours, "--tolerance=nan"], "--tolerance=nan"),
        ([], "see hsproto convergence --help"),
    ):
        with pytest.raises(UserError, match=told) as caught:
            convergence_lib.main(argv)
        assert "\n" not in str(caught.value)
