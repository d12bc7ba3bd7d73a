"""summary.json and prototypes.npz: written, read and shown as text here."""

import datetime
import importlib.metadata
import os
import platform
import zipfile
from types import SimpleNamespace

import numpy as np

from hsproto import config as config_lib
from hsproto import geometry
from hsproto.errors import UserError
from hsproto.metrics import LONG_TAIL, METRICS, defined, format_number
from hsproto.models import architecture
from hsproto.runs import files
from hsproto.runs.files import check_all, check_types, is_number, read_json


def format_table(summary):
    """Accuracy and geometry of a summary.json's content beside the optimum, as text."""
    config = summary["config"]
    at_collapse = optimum(SimpleNamespace(config=config))
    name = f"{config['dataset']}, {config['loss']}, {config['embedding']}, step {summary['step']}"
    lines = [f"{name:<66}{'test':>9}{'train':>9}{'optimum':>9}"]
    for key, metric in (LONG_TAIL | METRICS).items():
        values = [summary[split].get(key) for split in ("test", "train")]
        if not any(map(defined, values)) and not (key in LONG_TAIL and key in summary["test"]):
            continue
        cells = "".join(format_cell(v) for v in (*values, at_collapse.get(key)))
        lines.append(f"{f'{key:<23} {metric.meaning}':<66}{cells}")
    return "\n".join(lines)


def format_cell(value):
    """A metric's value as text nine wide; what is undefined or has no optimum is a dash."""
    return f"{format_number(value):>9}"


# What no config of a run lacks, of any version, and what it is.
CONFIG_TYPES = {"dataset": str, "loss": str, "embedding": str, "seed": int, "num_classes": int}


def read_summary(workdir):
    """The content of a run's summary.json. Raises UserError without one, or of a damaged one."""
    path = os.path.join(workdir, "summary.json")
    if not os.path.isfile(path):
        raise UserError(f"{workdir}: no finished run there (no summary.json)")
    found = read_json(path)
    check_types(path, found, {"step": int, "test": dict, "train": dict, "config": dict})
    check_types(path, found["config"], CONFIG_TYPES)
    for place in ("test/*", "train/*"):
        check_all(path, found, place, lambda value: value is None or is_number(value))
    return found


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


def summarize(config, step, evaluation, mesh, images_per_second):
    """What summary.json holds."""
    packages = ("hsproto", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    return {
        "step": step,
        **evaluation.metrics,
        **({"per_class": evaluation.per_class} if evaluation.per_class else {}),
        "config": config.to_dict(),
        "versions": {"python": platform.python_version()} | {p: _version(p) for p in packages},
        "devices": f"{mesh.size} x {mesh.devices.flat[0].device_kind}",
        "images_per_second": images_per_second,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def write_results(workdir, summary, evaluation, class_names):
    """Writes prototypes.npz and, last, summary.json."""
    temporary = os.path.join(workdir, "prototypes.tmp.npz")
    np.savez(
        temporary,
        prototypes=evaluation.prototypes,
        class_means=evaluation.class_means,
        class_names=list(class_names),
    )
    os.replace(temporary, os.path.join(workdir, "prototypes.npz"))
    files.write_text(os.path.join(workdir, "summary.json"), files.to_json(summary, indent=1))


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def dimensions(run):
    """D of what a run's geometry is of, or None where its config names a network unknown here."""
    settings = SimpleNamespace(**config_lib.complete(run.config))
    try:
        return architecture.output_dim(settings)
    except (AttributeError, KeyError):
        return None


def has_simplex(run):
    """Whether a run has dimensions enough for its classes to form a simplex."""
    dim = dimensions(run)
    return dim is None or dim >= (run.config.get("num_classes") or 0) - 1


def optimum(run):
    """{measure: its value at collapse, or None}, accuracies among them."""
    classes = run.config.get("num_classes") or 0
    if classes < 1:
        return {}
    best = geometry.optimum(classes, dimensions(run))
    return {"accuracy": 1.0, "accuracy_class_means": 1.0} | best
