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
    # Runs that are older than a key had its default.
    known = _defaults() | run.config
    return {key: value for key, value in known.items() if key not in left_out}


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
    """The content of a run's summary.json. Raises UserError where there is none."""
    path = os.path.join(workdir, "summary.json")
    if not os.path.isfile(path):
        raise UserError(f"{workdir}: no finished run there (no summary.json)")
    return _json(path)


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
    # Made once: a report asks for the settings of each of its runs many times.
    return config_lib.default().to_dict()


def _read(name, workdir):
    summary = None
    if os.path.isfile(os.path.join(workdir, "summary.json")):
        summary = read_summary(workdir)
    records, broken = parse_metrics(os.path.join(workdir, "metrics.jsonl"))
    paths = {kind: os.path.join(workdir, f"{kind}.json") for kind in MEASURED}
    measured = {kind: _json(path) for kind, path in paths.items() if os.path.isfile(path)}
    config = _json(os.path.join(workdir, "config.json"))
    return Run(name, workdir, config, summary, records, broken, measured)


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
