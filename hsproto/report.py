"""Tables and pictures of finished runs.

python -m hsproto.report runs/digits runs/scl_digits --out=report
"""

import json
import math
import os
import warnings
import zipfile

import numpy as np

from hsproto import cli, geometry
from hsproto.errors import UserError
from hsproto.writer import read_metrics

FIGURES = ("cosines.png", "training.png")

# In the order in which a reader asks: is it right, is it collapsed, do prototypes and means agree,
# do they form a simplex. With what each metric tells, as the table prints it.
METRICS = {
    "accuracy": "share of images classified rightly",
    "accuracy_class_means": "the same by the nearest training class mean",
    "instance_alignment": "mean squared distance within a class",
    "weight_alignment": "mean squared distance image to prototype",
    "class_alignment": "squared distance prototype to class mean",
    "nc1": "within- over between-class scatter",
    "nc2_equinorm": "spread of the class means' lengths",
    "nc2_equiangular": "deviation of their angles from a simplex",
    "nc3": "distance of prototypes from class means",
    "nc4": "disagreement with the nearest class mean",
    "cdnv": "class-distance normalised variance",
    "erank_intra": "effective rank within classes",
    "erank_inter": "effective rank of the class means",
    "erank_weights": "effective rank of the prototypes",
    "cosine_means_mean": "cosine between class means, mean",
    "cosine_means_std": "cosine between class means, spread",
    "cosine_prototypes_mean": "cosine between prototypes, mean",
    "cosine_prototypes_std": "cosine between prototypes, spread",
    "mir": "mutual information ratio",
    "mir_gap": "the same, less its value at collapse",
    "mir_centered": "the same of centred prototypes",
    "hdr": "entropy difference ratio",
    "hdr_centered": "the same of centred prototypes",
}

# On imbalanced training sets, before the others: by the number of a class's training images, and
# with logits adjusted after training.
LONG_TAIL = {}
for _key in ("accuracy", "accuracy_class_means", "accuracy_adjusted"):
    LONG_TAIL |= {
        _key: METRICS.get(_key, "by logits adjusted after training"),
        f"{_key}_many": "the same, classes of over 100 images",
        f"{_key}_medium": "the same, classes of 20 to 100 images",
        f"{_key}_few": "the same, classes of under 20 images",
    }


def table(summary):
    """Accuracy and geometry of a summary.json's content beside the optimum, as text."""
    config = summary["config"]
    optimum = geometry.optimum(config["num_classes"])
    optimum = {"accuracy": 1.0, "accuracy_class_means": 1.0} | optimum
    name = f"{config['dataset']}, {config['loss']}, {config['embedding']}, step {summary['step']}"
    rows = [f"{name:<66}{'test':>9}{'train':>9}{'optimum':>9}"]
    for key, meaning in (LONG_TAIL | METRICS).items():
        values = [summary[split].get(key) for split in ("test", "train")]
        undefined = not any(value is not None and math.isfinite(value) for value in values)
        if undefined and not (key in LONG_TAIL and key in summary["test"]):
            continue
        cells = "".join(cell(v) for v in (*values, optimum.get(key)))
        rows.append(f"{f'{key:<23} {meaning}':<66}{cells}")
    return "\n".join(rows)


def markdown(runs):
    """A table of several runs' main figures, a row each: {name: summary}."""
    tested = {c for summary in runs.values() for c in summary["test"]}
    in_tail = [c for c in LONG_TAIL if c in tested and c not in METRICS]
    columns = ("accuracy", *in_tail, "nc1", "erank_inter", "erank_weights", "weight_alignment")
    columns += ("cosine_prototypes_mean", "mir_gap")
    lines = [
        "| run | loss | " + " | ".join(f"{c}" for c in columns) + " |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for name, summary in runs.items():
        values = [summary["test" if c.startswith("accuracy") else "train"].get(c) for c in columns]
        cells = " | ".join(cell(v).strip() for v in values)
        lines.append(f"| {name} | {summary['config']['loss']} | {cells} |")
    lines.append("")
    lines.append("Accuracy is on the test set, the geometry on the training set.")
    return "\n".join(lines) + "\n"


def has_figures(out):
    return all(os.path.exists(os.path.join(out, name)) for name in FIGURES)


def write_figures(workdir, out):
    """Writes cosines.png and training.png of a run into the folder `out`; returns their paths."""
    arrays = read_prototypes(workdir)
    paths = [os.path.join(out, name) for name in FIGURES]
    _save(paths[0], cosine_figure(arrays))
    _save(paths[1], training_figure(read_metrics(os.path.join(workdir, "metrics.jsonl"))))
    return paths


def cosine_figure(arrays):
    """Cosine matrices of prototypes and class means, white at the simplex's -1/(K-1)."""
    plt, colors = _matplotlib()
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
    plt, _ = _matplotlib()
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


def read_summary(workdir):
    """The content of a run's summary.json. Raises UserError where there is none."""
    path = os.path.join(workdir, "summary.json")
    if not os.path.isfile(path):
        raise UserError(f"{workdir}: no finished run there (no summary.json)")
    with open(path) as file:
        try:
            return json.load(file)
        except ValueError as error:
            raise UserError(f"{path} is damaged ({error})") from None


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


def cell(value):
    """A metric's value as text nine wide; what is undefined or has no optimum is a dash."""
    if value is None or not math.isfinite(value):
        return f"{'-':>9}"
    text = f"{value:.4f}" if abs(value) >= 1e-3 or value == 0 else f"{value:.1e}"
    return f"{text:>9}"


def _matplotlib():
    # Here rather than above, so that training pays for its import at the end and not the start.
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import colors, pyplot

    return pyplot, colors


def _save(path, figure):
    with warnings.catch_warnings():
        # Class names in scripts that the font lacks are drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(path, dpi=110, bbox_inches="tight")
    _matplotlib()[0].close(figure)


def main(argv):
    parser = cli.Parser(__doc__, prog="python -m hsproto.report")
    parser.add_argument("workdirs", nargs="+", metavar="DIR", help="the workdir of a finished run")
    parser.add_argument("--out", required=True, help="folder for report.md and the pictures")
    args = parser.parse_args(argv)
    runs = {workdir: read_summary(workdir) for workdir in args.workdirs}
    try:
        os.makedirs(args.out, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out={args.out} is no folder to write to: {error.strerror}") from None
    for number, (workdir, summary) in enumerate(runs.items()):
        out = os.path.join(args.out, f"{number:02d}_{os.path.basename(os.path.normpath(workdir))}")
        os.makedirs(out, exist_ok=True)
        print(table(summary), *write_figures(workdir, out), sep="\n", end="\n\n")
    path = os.path.join(args.out, "report.md")
    with open(path, "w") as file:
        file.write(markdown(runs))
    print(path)
    return 0


if __name__ == "__main__":
    cli.run(main)
