"""The command that writes tables and pictures of runs."""

import csv

import made_runs
import mutations
import numpy as np
import pytest

from hsproto import report
from hsproto.errors import UserError
from hsproto.reporting.figures import runs as run_figures
from hsproto.runs import summary as summary_lib


def evaluated(step, **values):
    return {"step": step} | {f"{s}/{k}": v for s in ("test", "train") for k, v in values.items()}


def finished(folder, name, accuracy=0.5, **config):
    values = {"accuracy": accuracy, "nc1": 0.2, "erank_weights": 9.0}
    records = [evaluated(50, **values), evaluated(100, **values)]
    workdir = made_runs.write(folder, name, test=values, train=values, records=records, **config)
    rows = np.eye(10)
    names = [f"class {c}" for c in range(10)]
    np.savez(workdir / "prototypes.npz", prototypes=rows, class_means=rows, class_names=names)
    return workdir


@pytest.fixture
def undrawn(monkeypatch):
    """Pictures take seconds."""
    monkeypatch.setattr(run_figures, "write_all", lambda runs, out: [])
    monkeypatch.setattr(run_figures, "write_figures", lambda workdir, out, svg: [])


@pytest.mark.usefixtures("undrawn")
def test_a_folder_of_runs_becomes_tables(tmp_path, capsys):
    for seed in range(5):
        finished(tmp_path / "runs", f"nonl|{seed}", loss="nonl", seed=seed)
    finished(tmp_path / "runs", "ce", 0.4, loss="cross_entropy")
    out = tmp_path / "out"
    assert report.main([str(tmp_path / "runs"), f"--out={out}"]) == 0
    text, printed = (out / "report.md").read_text(), capsys.readouterr().out
    for table in ("accuracy", "geometry_cifar10", "convergence_cifar10"):
        assert (out / "tables" / f"{table}.md").read_text() in text
    lines = list(csv.DictReader((out / "tables" / "accuracy.csv").open()))
    assert [(line["loss"], line["mean"], line["n"]) for line in lines] == [
        ("CE", "40.0", "1"),
        ("NONL", "50.0", "5"),
    ]
    assert "## Accuracy (Table 1)" in printed and "disagreement with" not in printed
    assert str(out / "report.md") in printed
    # A row a run, whose name does not end its cell.
    assert r"| nonl\|3 | nonl | 0.5000 |" in text


@pytest.mark.slow
def test_a_few_runs_are_shown_one_by_one_with_their_pictures(tmp_path, capsys):
    finished(tmp_path / "runs", "of nonl", loss="nonl")
    out = tmp_path / "out"
    assert report.main([str(tmp_path / "runs"), f"--out={out}"]) == 0
    assert "within- over between-class scatter" in capsys.readouterr().out
    links = [
        line.partition("](<")[2].removesuffix(">)")
        for line in (out / "report.md").read_text().splitlines()
        if line.startswith("![")
    ]
    assert "00_of nonl/cosines.png" in links and all((out / link).exists() for link in links)


@pytest.mark.parametrize(("dim", "optimum"), [(3, "-"), (9, "9.0000")])
def test_the_optimum_of_a_run_is_that_of_its_dimensions(tmp_path, dim, optimum):
    finished(tmp_path, "a", embedding="signed", embedding_dim=dim)
    (run,) = made_runs.read(tmp_path)
    lines = [line.split() for line in summary_lib.format_table(run.summary).splitlines()]
    assert [line[-1] for line in lines if line[0] == "erank_weights"] == [optimum]


@pytest.mark.usefixtures("undrawn")
def test_runs_that_are_not_finished_are_told_with_their_step(tmp_path, capsys):
    finished(tmp_path / "runs", "whole", loss="nonl")
    made_runs.write(
        tmp_path / "runs", "half", finished=False, seed=1, records=[evaluated(40, accuracy=0.3)]
    )
    made_runs.write(tmp_path / "runs", "begun", finished=False, seed=2)
    report.main([str(tmp_path / "runs"), f"--out={tmp_path / 'out'}"])
    told = "Not finished: begun (no step yet), half (step 40)."
    assert told in capsys.readouterr().out
    text = (tmp_path / "out" / "report.md").read_text()
    assert told in text and "| NONL, at step 40 | 30.00 " in text


@pytest.mark.usefixtures("undrawn")
def test_lines_that_cannot_be_read_and_runs_that_count_once_are_told(tmp_path, capsys):
    workdir = finished(tmp_path / "runs", "a")
    finished(tmp_path / "runs", "copy")
    with open(workdir / "metrics.jsonl", "a") as file:
        file.write('{"step": 1')
    report.main([str(tmp_path / "runs"), f"--out={tmp_path / 'out'}"])
    printed = capsys.readouterr().out
    assert "another run's: copy." in printed
    assert "cannot be read: a (1)." in printed


@pytest.mark.usefixtures("undrawn")
def test_runs_that_cannot_be_read_are_listed_and_the_others_shown(tmp_path, capsys):
    finished(tmp_path / "runs", "whole")
    damage = {
        "config.json": ['{"seed": []}', mutations.DEEP, '{"of_tomorrow": 1}', ""],
        "summary.json": ['{"step": NaN}', "[1]", "{"],
        "probe.json": ['{"fp": []}'],
        "transfer.json": ['{"datasets": []}'],
        "prototypes.npz": ["no zip"],
    }
    names = []
    for file, contents in damage.items():
        for content in contents:
            names.append(f"run{len(names)}")
            (finished(tmp_path / "runs", names[-1], seed=len(names)) / file).write_text(content)
    out = tmp_path / "out"
    assert report.main([str(tmp_path / "runs"), f"--out={out}"]) == 0
    shown = (out / "report.md").read_text(), (out / "index.html").read_text()
    with (out / "tables" / "left_out.csv").open() as file:
        reasons = {line["run"]: line["remark"] for line in csv.DictReader(file)}
    assert sorted(reasons) == sorted(names)
    printed = capsys.readouterr().out
    for name in names:
        assert all(f"Left out: {name}. " in text for text in (printed, *shown))
        assert "is damaged" in reasons[name] or "newer version" in reasons[name]
    with pytest.raises(UserError, match="no run can be read: .*run3/config.json is damaged"):
        report.main([str(tmp_path / "runs" / "run3"), f"--out={out}"])


def test_a_folder_without_runs_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no run there"):
        report.main([str(tmp_path), f"--out={tmp_path / 'out'}"])
    with pytest.raises(UserError, match="no run in it"):
        report.main([str(tmp_path / "none"), f"--out={tmp_path / 'out'}"])
    with pytest.raises(UserError, match="no folder to write to"):
        finished(tmp_path / "runs", "a")
        (tmp_path / "file").write_text("")
        report.main([str(tmp_path / "runs"), f"--out={tmp_path / 'file'}"])
