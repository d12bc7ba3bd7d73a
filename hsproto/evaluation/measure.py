"""What feature files measure: all measures beside their optimum, and a verdict in words."""

import contextlib
import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from hsproto import geometry
from hsproto import verdict as verdict_lib
from hsproto.data.features import read_features
from hsproto.errors import UserError
from hsproto.evaluation import blockwise
from hsproto.evaluation.blockwise import Measured
from hsproto.metrics import METRICS, format_number

MAX_CLASSES = 25_000  # all are compared with each other: a matrix of these takes 2.5 GB
MAP_ROWS = 3000  # rows of the two-dimensional map

_SPREAD = "spread within classes over that between"


class Report(NamedTuple):
    """What is told about feature files.

    Attributes:
        name: Of the files.
        train: What the features measure.
        test: What those of the test set measure, or None.
        optimum: Of each measure for as many classes as have features, or None where there is none.
        class_names: K names.
        prototypes: [K, D], or None.
        points: Some rows [P, D], spread evenly over the test set, or else over the features.
        point_labels: Their labels [P].
        notes: What was taken otherwise than it stands in the files.
    """

    name: str
    train: Measured
    test: Measured | None
    optimum: dict[str, float | None]
    class_names: tuple[str, ...]
    prototypes: np.ndarray | None
    points: np.ndarray
    point_labels: np.ndarray
    notes: list[str]


def measure(paths: Sequence[str]) -> Report:
    """Measure the features in files; see `data.features.read_features`.

    Raises:
        UserError: For files that cannot be used.
    """
    with contextlib.ExitStack() as files:
        found = read_features(paths, files)
        classes, dim = len(found.class_names), found.train.shape[1]
        if classes > MAX_CLASSES:
            raise UserError(
                f"{found.train.name} are of {classes} classes: at most {MAX_CLASSES} can be "
                "compared with each other; take the rows of some"
            )
        train = blockwise.measure(found.train, classes, found.prototypes, found.bias)
        test = None
        if found.test is not None:
            test = blockwise.measure(
                found.test, classes, found.prototypes, found.bias, class_means=train.means
            )
        points, labels = _some(found.test or found.train)
    return Report(
        ", ".join(os.path.basename(os.path.normpath(path)) for path in paths),
        train,
        test,
        {"accuracy": 1.0, "accuracy_class_means": 1.0, "spread_ratio": 0.0}
        | geometry.optimum(max(1, int(train.measures["classes_counted"])), dim),
        found.class_names,
        found.prototypes,
        points,
        labels,
        found.notes,
    )


def _some(rows):
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MAP_ROWS)).astype(int))
    return np.concatenate([rows.read(i, i + 1) for i in chosen]), rows.labels[chosen]


def verdict(report: Report) -> list[str]:
    """Return sentences that say how collapsed the features are."""
    measures = report.train.measures
    classes, dim = int(measures["classes_counted"]), report.train.means.shape[1]
    if classes < 2:
        return ["Rows of a single class: there is nothing to compare."]
    if report.train.counts.max() < 2:
        return ["Every class has a single row: whether rows of a class collapse cannot be told."]
    if math.isnan(measures["spread_ratio"]):
        return ["All rows are the same: there is nothing to compare."]
    lines = [
        verdict_lib.collapse(
            *(measures[key] for key in ("erank_inter", "nc2_equiangular", "spread_ratio")),
            classes,
            dim,
        ),
        *filter(None, [verdict_lib.no_room(classes, dim)]),
    ]
    if "class_alignment" in measures:
        cosine = 1 - measures["class_alignment"] / 2
        lines.append(
            f"Prototypes and class means point the same way to a mean cosine of {cosine:.2f}."
        )
    of, tested = ("test", report.test) if report.test else ("given", report.train)
    right = tested.measures["accuracy_class_means"]
    text = f"The nearest class mean is right for {100 * right:.1f} % of the {of} rows"
    if "accuracy" in tested.measures:
        text += f", the prototypes for {100 * tested.measures['accuracy']:.1f} %"
    return [*lines, f"{text}."]


def table(report: Report) -> list[tuple[str, str, list[float | None]]]:
    """Return rows of (key, meaning, values): of the features, of the test set if any, optimum."""
    rows = []
    for key, value in report.train.measures.items():
        meaning = METRICS[key].meaning if key in METRICS else _SPREAD
        if key == "classes_counted":
            meaning = "classes with rows"
        values = [value, *([report.test.measures[key]] if report.test else [])]
        rows.append((key, meaning, [*values, report.optimum.get(key)]))
    return rows


def columns(report: Report) -> list[str]:
    """Return the heads of the columns of `table`."""
    return ["features", *(["test"] if report.test else []), "optimum"]


def format_report(report: Report) -> str:
    """Return notes, table and verdict as text."""
    rows, dim = int(report.train.counts.sum()), report.train.means.shape[1]
    head = f"{report.name}: {rows} rows of {dim} features, {len(report.class_names)} classes"
    lines = [*(f"note: {note}" for note in report.notes), head]
    lines.append(f"{'':<68}" + "".join(f"{name:>11}" for name in columns(report)))
    for key, meaning, values in table(report):
        lines.append(f"{f'{key:<23} {meaning}':<68}" + "".join(f"{c:>11}" for c in cells(values)))
    return "\n".join([*lines, "", *verdict(report)])


def content(report: Report) -> dict[str, Any]:
    """Return what measure.json holds."""
    parts = {"train": report.train, "test": report.test}
    return {
        "name": report.name,
        "rows": {name: int(m.counts.sum()) for name, m in parts.items() if m},
        "dimensions": report.train.means.shape[1],
        "class_names": list(report.class_names),
        "verdict": verdict(report),
        "notes": report.notes,
        **{name: m.measures for name, m in parts.items() if m},
        "optimum": report.optimum,
        "within_class_spectrum": report.train.within.tolist(),
    }


def cells(values: Sequence[float | None]) -> list[str]:
    """Return values as text; a dash where there is none."""
    return [format_number(value) for value in values]
