"""Pictures of runs: cosine matrices and training curves of one, comparisons of several."""

import os

import numpy as np

from hsproto.reporting.figures import comparisons as comparison_figures
from hsproto.reporting.figures import style
from hsproto.runs.metrics_log import read_metrics
from hsproto.runs.summary import read_prototypes

FIGURES = ("cosines.png", "training.png")


def has_figures(out):
    return all(os.path.exists(os.path.join(out, name)) for name in FIGURES)


def write_all(runs, out):
    """Writes the pictures that compare `runs`, a list of `run.Run`, into the folder `out`.

    PNG and SVG of each, and only those that the runs have something for; see `comparison_figures`.
    Returns their paths. Raises UserError where a run's prototypes.npz is damaged.
    """
    paths = []
    for name, figure in comparison_figures.figures(runs):
        os.makedirs(out, exist_ok=True)
        both = [os.path.join(out, f"{name}.{ending}") for ending in ("png", "svg")]
        style.save(figure, both)
        paths += both
    return paths


def write_figures(workdir, out, svg=False):
    """Writes cosines.png and training.png of a run into the folder `out`; returns their paths.

    svg: the same as SVG too.
    """
    figures = (
        cosine_figure(read_prototypes(workdir)),
        training_figure(read_metrics(os.path.join(workdir, "metrics.jsonl"))),
    )
    written = []
    for name, figure in zip(FIGURES, figures, strict=True):
        paths = [os.path.join(out, name)]
        if svg:
            paths.append(os.path.join(out, name.replace(".png", ".svg")))
        style.save(figure, paths)
        written += paths
    return written


def cosine_figure(arrays):
    """Cosine matrices of prototypes and class means, white at the simplex's -1/(K-1)."""
    plt, colors = style.matplotlib()
    names = [str(name) for name in arrays["class_names"]]
    count = len(names)
    target = -1 / max(count - 1, 1)
    figure, axes = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
    # Two classes have their optimum at the end of the scale.
    norm = colors.TwoSlopeNorm(vcenter=max(target, -0.999), vmin=-1, vmax=1)
    panels = (("prototypes", "prototypes"), ("class_means", "class means (training set)"))
    for axis, (key, title) in zip(axes, panels, strict=True):
        rows = arrays[key] / np.maximum(np.linalg.norm(arrays[key], axis=1, keepdims=True), 1e-30)
        cosines = rows @ rows.T
        image = axis.imshow(cosines, norm=norm, cmap="RdBu_r")
        between = cosines[~np.eye(count, dtype=bool)]
        if count > 1:
            spread = f"{between.mean():.4f} ± {between.std():.4f}, simplex {target:.4f}"
            title += f"\ncosine between classes {spread}"
        axis.set_title(title, fontsize=11)
        if count <= 20:
            names = [name if len(name) <= 16 else f"{name[:15]}…" for name in names]
            turn = 90 if max(map(len, names)) > 2 else 0
            axis.set_xticks(range(count), names, rotation=turn, parse_math=False)
            axis.set_yticks(range(count), names, parse_math=False)
        if count <= 12:
            for (i, j), value in np.ndenumerate(cosines):
                # Dark at both ends of the scale, which is 0..1 once normalised.
                color = "white" if abs(norm(value) - 0.5) > 0.3 else "black"
                axis.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color=color)
    figure.colorbar(image, ax=axes, label="cosine", shrink=0.85)
    return figure


def training_figure(records):
    """Loss, accuracy and geometry over the steps of a metrics.jsonl."""
    plt, _ = style.matplotlib()
    figure, axes = plt.subplots(1, 3, figsize=(14, 4.2), layout="constrained")
    panels = (
        ("loss", "linear", {"loss": "training loss"}),
        ("accuracy", "linear", {
            "accuracy": "training batches",
            "train/accuracy": "training set, not augmented",
            "test/accuracy": "test set",
        }),
        ("distance from collapse, training set", "log", {
            "train/nc1": "NC1",
            "train/weight_alignment": "weight alignment",
            "train/instance_alignment": "instance alignment",
            "train/nc2_equiangular": "NC2, equiangular",
        }),
    )  # fmt: skip
    for axis, (label, scale, curves) in zip(axes, panels, strict=True):
        for key, name in curves.items():
            points = [(r["step"], r[key]) for r in records if r.get(key) is not None]
            if scale == "log":
                points = [(step, value) for step, value in points if value > 0]
            if points:
                marker = "o" if "/" in key else None
                axis.plot(*zip(*points, strict=True), label=name, marker=marker, markersize=3)
        axis.set(xlabel="step", ylabel=label, yscale=scale)
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend()
    return figure
