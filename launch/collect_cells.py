"""Condense the runs of launch/results.py into the file that docs/results is made from."""

import json
import os
import pathlib
import platform

import numpy as np
import protocol
import recorded

from hsproto.reporting.claims import records
from hsproto.runs import predictions_file

_TRAIN = (
    "nc1", "erank_inter", "erank_weights", "weight_alignment", "cosine_prototypes_mean", "mir_gap",
    "cdnv", "erank_intra", "instance_alignment",
)  # fmt: skip
_TEST = ("accuracy", "accuracy_class_means", "accuracy_many", "accuracy_medium", "accuracy_few")


def collect(out: pathlib.Path, folder: pathlib.Path) -> int:
    """Add all finished trials and runs to the records of a folder, a file per regime.

    What stands there and is not in `out` is kept.
    """
    for regime, studies in protocol.REGIMES.items():
        path = folder / f"{regime}.json"
        before = records.read(path) if path.exists() else None
        found = _records(out, regime, studies, before)
        if found.trials:
            folder.mkdir(parents=True, exist_ok=True)
            records.write(str(path), found)
            print(f"{path}: {len(found.trials)} trials, {len(found.runs)} runs")
    return 0


def _records(out, regime, studies, before):
    trials, runs, versions = {}, [], {}
    old_trials = {trial[:4]: trial for trial in before.trials} if before else {}
    old_runs = {(*run[:5], run.seed): run for run in before.runs} if before else {}
    for study, dataset, method in protocol.groups(studies):
        place = protocol.STUDIES[study].head, dataset, method
        if place not in trials:
            made = [
                _trial(cell, out) or _kept(cell, old_trials.get((*place, cell.number)))
                for cell in protocol.trials(*place)
            ]
            trials[place] = made if all(made) else []  # half of them would choose other values
        if not trials[place]:
            continue
        best = protocol.best([trial.held_out for trial in trials[place]])
        for cell in protocol.runs(study, dataset, method, trials[place][best].values):
            key = study, *place, cell.variant, cell.number
            if run := _run(cell, out, versions) or _kept(cell, old_runs.get(key)):
                runs.append(run)
    methods = {
        name: records.Method(method.title, method.values["loss"])
        for name, method in protocol.METHODS.items()
    }
    listed = [trial for made in trials.values() for trial in made]
    made_with = _merged(before.made_with if before else {}, versions | _machine())
    planned = {
        name: records.Study(
            protocol.STUDIES[name].title,
            [
                (of, v)
                for of in protocol.STUDIES[name].sets
                for v in protocol.STUDIES[name].variants
            ],
        )
        for name in studies
    }
    return records.Records(regime, protocol.BASELINE, methods, listed, runs, made_with, planned)


def _kept(cell, before):
    if before:
        recorded.check(cell, before.values)
    return before


def _merged(old, new):
    """What both were made with; where it is not the same, both."""
    return old | {
        name: " and ".join(dict.fromkeys([*filter(None, old.get(name, "").split(" and ")), value]))
        for name, value in new.items()
    }


def _summary(folder):
    path = folder / "summary.json"
    return json.loads(path.read_text()) if path.exists() else None


def _trial(cell, out):
    summary = _summary(out / cell.name)
    if summary is None and not (out / cell.name / "failed.json").exists():
        return None
    accuracy = summary and summary["test"]["accuracy"]
    drawn = protocol.drawn(cell.head, cell.method, cell.number)
    metrics = summary and _metrics(summary)
    return records.Trial(
        cell.head, cell.set, cell.method, cell.number, drawn, _rounded(accuracy), metrics
    )


def _run(cell, out, versions):
    folder, summary = out / cell.name, _summary(out / cell.name)
    measured = folder / "measured.json"
    diverged = (folder / "failed.json").exists()
    if not diverged and (summary is None or (cell.measure and not measured.exists())):
        return None
    metrics, right, by_image = None, np.zeros(0, bool), {}
    if not diverged:
        versions |= summary["versions"]
        metrics = _metrics(summary)
        metrics |= {name: summary["test"][name] for name in _TEST if name in summary["test"]}
        metrics |= {"test_nc1": summary["test"]["nc1"]}
        metrics |= json.loads(measured.read_text()) if cell.measure else {}
        for name, (of, counts) in metrics.pop(protocol.BY_IMAGE, {}).items():
            by_image[name] = records.ByImage(of, np.array(counts, np.uint8))
        if protocol.HEADS[cell.head].recipe:
            metrics |= _curve(folder, summary)
        metrics = {name: _rounded(value) for name, value in metrics.items()}
        classes = summary["config"]["num_classes"]
        right = predictions_file.read(str(folder), summary["step"], classes).right()
    values = {k: v for k, v in cell.values.items() if k not in recorded.NOT_RECORDED}
    return records.Run(
        cell.study,
        cell.head,
        cell.set,
        cell.method,
        cell.variant,
        cell.number,
        values,
        metrics,
        right,
        by_image,
    )


def _curve(folder, summary):
    """Test accuracy and NC1 at each evaluation, by its epoch: {"accuracy@6": ...}."""
    config, found = summary["config"], {}
    for row in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()):
        if "test/accuracy" in row:
            epoch = round(row["step"] * config["batch_size"] / config["num_examples"])
            found |= {f"accuracy@{epoch}": row["test/accuracy"], f"nc1@{epoch}": row["train/nc1"]}
    return found


def _metrics(summary):
    """What is measured on the rows trained on."""
    train = summary["train"]
    found = {name: _rounded(train[name]) for name in _TRAIN if name in train}
    return found | {"train_accuracy": _rounded(train["accuracy"])}


def _rounded(value):
    return None if value is None else float(f"{value:.6g}")


def _machine():
    return {"machine": f"{os.cpu_count()} cores, {platform.machine()}, CPU"}
