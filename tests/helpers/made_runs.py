"""Workdirs written by hand, for what reads them: no network is trained."""

import json

from hsproto import config as config_lib
from hsproto.runs import run as run_lib

# What data decide, by set: the keys of a resolved config.
DATA = {
    "cifar10": dict(num_classes=10, num_examples=50_000),
    "cifar100": dict(num_classes=100, num_examples=50_000),
    "digits": dict(num_classes=10, num_examples=1437, image_size=8, channels=1),
}


def write(folder, name, *, test=None, train=None, step=100, finished=True, records=(), **config):
    """The workdir of a run with the paper's CIFAR protocol but for `config`; gives its path.

    test, train: measures of its end. records: objects of metrics.jsonl.
    """
    workdir = folder / name
    workdir.mkdir(parents=True)
    settings = config_lib.default()
    settings.dataset = config.pop("dataset", "cifar10")
    settings.source = "digits" if settings.dataset == "digits" else "arrays"
    settings.update(DATA.get(settings.dataset, {}))
    settings.update(config)
    (workdir / "config.json").write_text(config_lib.to_json(settings))
    if finished:
        summary = {"step": step, "test": test or {}, "train": train or {}}
        summary["config"] = json.loads(config_lib.to_json(settings))
        (workdir / "summary.json").write_text(json.dumps(summary))
    (workdir / "metrics.jsonl").write_text("".join(f"{json.dumps(r)}\n" for r in records))
    return workdir


def measure(workdir, kind, content):
    """Leaves what a command found in a workdir, as probe.json."""
    (workdir / f"{kind}.json").write_text(json.dumps(content))


def read(folder):
    found = run_lib.read([str(folder)])
    assert not found.left_out
    return found.runs
