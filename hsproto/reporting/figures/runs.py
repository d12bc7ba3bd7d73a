"""Pictures of runs: cosine matrices and training curves of one, comparisons of several."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hsproto.metrics import METRICS
from hsproto.reporting.directions import cosines, of_some_classes, some_classes
from hsproto.reporting.figures import comparisons as comparison_figures
from hsproto.reporting.figures import style
from hsproto.runs.metrics_log import read_metrics
from hsproto.runs.run import Run
from hsproto.runs.summary import has_prototypes, read_prototypes

if TYPE_CHECKING:  # matplotlib is imported where it is used, see style.matplotlib
    from matplotlib.figure import Figure

# Of curves that stand in one panel.
_COLORS, _MARKERS = ("#4477dd", "#e0701b", "#2e9e5b", "#d03b4f"), ("o", "s", "^", "D")
FIGURES = ("cosines.png", "training.png")


def has_figures(out: str) -> bool:
    """Return whether a folder holds the pictures of a run, whole."""
    paths = [os.path.join(out, name) for name in FIGURES]
    return all(os.path.exists(path) and os.path.getsize(path) for path in paths)


def write_all(runs: Sequence[Run], out: str) -> list[str]:
    """Write the pictures that compare runs into the folder `out`, as PNG and as SVG.

    Returns:
        Their paths; only of pictures that the runs hold something for, see `comparisons`.
    """
    paths = []
    for name, figure in comparison_figures.figures(runs):
        os.makedirs(out, exist_ok=True)
        both = [os.path.join(out, f"{name}.{ending}") for ending in ("png", "svg")]
        style.save(figure, both)
        paths += both
    return paths


def write_figures(workdir: str, out: str, svg: bool = False) -> list[str]:
    """Write cosines.png and training.png of a run into the folder `out` and return their paths.

    Without a prototypes.npz there is no cosines.png.

    Args:
        workdir: The workdir of a finished run.
        out: An existing folder.
        svg: Whether to write them as SVG too.
    """
    figures = {
        "training.png": training_figure(read_metrics(os.path.join(workdir, "metrics.jsonl")))
    }
    if has_prototypes(workdir):
        figures["cosines.png"] = cosine_figure(read_prototypes(workdir))
    written = []
    for name, figure in sorted(figures.items()):
        paths = [os.path.join(out, name)]
        if svg:
            paths.append(os.path.join(out, name.replace(".png", ".svg")))
        style.save(figure, paths)
        written += paths
    return written


def cosine_figure(arrays: Mapping[str, np.ndarray]) -> "Figure":
    """Draw the cosine matrices of prototypes and class means, white at the simplex's -1/(K-1)."""
    _, colors = style.matplotlib()
    names = style.class_names(arrays["class_names"], 16)
    count = len(names)
    target = -1 / max(count - 1, 1)
    figure, axes = style.panels(2, 2, 5.5, 4.4, margin=0.8)
    # Two classes have their optimum at the end of the scale.
    norm = colors.TwoSlopeNorm(vcenter=max(target, -0.999), vmin=-1, vmax=1)
    panels = (("prototypes", "prototypes"), ("class_means", "class means (training set)"))
    panels = tuple((key, f"{title}{of_some_classes(count)}") for key, title in panels)
    for axis, (key, title) in zip(axes, panels, strict=True):
        matrix = cosines(arrays[key][some_classes(count)])
        image = axis.imshow(matrix, norm=norm, cmap="RdBu_r")
        between = matrix[~np.eye(len(matrix), dtype=bool)]
        if count > 1:
            spread = f"{between.mean():.4f} ± {between.std():.4f}, simplex {target:.4f}"
            title += f"\ncosine between classes {spread}"
        axis.set_title(title, fontsize=10.5)
        if count <= 20:
            turn = 90 if max(map(len, names)) > 2 else 0
            axis.set_xticks(range(count), names, rotation=turn, parse_math=False)
            axis.set_yticks(range(count), names, parse_math=False)
        if count <= 12:
            for (i, j), value in np.ndenumerate(matrix):
                # Dark at both ends of the scale, which is 0..1 once normalized.
                color = "white" if abs(norm(value) - 0.5) > 0.3 else "black"
                axis.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color=color)
    figure.colorbar(image, ax=axes, label="cosine", shrink=0.85)
    return figure


def training_figure(records: Sequence[Mapping[str, Any]]) -> "Figure":
    """Draw loss, accuracy and geometry over the steps of a metrics.jsonl."""
    figure, axes = style.panels(3, 3, 4.4, 3.1, margin=0.9)
    panels = (
        ("loss", False, {"loss": "training loss"}),
        ("accuracy", False, {
            "accuracy": "training batches",
            "train/accuracy": "training set, not augmented",
            "test/accuracy": "test set",
        }),
        ("distance from collapse, training set (optimum 0)", True, {
            f"train/{key}": METRICS[key].title
            for key in ("nc1", "weight_alignment", "instance_alignment", "nc2_equiangular")
        }),
    )  # fmt: skip
    for axis, (title, log, curves) in zip(axes, panels, strict=True):
        for number, (key, name) in enumerate(curves.items()):
            points = [(r["step"], r[key]) for r in records if r.get(key) is not None]
            if log:
                points = [(step, value) for step, value in points if value > 0]
            if points:
                # What is measured at evaluations has marks where it was.
                marker = _MARKERS[number] if "/" in key else None
                every = max(1, len(points) // 8)
                axis.plot(
                    *zip(*points, strict=True), label=name, color=_COLORS[number], linewidth=1.5,
                    marker=marker, markersize=4.5, markevery=every,
                )  # fmt: skip
        axis.set_title(title, fontsize=10.5)
        axis.set_xlabel("step")
        axis.grid(alpha=0.25)
        if axis.lines:
            if log:
                style.log_scale(axis)
            axis.legend(frameon=False, fontsize=9)
    return figure
