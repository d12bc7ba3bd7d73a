"""summary.json and prototypes.npz: written, read and formatted as text here."""

import datetime
import importlib.metadata
import os
import platform
import zipfile
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from hsproto import config as config_lib
from hsproto import geometry
from hsproto.errors import UserError
from hsproto.metrics import LONG_TAIL, METRICS, defined, format_number
from hsproto.models import architecture
from hsproto.runs import config_file
from hsproto.runs.files import (
    check_all,
    check_types,
    is_number,
    read_json,
    to_json,
    write_npz,
    write_text,
)


def format_table(summary: dict) -> str:
    """Return accuracy and geometry of a summary.json as a text table, next to the optimum."""
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


def format_cell(value: float | None) -> str:
    """Return a metric's value as text of nine characters; a dash if it is undefined."""
    return f"{format_number(value):>9}"


def read_summary(workdir: str) -> dict:
    """Return a run's summary.json. Raise UserError if it is missing or damaged."""
    path = os.path.join(workdir, "summary.json")
    if not os.path.isfile(path):
        raise UserError(f"{workdir}: no finished run there (no summary.json)")
    summary = read_json(path)
    check_types(path, summary, {"step": int, "test": dict, "train": dict, "config": dict})
    check_types(path, summary["config"], config_file.TYPES)
    for place in ("test/*", "train/*"):
        check_all(path, summary, place, lambda value: value is None or is_number(value))
    return summary


def read_prototypes(workdir: str) -> dict[str, np.ndarray]:
    """Return the arrays of a run's prototypes.npz. Raise UserError if it is missing or damaged."""
    path = os.path.join(workdir, "prototypes.npz")
    if not os.path.isfile(path):
        raise UserError(f"{workdir}: no finished run there (no prototypes.npz)")
    try:
        with np.load(path) as stored:
            return {name: stored[name] for name in ("prototypes", "class_means", "class_names")}
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged ({error})") from None


def summarize(
    config: ConfigDict, step: int, evaluation: Any, mesh: Any, images_per_second: float | None
) -> dict:
    """Return the content of summary.json for an `evaluation.evaluator.Evaluation`."""
    return {
        "step": step,
        **evaluation.metrics,
        **({"per_class": evaluation.per_class} if evaluation.per_class else {}),
        "config": config.to_dict(),
        "versions": versions(),
        "devices": f"{mesh.size} x {mesh.devices.flat[0].device_kind}",
        "images_per_second": images_per_second,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide what a run computes."""
    packages = ("hsproto", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    return {"python": platform.python_version()} | {name: _version(name) for name in packages}


def write_results(workdir: str, summary: dict, evaluation: Any, class_names: Sequence[str]) -> None:
    """Write prototypes.npz and, last, summary.json, which marks a run as finished."""
    arrays = {
        "prototypes": evaluation.prototypes,
        "class_means": evaluation.class_means,
        "class_names": list(class_names),
    }
    write_npz(os.path.join(workdir, "prototypes.npz"), arrays)
    write_text(os.path.join(workdir, "summary.json"), to_json(summary, indent=1))


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def dimensions(run: Any) -> int | None:
    """Return the D of a run's geometry; None if its network is unknown to this version."""
    config = SimpleNamespace(**config_lib.with_defaults(run.config))
    try:
        return architecture.output_dim(config)
    except (AttributeError, KeyError):
        return None


def has_simplex(run: Any) -> bool:
    """Return whether a run has enough dimensions for its classes to form a simplex."""
    dim = dimensions(run)
    return dim is None or dim >= (run.config.get("num_classes") or 0) - 1


def optimum(run: Any) -> dict[str, float | None]:
    """Return each metric's value at collapse, accuracies included; None if it has none."""
    classes = run.config.get("num_classes") or 0
    if classes < 1:
        return {}
    best = geometry.optimum(classes, dimensions(run))
    return {"accuracy": 1.0, "accuracy_class_means": 1.0} | best
