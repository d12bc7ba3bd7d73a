"""Pictures that hold runs against each other, loss by loss: `figures(runs)`.

Each is made only where runs have what it shows, for every comparison that `peers` finds:

- dynamics: measures of collapse on the training set over the share of training (paper Figure 2)
- convergence: the share of training until measures are at 95 % of collapse (paper Table 7)
- phase: test accuracy over temperature and batch size (paper Figure 3)
- cosines: cosine matrices of the prototypes
- classes: test accuracy by class, of imbalanced training sets

Values are means over seeds. What is undefined or not measured is left out.
"""

import json
import math
import os
import re
import textwrap
from types import SimpleNamespace

import numpy as np

from hsproto import architecture, convergence, drawing, geometry, peers
from hsproto import runs as runs_lib
from hsproto import state as state_lib

# In the order of the panels, with their titles and whether they fall towards 0.
DYNAMICS = {
    "instance_alignment": ("instance alignment", True),
    "weight_alignment": ("weight alignment", True),
    "nc1": ("NC1", True),
    "erank_inter": ("effective rank of the class means", False),
    "erank_weights": ("effective rank of the prototypes", False),
    "cosine_prototypes_mean": ("mean cosine between prototypes", False),
}
CONVERGENCE = {
    "instance_alignment": "instance alignment",
    "weight_alignment": "weight alignment",
    "erank_weights": "rank of prototypes",
    "erank_intra": "rank within classes",
    "erank_inter": "rank of class means",
}
# Where those that never converge stand, on an axis of which 100 is the end of training.
NEVER = 128
# With more classes than this, accuracy is shown of neighbours together.
MOST_CLASSES = 20


def figures(runs):
    """Yields (file name without ending, figure) of every picture that `runs` have something for."""
    for kind, draw, found in (
        ("dynamics", dynamics, peers.find(runs)),
        ("convergence", converging, peers.find(runs)),
        ("phase", phase, peers.grids(runs)),
        ("cosines", cosines, peers.find(runs)),
        ("classes", classes, peers.find(runs)),
    ):
        for name, comparison in _named(found):
            figure = draw(comparison)
            if figure is not None:
                yield f"{kind}_{name}", figure


