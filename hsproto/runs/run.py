"""Runs as reports see them: what was trained and what was measured, from the files alone.

No network is built and no data set is opened.
"""

import os
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, NamedTuple

from hsproto import config as config_lib
from hsproto.errors import UserError
from hsproto.runs import config_file, measurements
from hsproto.runs.metrics_log import parse_metrics
from hsproto.runs.reading import Unreadable
from hsproto.runs.summary import has_prototypes, read_prototypes, read_summary


class Run(NamedTuple):
    """The content of a workdir.

    Attributes:
        name: The part of the path that differs from other runs'.
        workdir: The path.
        config: The config, as it was stored.
        summary: The content of summary.json; None if the run is not finished.
        records: The objects of metrics.jsonl.
        broken_lines: The number of lines of metrics.jsonl that could not be read.
        measured: What commands have measured, {"probe": {...}, ...} (`measurements.COMMANDS`).
    """

    name: str
    workdir: str
    config: dict
    summary: dict | None
    records: list[dict]
    broken_lines: int
    measured: dict[str, dict]


class Runs(NamedTuple):
    """The runs in some paths.

    Attributes:
        runs: Those that can be read.
        left_out: {name: reason} of the others, which are damaged or of a newer version.
    """

    runs: list[Run]
    left_out: dict[str, str]


def find(paths: Iterable[str]) -> list[str]:
    """Return the workdirs that `paths` are or contain at any depth, in order, without duplicates.

    Folders that cannot be opened, which might be or contain some, are among them.

    Raises:
        UserError: If a path contains none.
    """
    workdirs = []
    for path in paths:
        inside = [path] if config_file.exists(path) else _find_inside(path)
        if not inside:
            raise UserError(f"{path}: no run there (no {config_file.NAME})")
        workdirs += [workdir for workdir in inside if workdir not in workdirs]
    return workdirs


def _find_inside(path):
    closed = []
    walk = os.walk(path, onerror=lambda error: closed.append(error.filename))
    return sorted([folder for folder, *_ in walk if config_file.exists(folder)] + closed)


def read(paths: Iterable[str]) -> Runs:
    """Return the runs in `paths` (see `find`), named by the part in which their paths differ.

    Raises:
        UserError: If a path contains none.
    """
    workdirs = find(paths)
    runs, left_out = [], {}
    for name, workdir in zip(_names(workdirs), workdirs, strict=True):
        try:
            runs.append(_read(name, workdir))
        except Unreadable as error:
            left_out[name] = str(error)
    return Runs(runs, left_out)


def settings(run: Run) -> dict[str, Any]:
    """Return what a run computes, equal for runs that differ only in seed.

    That is its complete config, without the seed and `config.OPERATIONAL`.
    """
    excluded = {"seed", *config_lib.OPERATIONAL}
    config = config_lib.with_defaults(run.config)
    return {key: value for key, value in config.items() if key not in excluded}


def _read(name, workdir):
    config = config_file.read_values(workdir)
    summary = None
    if os.path.lexists(os.path.join(workdir, "summary.json")):
        summary = read_summary(workdir)
        _check_same_run(workdir, config, summary["config"])
    if has_prototypes(workdir):
        classes = len(read_prototypes(workdir)["class_names"])
        if classes != config["num_classes"]:
            raise Unreadable(
                f"{workdir}: prototypes.npz has {classes} classes, config.json "
                f"{config['num_classes']}"
            )
    records, broken = parse_metrics(os.path.join(workdir, "metrics.jsonl"))
    measured = {name: measurements.read(workdir, name) for name in measurements.COMMANDS}
    return Run(
        name=name,
        workdir=workdir,
        config=config,
        summary=summary,
        records=records,
        broken_lines=broken,
        measured={name: values for name, values in measured.items() if values is not None},
    )


def _check_same_run(workdir, config, of_summary):
    """Tables take what they show of a run from either file."""
    for key in ("dataset", "loss", "num_classes"):
        if config[key] != of_summary[key]:
            raise Unreadable(
                f"{workdir}: config.json and summary.json are of different runs ({key}="
                f"{config[key]!r} and {of_summary[key]!r})"
            )


def _names(workdirs):
    """The paths without the folders that all of them share."""
    parts = [os.path.abspath(workdir).split(os.sep) for workdir in workdirs]
    shared = len(os.path.commonprefix([part[:-1] for part in parts]))
    return ["/".join(part[shared:]) for part in parts]


def data_set(run: Run) -> str:
    """Return the name of the data set that a run was trained on, whether or not a long tail."""
    parts = [run.config.get(key) for key in ("class_list", "class_groups")]
    parts = [part for part in parts if part]
    name = run.config["dataset"]
    return f"{name} ({', '.join(parts)})" if parts else name


def imbalance_factor(run: Run) -> float:
    """Return the run's imbalance factor; 1 for a balanced training set."""
    return run.config.get("imbalance_factor", 1.0)


def total_steps(run: Run) -> int:
    """Return the steps of a run's whole training, finished or not."""
    if run.summary:
        return run.summary["step"]
    return config_lib.total_steps(SimpleNamespace(**settings(run)))


def final_step(run: Run) -> int | None:
    """Return the last step of a finished run; None if it is not finished."""
    return run.summary["step"] if run.summary else None


def last_step(run: Run) -> int | None:
    """Return the last step in a run's summary or metrics.jsonl, if any."""
    return final_step(run) or max((record["step"] for record in run.records), default=None)


def final_metrics(run: Run, split: str) -> tuple[int | None, dict[str, Any]]:
    """Return the step and the metrics of a split in the run's summary or last evaluation.

    (None, {}) if there is none.
    """
    if run.summary:
        return run.summary["step"], run.summary.get(split, {})
    prefix = f"{split}/"
    for record in reversed(run.records):
        metrics = {k.removeprefix(prefix): v for k, v in record.items() if k.startswith(prefix)}
        if metrics:
            return record["step"], metrics
    return None, {}
