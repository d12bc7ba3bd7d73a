"""summary.json and prototypes.npz: written, read and formatted as text here."""

import datetime
import importlib.metadata
import os
import platform
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
from hsproto.runs import config_file, predictions_file, reading
from hsproto.runs.files import to_json, write_npz, write_text


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


_SPLIT = reading.Object(others=reading.MEASURE)
_SUMMARY = reading.Object(
    {
        "step": reading.POSITIVE,
        "test": _SPLIT,
        "train": _SPLIT,
        "config": reading.Object(),
        "per_class": reading.Object(
            {"train_images": reading.COUNTS},
            others=reading.MEASURES,
            required=("train_images", "test_accuracy"),
        ),
        "versions": reading.Object(others=reading.TEXT),
        "devices": reading.TEXT,
        "images_per_second": reading.MEASURE,
        "finished": reading.TEXT,
    },
    required=("step", "test", "train", "config"),
)


def read_summary(workdir: str) -> dict[str, Any]:
    """Return a run's summary.json.

    Raises:
        Unreadable: It is damaged, or a newer version's.
        UserError: It is missing.
    """
    path = os.path.join(workdir, "summary.json")
    if not os.path.lexists(path):
        raise UserError(f"{workdir}: no finished run there (no summary.json)")
    summary = reading.read_json(path, _SUMMARY)
    config_file.check(path, summary["config"], "config")
    classes = summary["config"]["num_classes"]
    for key, values in summary.get("per_class", {}).items():
        if len(values) != classes:
            raise reading.damaged(path, f"{'per_class/' + key!r} has {len(values)} classes")
    return summary


def has_prototypes(workdir: str) -> bool:
    return os.path.lexists(os.path.join(workdir, "prototypes.npz"))


def read_prototypes(workdir: str) -> dict[str, np.ndarray]:
    """Return the arrays of a run's prototypes.npz.

    Raises:
        Unreadable: It is damaged.
        UserError: It is missing.
    """
    path = os.path.join(workdir, "prototypes.npz")
    if not has_prototypes(workdir):
        raise UserError(f"{workdir}: no finished run there (no prototypes.npz)")
    arrays = reading.read_npz(path, ("prototypes", "class_means", "class_names"))
    names = arrays["class_names"]
    if names.ndim != 1 or names.dtype.kind != "U":
        raise reading.damaged(path, "'class_names' are not a list of texts")
    for name in ("prototypes", "class_means"):
        rows = arrays[name]
        if rows.ndim != 2 or len(rows) != len(names) or rows.dtype.kind != "f":
            reason = f"{name!r} are {rows.dtype} of shape {rows.shape}, of {len(names)} classes"
            raise reading.damaged(path, reason)
    return arrays


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
    """Write prototypes, predictions and, last, summary.json, which marks a run as finished."""
    arrays = {
        "prototypes": evaluation.prototypes,
        "class_means": evaluation.class_means,
        "class_names": list(class_names),
    }
    write_npz(os.path.join(workdir, "prototypes.npz"), arrays)
    predictions_file.write(workdir, summary["step"], evaluation.predictions)
    write_text(os.path.join(workdir, "summary.json"), to_json(summary, indent=1))


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def dimensions(run: Any) -> int:
    """Return the D of a run's geometry."""
    return architecture.output_dim(SimpleNamespace(**config_lib.with_defaults(run.config)))


def has_simplex(run: Any) -> bool:
    """Return whether a run has enough dimensions for its classes to form a simplex."""
    return dimensions(run) >= run.config["num_classes"] - 1


def optimum(run: Any) -> dict[str, float | None]:
    """Return each metric's value at collapse, accuracies included; None if it has none."""
    classes = run.config["num_classes"]
    if classes < 1:
        return {}
    best = geometry.optimum(classes, dimensions(run))
    return {"accuracy": 1.0, "accuracy_class_means": 1.0} | best
