"""Runs as their workdirs tell them: what was trained, what was measured, and which belong together.

Reads files alone; no network is built and no data set opened.
"""

import functools
import json
import os
import zipfile
from typing import NamedTuple

import numpy as np

from hsproto import config as config_lib
from hsproto.errors import UserError
from hsproto.writer import parse_metrics

# What commands leave beside a run's summary, by the file's name without its ending.
MEASURED = ("probe", "transfer", "robustness", "ood", "calibration", "retrieval")

# What no config of a run lacks, of any version, and what it is.
_CONFIG = {"dataset": str, "loss": str, "embedding": str, "seed": int, "num_classes": int}
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
    return {key: value for key, value in known(run.config).items() if key not in left_out}


def known(config):
    """A run's config, a dict, with what runs had that are older than a key; unknown keys stay."""
    return _defaults() | config


def by_settings(runs):
    """Lists of the runs that differ in nothing but their seeds, in the order of their first."""
    groups = {}
    for run in runs:
        groups.setdefault(json.dumps(settings(run), sort_keys=True), []).append(run)
    return list(groups.values())


def varying(runs):
    """The config keys in whose values runs differ, the seed aside, sorted."""
    found = [settings(run) for run in runs]
    keys = {key for one in found for key in one}
    return sorted(key for key in keys if any(s.get(key) != found[0].get(key) for s in found))


def read_summary(workdir):
    """The content of a run's summary.json. Raises UserError without one, or of a damaged one."""
    path = os.path.join(workdir, "summary.json")
    if not os.path.isfile(path):
        raise UserError(f"{workdir}: no finished run there (no summary.json)")
    found = _json(path)
    _check(path, found, {"step": int, "test": dict, "train": dict, "config": dict})
    _check(path, found["config"], _CONFIG)
    for place in ("test/*", "train/*"):
        _check_all(path, found, place, lambda value: value is None or number(value))
    return found


def number(value):
    """Whether a value of a file is a number, be it finite or not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def read_prototypes(workdir):
    """The arrays of a run's prototypes.npz. Raises UserError where there are none."""
    path = os.path.join(workdir, "prototypes.npz")
    if not os.path.isfile(path):
        raise UserError(f"{workdir}: no finished run there (no prototypes.npz)")
    try:
        with np.load(path) as stored:
            return {name: stored[name] for name in ("prototypes", "class_means", "class_names")}
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged ({error})") from None


@functools.cache
def _defaults():
    # What runs that are older than a key had. Made once: a report asks for the settings of each of
    # its runs many times.
    return config_lib.default().to_dict() | config_lib.of_older_runs()


def _read(name, workdir):
    summary = None
    if os.path.isfile(os.path.join(workdir, "summary.json")):
        summary = read_summary(workdir)
    records, broken = parse_metrics(os.path.join(workdir, "metrics.jsonl"))
    kept = [_numbers(record) for record in records if _is(record["step"], int)]
    measured = {kind: _measured(workdir, kind) for kind in MEASURED}
    measured = {kind: content for kind, content in measured.items() if content is not None}
    path = os.path.join(workdir, "config.json")
    config = _json(path)
    _check(path, config, _CONFIG)
    return Run(name, workdir, config, summary, kept, broken + len(records) - len(kept), measured)


def _numbers(record):
    """A record of metrics.jsonl in which what is no number is undefined."""
    return {key: value if number(value) else None for key, value in record.items()}


def _measured(workdir, kind):
    path = os.path.join(workdir, f"{kind}.json")
    if not os.path.isfile(path):
        return None
    found = _json(path)
    for place in _OBJECTS[kind]:
        _check_all(path, found, place, lambda value: isinstance(value, dict))
    for place in _NUMBERS[kind]:
        _check_all(path, found, place, lambda value: value is None or number(value))
    return found


def _is(value, kind):
    return isinstance(value, kind) and not isinstance(value, bool)


def _check(path, found, kinds):
    """Raises UserError where an object lacks a key of `kinds` or has it of another type."""
    for key, kind in kinds.items():
        if key not in found:
            raise UserError(f"{path} is damaged (no {key!r})")
        if not _is(found[key], kind):
            raise UserError(f"{path} is damaged ({key!r} is no {_WORDS[kind]})")


_WORDS = {str: "text", int: "whole number", dict: "object"}


def _check_all(path, found, place, holds):
    """Raises UserError where a value that is at a place of a file, as a/*/b, is another one."""
    *outer, last = place.split("/")
    at = [found]
    for part in outer:
        inside = [value for each in at for key, value in each.items() if part in ("*", key)]
        at = [value for value in inside if isinstance(value, dict)]
    for each in at:
        for key, value in each.items():
            if last in ("*", key) and not holds(value):
                raise UserError(f"{path} is damaged ({key!r} is not what belongs there)")


def _json(path):
    with open(path) as file:
        try:
            found = json.load(file)
            if not isinstance(found, dict):
                raise ValueError("no JSON object")
        except ValueError as error:
            raise UserError(f"{path} is damaged ({error})") from None
    return found


def _names(workdirs):
    """The paths without the folders that all of them share."""
    parts = [os.path.abspath(workdir).split(os.sep) for workdir in workdirs]
    shared = len(os.path.commonprefix([part[:-1] for part in parts]))
    return ["/".join(part[shared:]) for part in parts]
