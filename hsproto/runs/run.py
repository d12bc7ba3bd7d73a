"""Runs as their workdirs tell them: what was trained, what was measured, and which belong together.

Reads files alone; no network is built and no data set opened.
"""

import os
from types import SimpleNamespace
from typing import NamedTuple

from hsproto import config as config_lib
from hsproto.config import complete
from hsproto.errors import UserError
from hsproto.runs.files import check_all, check_types, is_number, is_type, read_json
from hsproto.runs.metrics_log import parse_metrics
from hsproto.runs.summary import CONFIG_TYPES, read_summary

# What commands leave beside a run's summary, by the file's name without its ending.
MEASURED = ("probe", "transfer", "robustness", "ood", "calibration", "retrieval")


# Where the files of MEASURED hold objects, if anything; * is any key.
_OBJECTS = {
    "probe": [f"{m}{part}" for m in ("fp", "lp", "nlp", "cached_lp")
              for part in ("", "/test", "/train")],
    "transfer": ["datasets", "datasets/*", "datasets/*/protocol"],
    "robustness": ["*"],
    "ood": ["others", "others/*", "others/*/max_cosine", "others/*/energy", "others/*/knn"],
    "calibration": ["before", "after"],
    "retrieval": ["test"],
}  # fmt: skip
# Where they hold numbers.
_NUMBERS = {
    "probe": [
        "step", *(f"*/{key}" for key in ("passes", "seconds")), "*/test/accuracy", "*/train/*",
    ],
    "transfer": [
        f"datasets/*/{key}"
        for key in ("protocol/step", "accuracy", "average_precision", "accuracy_per_class")
    ],
    "robustness": [f"*/{key}" for key in ("step", "clean_error", "mean_error", "mce")],
    "ood": ["step", "others/*/*/auroc", "others/*/*/fpr95"],
    "calibration": [
        "step", "accuracy", "fitted_temperature",
        *(f"{part}/{key}" for part in ("before", "after") for key in ("ece", "nll")),
    ],
    "retrieval": [
        f"{part}{key}"
        for part in ("", "test/")
        for key in ("step", "map@r", *(f"recall@{k}" for k in (1, 2, 4, 8)))
    ],
}  # fmt: skip


class Run(NamedTuple):
    """A workdir that was read.

    `config` is a dict. `summary` is None where the run is not finished. `records` are the objects
    of metrics.jsonl, `broken_lines` how many of its lines could not be read. `measured` holds what
    the commands of MEASURED have left: {"probe": {...}, ...}.
    """

    name: str
    workdir: str
    config: dict
    summary: dict | None
    records: list
    broken_lines: int
    measured: dict


def find(paths):
    """The workdirs that `paths` are or hold at any depth, in order, each once.

    Raises UserError for a path without any.
    """
    found = []
    for path in paths:
        inside = [path]
        if not os.path.isfile(os.path.join(path, "config.json")):
            inside = sorted(parent for parent, _, files in os.walk(path) if "config.json" in files)
        if not inside:
            raise UserError(f"{path}: no run there (no config.json)")
        found += [workdir for workdir in inside if workdir not in found]
    return found


def read(paths):
    """The runs in `paths` (see `find`) as a list of `Run`, named by what tells their paths apart.

    Raises UserError where a path holds none or a file is damaged.
    """
    workdirs = find(paths)
    return [_read(*pair) for pair in zip(_names(workdirs), workdirs, strict=True)]


def settings(run):
    """What a run computes but for its seed: its config less the seed and `config.OPERATIONAL`."""
    left_out = {"seed", *config_lib.OPERATIONAL}
    return {key: value for key, value in complete(run.config).items() if key not in left_out}


def _read(name, workdir):
    summary = None
    if os.path.isfile(os.path.join(workdir, "summary.json")):
        summary = read_summary(workdir)
    records, broken = parse_metrics(os.path.join(workdir, "metrics.jsonl"))
    kept = [_numbers(record) for record in records if is_type(record["step"], int)]
    measured = {kind: _measured(workdir, kind) for kind in MEASURED}
    measured = {kind: content for kind, content in measured.items() if content is not None}
    path = os.path.join(workdir, "config.json")
    config = read_json(path)
    check_types(path, config, CONFIG_TYPES)
    return Run(name, workdir, config, summary, kept, broken + len(records) - len(kept), measured)


def _numbers(record):
    """A record of metrics.jsonl in which what is no number is undefined."""
    return {key: value if is_number(value) else None for key, value in record.items()}


def _measured(workdir, kind):
    path = os.path.join(workdir, f"{kind}.json")
    if not os.path.isfile(path):
        return None
    found = read_json(path)
    for place in _OBJECTS[kind]:
        check_all(path, found, place, lambda value: isinstance(value, dict))
    for place in _NUMBERS[kind]:
        check_all(path, found, place, lambda value: value is None or is_number(value))
    return found


def _names(workdirs):
    """The paths without the folders that all of them share."""
    parts = [os.path.abspath(workdir).split(os.sep) for workdir in workdirs]
    shared = len(os.path.commonprefix([part[:-1] for part in parts]))
    return ["/".join(part[shared:]) for part in parts]


def data_set(run):
    """What a run was trained on, long tails aside, in a word."""
    parts = [run.config.get(key) for key in ("class_list", "class_groups")]
    parts = [part for part in parts if part]
    name = run.config["dataset"]
    return f"{name} ({', '.join(parts)})" if parts else name


def imbalance_factor(run):
    """The run's imbalance factor, 1 of a whole training set."""
    return run.config.get("imbalance_factor", 1.0)


def total_steps(run):
    """Steps of a run's whole training, finished or not."""
    if run.summary:
        return run.summary["step"]
    return config_lib.total_steps(SimpleNamespace(**settings(run)))


def final_step(run):
    """The last step of a finished run; None of one that is not."""
    return run.summary["step"] if run.summary else None


def last_step(run):
    """The last step that metrics.jsonl or the summary of a run tells of, or None."""
    return final_step(run) or max((record["step"] for record in run.records), default=None)


def final_metrics(run, split):
    """(step, measures) of a split: of a finished run its summary's, else of the last evaluation.

    (None, {}) where there is none.
    """
    if run.summary:
        return run.summary["step"], run.summary.get(split, {})
    start = f"{split}/"
    for record in reversed(run.records):
        found = {k.removeprefix(start): v for k, v in record.items() if k.startswith(start)}
        if found:
            return record["step"], found
    return None, {}