def dynamics(comparison):
    """Measures of collapse on the training set over the share of training; None without any.

    A line a loss, the mean over seeds at each evaluation, in a band from the least to the most.
    """
    curves = {
        measure: {
            loss: points
            for loss, runs in comparison.by_loss.items()
            if len(points := curve(runs, measure, positive=DYNAMICS[measure][1]))
        }
        for measure in DYNAMICS
    }
    curves = {measure: found for measure, found in curves.items() if found}
    if not curves:
        return None
    figure, axes = drawing.panels(len(curves), 3, 3.8, 2.7, margin=1.3)
    for axis, (measure, found) in zip(axes, curves.items(), strict=True):
        title, falls = DYNAMICS[measure]
        for loss, (share, mean, low, high) in found.items():
            look = drawing.look(loss)
            axis.plot(
                share, mean, color=look.color, marker=look.marker, markersize=4.5, linewidth=1.5,
                markevery=max(1, len(share) // 8), label=look.name,
            )  # fmt: skip
            axis.fill_between(share, low, high, color=look.color, alpha=0.18, linewidth=0)
        _guides(axis, comparison, measure, falls)
        # A log axis has no place for it.
        axis.set_title(f"{title} (optimum 0)" if falls else title, fontsize=10.5)
        axis.set(xlim=(0, 102), xlabel="share of training, %")
        axis.grid(alpha=0.25)
        if falls:
            drawing.log_scale(axis)
    _title(figure, comparison, "geometry of the training set")
    shown = [loss for loss in comparison.by_loss if any(loss in c for c in curves.values())]
    drawing.legend(figure, [*_loss_handles(comparison, shown), *_guide_handles()])
    return figure


def curve(runs, measure, positive=False):
    """(share of training in %, mean, least, most) of a measure over runs, [N] each, or ().

    positive: values that are not above 0 are left out, as what is not finite is.
    """
    at = {}
    for run in runs:
        total = _total_steps(run)
        steps, values = convergence.series(run.records, measure)
        for step, value in zip(steps, values, strict=True):
            if math.isfinite(value) and (value > 0 or not positive):
                at.setdefault(100 * step / total, []).append(value)
    if not at:
        return ()
    shares = sorted(at)
    return (
        np.array(shares),
        *(np.array([of(at[s]) for s in shares]) for of in (np.mean, min, max)),
    )


def converging(comparison):
    """Share of training until measures stay at 95 % of collapse; None where nothing was measured.

    A panel a measure, a row a loss, a small mark a seed; those that never get there stand in a
    column of their own.
    """
    found = {measure: {} for measure in CONVERGENCE}
    for loss, runs in comparison.by_loss.items():
        for measure in CONVERGENCE:
            if shares := convergence_shares(runs, measure):
                found[measure][loss] = shares
    found = {measure: shares for measure, shares in found.items() if shares}
    if not found:
        return None
    losses = [loss for loss in comparison.by_loss if any(loss in s for s in found.values())]
    figure, axes = drawing.panels(len(found), 5, 2.4, 0.36 * len(losses) + 0.3, sharey=True)
    for axis, (measure, shares) in zip(axes, found.items(), strict=True):
        axis.axvspan(100, NEVER * 2 - 100, color="0.92", linewidth=0)
        for row, loss in enumerate(losses):
            if loss in shares:
                _convergence_row(axis, row, drawing.look(loss), shares[loss])
            else:
                axis.text(4, row, "not measured", va="center", fontsize=8, color="0.4")
        axis.set_title(CONVERGENCE[measure], fontsize=10.5)
        axis.set(xlim=(0, NEVER * 2 - 100), ylim=(len(losses) - 0.5, -0.5))
        axis.set_xticks([0, 50, 100, NEVER], ["0", "50", "100", "never"], fontsize=9)
        axis.set_yticks(range(len(losses)), [drawing.look(loss).name for loss in losses])
        axis.grid(axis="x", alpha=0.25)
    note = "small marks: seeds, <: by the first evaluation"
    figure.supxlabel(f"share of training, % ({note})", fontsize=10)
    _title(figure, comparison, "share of training until the geometry is at 95 % of collapse")
    return figure


def convergence_shares(runs, measure):
    """[(share of training in %, or None for never, whether by the first evaluation)] of runs.

    Those that are not finished, or where it was never measured, are left out.
    """
    shares = []
    for run in runs:
        if run.summary is None or not len(convergence.series(run.records, measure)[0]):
            continue
        classes, dim, images = _sizes(run)
        threshold = convergence.collapse_thresholds(classes, dim, images)[measure]
        # Decay and tolerance are the defaults of the command `hsproto.convergence`.
        found = convergence.converged(
            run.records, run.summary["step"], {measure: threshold}, decay=0.5, tolerance=0.01
        )[measure]
        shares.append((found["share"], found["by_first"]))
    return shares


def _convergence_row(axis, row, look, shares):
    reached = [share for share, _ in shares if share is not None]
    never = len(shares) - len(reached)
    style = dict(color=look.color, marker=look.marker, linestyle="none")
    if never:
        axis.plot([NEVER], [row], **style, markersize=7)
        if reached:
            text = f"{never} of {len(shares)}"
            axis.text(NEVER, row - 0.2, text, ha="center", va="bottom", fontsize=8)
    if not reached:
        return
    mean = np.mean(reached)
    axis.hlines(row, 0, mean, color=look.color, linewidth=1.2, alpha=0.6)
    if len(reached) > 1:
        axis.plot(reached, [row] * len(reached), **style, markersize=3, alpha=0.5)
    axis.plot([mean], [row], **style, markersize=7)
    first = "<" if all(by_first for share, by_first in shares if share is not None) else ""
    side = 1 if mean < 60 else -1
    place = max(reached) + 7 if side > 0 else min(reached) - 7
    align = "left" if side > 0 else "right"
    axis.text(place, row - 0.08, f"{first}{mean:.0f}", ha=align, va="bottom", fontsize=8.5)


def phase(comparison):
    """Test accuracy over temperature and batch size, a panel a loss; cells without a run hatched.

    The best cell of a panel is printed in bold.
    """
    of_losses = {loss: accuracies(runs) for loss, runs in comparison.by_loss.items()}
    of_losses = {loss: cells for loss, cells in of_losses.items() if cells}
    if not of_losses:
        return None
    plt, colors = drawing.matplotlib()
    points = {point for cells in of_losses.values() for point in cells}
    temperatures, batches = (sorted({point[i] for point in points}) for i in (0, 1))
    values = [value for cells in of_losses.values() for value in cells.values()]
    norm = colors.Normalize(min(values), max(max(values), min(values) + 1e-6))
    width, height = 0.52 * len(batches) + 0.9, 0.34 * len(temperatures) + 0.4
    figure, axes = drawing.panels(
        len(of_losses), 3, max(width, 2.6), height, margin=1.2, sharex=False, sharey=True
    )
    for axis, (loss, cells) in zip(axes, of_losses.items(), strict=True):
        grid = np.full((len(temperatures), len(batches)), np.nan)
        for (temperature, batch), value in cells.items():
            grid[temperatures.index(temperature), batches.index(batch)] = value
        axis.patch.set(facecolor="0.93", hatch="////", edgecolor="0.7", linewidth=0)
        edges = [np.arange(size + 1) - 0.5 for size in (len(batches), len(temperatures))]
        mesh = axis.pcolormesh(*edges, np.ma.masked_invalid(grid), norm=norm, cmap="cividis")
        for (row, column), value in np.ndenumerate(grid):
            if np.isfinite(value):
                axis.text(
                    column, row, f"{value:.1f}", ha="center", va="center", fontsize=8.5,
                    color="white" if norm(value) < 0.55 else "black",
                    fontweight="bold" if value == np.nanmax(grid) else "normal",
                )  # fmt: skip
        axis.set_title(drawing.look(loss).name, fontsize=10.5)
        axis.set_xticks(range(len(batches)), batches)
        axis.set_yticks(range(len(temperatures)), [f"{t:g}" for t in temperatures])
    figure.supxlabel("batch size", fontsize=10)
    figure.supylabel("temperature", fontsize=10)
    figure.colorbar(mesh, ax=axes, label="test accuracy, %", fraction=0.04, pad=0.02)
    _title(figure, comparison, "temperature and batch size, the best of each loss in bold")
    return figure


def accuracies(runs):
    """{(temperature, batch size): mean test accuracy in %} of finished runs."""
    found = {}
    for run in runs:
        accuracy = run.summary["test"].get("accuracy")
        if accuracy is not None and math.isfinite(accuracy):
            found.setdefault((run.config["temperature"], run.config["batch_size"]), []).append(
                100 * accuracy
            )
    return {point: float(np.mean(values)) for point, values in found.items()}


def cosines(comparison):
    """Cosine matrices of the prototypes, a panel a loss, white at the simplex's -1/(K-1).

    Of each loss the run with the seed of the first; None where no prototypes were kept. The scale
    ends where 99 % of the cosines do, and the diagonal is grey: with many classes all of them are
    close to -1/(K-1).
    """
    found = {}
    for loss, runs in comparison.by_loss.items():
        kept = [run for run in runs if _has_prototypes(run)]
        if kept:
            seed = next(iter(found.values()), kept)[0].config.get("seed")
            found[loss] = [next((r for r in kept if r.config.get("seed") == seed), kept[0])]
    arrays = {loss: runs_lib.read_prototypes(run.workdir) for loss, (run,) in found.items()}
    arrays = {loss: array for loss, array in arrays.items() if len(array["prototypes"]) > 1}
    if not arrays:
        return None
    plt, colors = drawing.matplotlib()
    of_losses = {loss: _between_classes(array["prototypes"]) for loss, array in arrays.items()}
    target = -1 / (len(next(iter(of_losses.values()))) - 1)
    offsets = np.concatenate([np.abs(cosine - target).ravel() for cosine in of_losses.values()])
    reach = max(0.1, np.nanpercentile(offsets, 99))
    norm = colors.Normalize(target - reach, target + reach)
    width, height = (6.0, 4.5) if len(of_losses) == 1 else (3.2, 3.0)
    figure, axes = drawing.panels(len(of_losses), 4, width, height)
    cmap = plt.get_cmap("RdBu_r").with_extremes(bad="0.6")
    for axis, (loss, cosine) in zip(axes, of_losses.items(), strict=True):
        image = axis.imshow(cosine, norm=norm, cmap=cmap, interpolation="nearest")
        spread = f"{np.nanmean(cosine):.3f} ± {np.nanstd(cosine):.3f}"
        axis.set_title(f"{drawing.look(loss).name}\n{spread}", fontsize=10)
        first = axis.get_subplotspec().is_first_col()
        _class_ticks(axis, [str(name) for name in arrays[loss]["class_names"]], first)
    figure.colorbar(
        image, ax=axes, extend="both", shrink=0.85, fraction=0.05, pad=0.02, label="cosine"
    )
    _title(figure, comparison, f"cosines of prototypes, white at the simplex's {target:.3f}")
    return figure


def _between_classes(prototypes):
    lengths = np.maximum(np.linalg.norm(prototypes, axis=1, keepdims=True), 1e-30)
    directions = np.asarray(prototypes / lengths, float)
    cosine = directions @ directions.T
    np.fill_diagonal(cosine, np.nan)
    return cosine


def _class_ticks(axis, names, named):
    axis.set(xticks=[], yticks=[])
    if len(names) > MOST_CLASSES:
        axis.set_xlabel(f"{len(names)} classes")
    elif named:
        axis.set_yticks(range(len(names)), _short(names), parse_math=False, fontsize=8)


def _short(names):
    return [name if len(name) <= 12 else f"{name[:11]}…" for name in map(str, names)]


def classes(comparison):
    """Test accuracy by class over bars of the training images; None without an imbalanced set.

    Classes by their training images, most first; with over MOST_CLASSES of them the mean of each
    few neighbours.
    """
    found = {}
    for loss, runs in comparison.by_loss.items():
        several = [run for run in runs if run.summary and run.summary.get("per_class")]
        if several:
            found[loss] = several
    if not found:
        return None
    first = next(iter(found.values()))[0]
    counts = _sorted_classes(first)[0]
    together = math.ceil(len(counts) / MOST_CLASSES)
    figure, (axis,) = drawing.panels(1, 1, 9, 4, margin=1.0)
    bars = axis.twinx()
    places = np.arange(1.0, len(counts) + 1)
    bars.bar(places, counts, color="0.9", width=0.94)
    bars.set_ylabel("training images (bars)")
    drawing.log_scale(bars)
    axis.set_zorder(bars.get_zorder() + 1)
    axis.patch.set_visible(False)
    for number, (loss, runs) in enumerate(found.items()):
        look = drawing.look(loss)
        values = np.array([_of_neighbours(_sorted_classes(run)[1], together) for run in runs])
        # Side by side, so that what spans the seeds of one loss does not cover another's.
        place = _of_neighbours(places, together)
        place += together * 0.11 * (number - (len(found) - 1) / 2)
        some = np.isfinite(values).any(axis=0)
        values, place = values[:, some], place[some]
        mean, low, high = (of(values, axis=0) for of in (np.nanmean, np.nanmin, np.nanmax))
        axis.errorbar(
            place, mean, (mean - low, high - mean), color=look.color, marker=look.marker,
            markersize=5, linewidth=0.8, elinewidth=1.2,
        )  # fmt: skip
    axis.set(ylabel="test accuracy, %", ylim=(0, 100), xlim=(0.4, len(counts) + 0.6))
    also = f", means of {together} neighbours" if together > 1 else ""
    axis.set_xlabel(f"classes by training images, most first{also}")
    _name_classes(axis, first)
    axis.grid(axis="y", alpha=0.25)
    _title(figure, comparison, "test accuracy by class, mean over seeds, worst to best")
    drawing.legend(figure, _loss_handles(comparison, list(found)))
    return figure


def _name_classes(axis, run):
    """The classes' names, most images first, where there are few enough and they are known."""
    counts = np.array(run.summary["per_class"]["train_images"])
    if len(counts) > MOST_CLASSES or not _has_prototypes(run):
        return
    names = _short(runs_lib.read_prototypes(run.workdir)["class_names"])
    order = np.argsort(-counts, kind="stable")
    names = [names[i] for i in order]
    turn = 45 if max(map(len, names)) * len(names) > 90 else 0
    axis.set_xticks(range(1, len(names) + 1), names, parse_math=False, rotation=turn)


def _has_prototypes(run):
    return os.path.isfile(os.path.join(run.workdir, "prototypes.npz"))


def _sorted_classes(run):
    """(training images [K], test accuracy in % [K]) of the classes, most images first."""
    per_class = run.summary["per_class"]
    counts = np.array(per_class["train_images"])
    order = np.argsort(-counts, kind="stable")
    return counts[order], 100 * np.array(per_class["test_accuracy"], float)[order]


def _of_neighbours(values, together):
    """Means of each `together` values that stand side by side; of those that are defined."""
    parts = [values[start : start + together] for start in range(0, len(values), together)]
    parts = [part[np.isfinite(part)] for part in parts]
    return np.array([part.mean() if len(part) else np.nan for part in parts])


def _named(found):
    """Yields (file name, comparison): the data set, and what sets it off the others on that."""
    names = {}
    for comparison in found:
        peers_there = [other for other in found if other.data == comparison.data]
        words = [comparison.data]
        for key in _telling([peer.settings for peer in peers_there]):
            if key in comparison.settings:
                words += [key, _shown(comparison.settings[key])]
        name = re.sub(r"[^A-Za-z0-9.]+", "_", "_".join(words)).strip("._")[:100] or "data"
        same = names[name.lower()] = names.get(name.lower(), 0) + 1
        yield f"{name}__{same}" if same > 1 else name, comparison


def _telling(settings):
    """As few keys as tell all of the settings apart; the later ones are left out first."""
    keys = sorted({key for values in settings for key in values})
    for key in reversed(keys):
        fewer = [other for other in keys if other != key]
        if len({json.dumps([values.get(k) for k in fewer]) for values in settings}) == len(
            settings
        ):
            keys = fewer
    return keys


def _shown(value):
    if isinstance(value, list | tuple):
        return "/".join(map(_shown, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value) or "none"


def _title(figure, comparison, what):
    settings = [f"{key}={_shown(value)}" for key, value in comparison.settings.items()]
    lines = [f"{comparison.data}: {what}", ", ".join(settings)]
    if comparison.also:
        lines.append(f"losses also differ in {', '.join(comparison.also)}")
    letters = int(13 * figure.get_figwidth())
    lines = [part for line in lines for part in textwrap.wrap(line, letters)]
    figure.suptitle(drawing.plain("\n".join(lines)), fontsize=11)


def _guides(axis, comparison, measure, falls):
    """A dashed line at the optimum and a dotted one at 95 % of collapse."""
    sizes = [_sizes(run) for runs in comparison.by_loss.values() for run in runs]
    sizes = {(classes, dim) for classes, dim, _ in sizes if classes >= 2}
    thresholds = {convergence.collapse_thresholds(*size, 2).get(measure) for size in sizes}
    optima = {geometry.optimum(*size)[measure] for size in sizes} - {None}
    for values, style in ((thresholds - {None}, ":"), (optima - {0.0} if falls else optima, "--")):
        for value in values:
            # Not axhline, which makes no room for itself.
            axis.plot([0, 102], [value] * 2, color="0.35", linestyle=style, linewidth=1.3)


def _loss_handles(comparison, losses):
    from matplotlib.lines import Line2D

    handles = []
    for loss in losses:
        runs, look = comparison.by_loss[loss], drawing.look(loss)
        seeds = len({run.config.get("seed") for run in runs})
        running = sum(run.summary is None for run in runs)
        name = f"{look.name}, {seeds} seed{'s' if seeds > 1 else ''}"
        name += f" ({running} unfinished)" if running else ""
        handles.append(Line2D([], [], color=look.color, marker=look.marker, label=name))
    return handles


def _guide_handles():
    from matplotlib.lines import Line2D

    looks = {"optimum": "--", "95 % of collapse": ":"}
    return [Line2D([], [], color="0.35", linestyle=s, label=name) for name, s in looks.items()]


def _total_steps(run):
    if run.summary is not None:
        return run.summary["step"]
    return state_lib.total_steps(SimpleNamespace(**runs_lib.settings(run)))


def _sizes(run):
    """Classes, dimensions of what the geometry is of, and images a class of a run."""
    config = SimpleNamespace(**runs_lib.settings(run))
    projected = config.projection != "none"
    dim = config.projection_dim if projected else architecture.feature_dim(config)
    return config.num_classes, dim, config.num_examples / max(config.num_classes, 1)
